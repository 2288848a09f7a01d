"""Real pretrained weights and checkpoints that carry their code; what tiny random models cannot show."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hfcap.models import (
    HfcapEncoderDecoderProcessor,
    HfcapLlavaForConditionalGeneration,
    HfcapLlavaProcessor,
    add_image_token,
    load_vision_encoder,
)
from tiny.parts import (
    BRIDGE,
    IMAGE_ID,
    LANGUAGE_MODEL_CONFIGS,
    build_encoder,
    build_encoder_decoder,
    build_image_processor,
    build_llava,
    build_tokenizer,
    random_images,
    random_words,
)

PRETRAINED = Path(__file__).parents[3] / "shared" / "models"
needs_pretrained = pytest.mark.skipif(not PRETRAINED.exists(), reason=f"no pretrained models in {PRETRAINED}")


@pytest.mark.parametrize("name", LANGUAGE_MODEL_CONFIGS)
@torch.no_grad()
def test_text_alone_gives_the_logits_of_the_language_model(name):
    language_model = AutoModelForCausalLM.from_config(LANGUAGE_MODEL_CONFIGS[name]()).eval()
    input_ids = random_words(2, 6)
    expected = language_model(input_ids=input_ids).logits
    model = HfcapLlavaForConditionalGeneration.from_parts(build_encoder("vit"), language_model, IMAGE_ID).eval()
    torch.testing.assert_close(model(input_ids=input_ids).logits, expected)


@needs_pretrained
@torch.no_grad()
def test_pretrained_parts_keep_speaking_and_seeing():
    encoder = load_vision_encoder(str(PRETRAINED / "mobilenet_v2_imagenet"))
    language_model = AutoModelForCausalLM.from_pretrained(PRETRAINED / "stories260k")
    tokenizer = AutoTokenizer.from_pretrained(PRETRAINED / "stories260k")
    images = torch.rand(1, 3, 224, 224) * 2 - 1
    input_ids = tokenizer("Once upon a time", return_tensors="pt")["input_ids"]
    seen, said = encoder(images).last_hidden_state, language_model(input_ids=input_ids).logits
    image_token_id = add_image_token(tokenizer)
    language_model.resize_token_embeddings(len(tokenizer))
    model = HfcapLlavaForConditionalGeneration.from_parts(encoder, language_model, image_token_id).eval()
    assert (model.config.image_seq_length, model.config.vision_hidden_size) == (49, 1280)
    assert model.lm_head.weight is model.get_input_embeddings().weight  # stories260k ties them
    features = model.get_vision_features(images)
    torch.testing.assert_close(features, seen.flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model(input_ids=input_ids).logits[..., :512], said)


_RELOAD = """
import sys
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
folder = sys.argv[1]
inputs, expected = torch.load(folder + "/expected.pt")
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert torch.equal(model.generate(**inputs, max_new_tokens=5), expected), "other tokens"
assert "hfcap" not in sys.modules
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llava", "encoder_decoder"])
def test_checkpoint_with_its_code_loads_without_this_package(family, tmp_path, monkeypatch):
    inputs = {"pixel_values": random_images(1)}
    if family == "llava":
        model = build_llava()
        processor = HfcapLlavaProcessor(build_image_processor(), build_tokenizer(), image_seq_length=16)
        inputs["input_ids"] = torch.tensor([[1, *[IMAGE_ID] * 16, 7]])
    else:
        model = build_encoder_decoder(**BRIDGE)
        processor = HfcapEncoderDecoderProcessor(build_image_processor(), build_tokenizer())
    # register_for_auto_class sets an attribute of the class: undone, the other tests save no code.
    for part in (model.config, model, processor):
        monkeypatch.setattr(type(part), "_auto_class", None)
    type(model.config).register_for_auto_class()
    type(model).register_for_auto_class("AutoModelForImageTextToText")
    type(processor).register_for_auto_class("AutoProcessor")
    folder = tmp_path / "checkpoint"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    torch.save((inputs, model.generate(**inputs, max_new_tokens=5)), folder / "expected.pt")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    subprocess.run([sys.executable, "-c", _RELOAD, str(folder)], check=True, cwd=tmp_path)
