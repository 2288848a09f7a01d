"""Captioners joined from parts: what is asked for of the parts is what the captioner gets."""

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from tiny import TINY_ENCODER, TINY_GPT2, TINY_LLAMA

from hfcap.training.arguments import CaptionTrainingArguments, ModelArguments
from hfcap.training.build import build_captioner, train_tokenizer
from tiny_training import loads_whole

VIT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ViTImageProcessorPil", {"size": {"height": 32, "width": 32}}),  # squeezes
        ("MobileNetV2ImageProcessorPil", {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}),
        ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_pct": 0.875}),  # crops by a share
    ],
)
def test_a_pretrained_encoder_sees_pictures_of_the_size_asked_for(name, settings, tmp_path):
    config = transformers.BitConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_groups=4, image_size=32)
    transformers.BitModel(config).save_pretrained(tmp_path)
    getattr(transformers, name)(**settings).save_pretrained(tmp_path)
    args = CaptionTrainingArguments(output_dir=str(tmp_path))
    captions = ["a dog runs", "a cat sleeps"] * 3
    shapes = {}
    for side in (None, 64):
        parts = {
            "encoder": str(tmp_path),
            "decoder_config": TINY_GPT2,
            "bridge_config": {"image_position_embeddings": True},
        }
        model, processor = build_captioner(
            ModelArguments(family="encoder_decoder", image_size=side, vocab_size=270, **parts), args, captions
        )
        inputs = processor(images=Image.new("RGB", (90, 60)), return_tensors="pt")
        with torch.no_grad():
            shapes[side] = tuple(model.get_vision_features(inputs["pixel_values"]).shape[1:])
            model(**inputs, decoder_input_ids=torch.tensor([[1]]))
        assert inputs["pixel_values"].shape[-2:] == (side or 32,) * 2
    assert shapes[64][0] == 4 * shapes[None][0]


@pytest.mark.parametrize("family", ["llava", "encoder_decoder"])
def test_pretrained_parts_train_in_float32_whatever_they_were_saved_in(family, tmp_path):
    tokenizer = train_tokenizer(["a dog runs", "a cat sleeps"] * 3, 270)
    decoder = TINY_LLAMA if family == "llava" else TINY_GPT2
    config = transformers.AutoConfig.for_model(**decoder, vocab_size=len(tokenizer))
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path / "decoder")
    tokenizer.save_pretrained(tmp_path / "decoder")
    encoder = transformers.AutoModel.from_config(transformers.ViTConfig(**VIT), dtype=torch.bfloat16)
    encoder.save_pretrained(tmp_path / "encoder")
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessorPil(size=size).save_pretrained(tmp_path / "encoder")
    parts = {"encoder": str(tmp_path / "encoder"), "decoder": str(tmp_path / "decoder")}
    args = CaptionTrainingArguments(output_dir=str(tmp_path))
    model, _ = build_captioner(ModelArguments(family=family, **parts), args, [])
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", ["llava", "encoder_decoder"])
@pytest.mark.parametrize(
    "encoder",
    [TINY_ENCODER, {"model_type": "vit", **VIT}, {"model_type": "dinov2", **VIT}],
    ids=lambda e: e["model_type"],
)
def test_a_checkpoint_is_loaded_whole_whatever_its_tensors_are_called(family, encoder, tmp_path):
    decoder = TINY_LLAMA if family == "llava" else TINY_GPT2
    parts = {"encoder_config": encoder, "decoder_config": decoder, "image_size": 32, "vocab_size": 270}
    args = CaptionTrainingArguments(output_dir=str(tmp_path))
    model, _ = build_captioner(ModelArguments(family=family, **parts), args, ["a dog runs", "a cat sleeps"] * 3)
    model.save_pretrained(tmp_path)
    renamed = set(load_file(tmp_path / "model.safetensors")) - set(model.state_dict())
    assert bool(renamed) == (encoder is not TINY_ENCODER)  # the names of the Hub's files are older
    assert loads_whole(model, tmp_path)
