"""The usage example of a card runs, and gives the caption that hfcap itself gives."""

import re
from importlib.util import find_spec

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTImageProcessorPil,
)

from hfcap.atomic_files import write_json
from hfcap.generation.caption import caption_rows
from hfcap.generation.inputs import keep_caption_prompt
from hfcap.hub.card import write_card
from hfcap.models import (
    HfcapEncoderDecoderModel,
    HfcapEncoderDecoderProcessor,
    HfcapLlavaForConditionalGeneration,
    HfcapLlavaProcessor,
)
from hfcap.models.model_types import MODEL_TYPES
from hfcap.predictions import write_predictions
from hfcap.provenance import run_record
from hfcap.runs import write_metrics
from tiny.native import build_native

WORDS = ["<pad>", "<bos>", "<eos>", "<unk>", "<image>", "\n", *(f"word{n}" for n in range(30))]
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": len(WORDS)}
SIZE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def _tokenizer():
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    split = pre_tokenizers.Split
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split("\n", "isolated"), split(" ", "removed")])
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, extra_special_tokens=["<image>"], **special)


def _llava(encoder, image_processor, tokenizer):
    decoder = AutoModelForCausalLM.from_config(LlamaConfig(**SIZE, **IDS, initializer_range=0.3))
    model = HfcapLlavaForConditionalGeneration.from_parts(encoder, decoder, image_token_id=4)
    model.generation_config.update(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    processor = HfcapLlavaProcessor(image_processor, tokenizer, image_seq_length=model.config.image_seq_length)
    return model, processor


def _encoder_decoder(encoder, image_processor, tokenizer):
    config = GPT2Config(n_embd=32, n_layer=1, n_head=2, **IDS, add_cross_attention=True, initializer_range=0.3)
    model = HfcapEncoderDecoderModel.from_parts(encoder, AutoModelForCausalLM.from_config(config))
    return model, HfcapEncoderDecoderProcessor(image_processor, tokenizer)


def _ours(model_type):
    torch.manual_seed(0)
    encoder = AutoModel.from_config(ViTConfig(**SIZE, image_size=32, patch_size=8, initializer_range=0.3))
    build = {"hfcap_llava": _llava, "hfcap_encoder_decoder": _encoder_decoder}[model_type]
    return build(encoder, ViTImageProcessorPil(size={"height": 32, "width": 32}), _tokenizer())


def _case(model_type, prompt):
    can_run = not MODEL_TYPES[model_type].needs_torchvision or (find_spec("torchvision") and find_spec("num2words"))
    skip = pytest.mark.skipif(not can_run, reason="its processor handles video as well: needs torchvision, num2words")
    return pytest.param(model_type, prompt, marks=skip)


@pytest.mark.parametrize(
    ("model_type", "prompt"),
    [_case(name, None) for name in MODEL_TYPES]
    + [_case(name, 'a "red" dot') for name, spec in MODEL_TYPES.items() if spec.prompt != "none"],
)
def test_the_usage_example_gives_the_caption_of_the_model(
    tmp_path, monkeypatch, capsys, scene_rows, model_type, prompt
):
    """For every row of the table of spec, with the settings that are shipped and in bfloat16 too."""
    monkeypatch.chdir(tmp_path)
    captions = [caption for captions in scene_rows["captions"] for caption in captions]
    model, processor = _ours(model_type) if model_type.startswith("hfcap_") else build_native(model_type, captions)
    model.eval().generation_config.update(max_new_tokens=6, min_new_tokens=6, num_beams=2)
    if prompt:
        keep_caption_prompt(processor, prompt)
    run = _judged_run(tmp_path / "run", model, processor)
    picture = scene_rows[0]["image"].convert("RGB")  # of the size that the model takes: torchvision rounds otherwise
    picture.save("PHOTO.png")

    text = write_card(run).read_text(encoding="utf-8").replace("PHOTO.jpg", "PHOTO.png")
    capsys.readouterr()
    snippet = re.search(r"```python\n(.*?)```", text, re.S)[1]
    assert max(map(len, snippet.splitlines())) < 120
    exec(snippet, {})
    (expected,) = caption_rows(model, processor, [{"image": picture}], prompt)
    assert expected
    assert capsys.readouterr().out.strip() == expected
    kind = MODEL_TYPES[model_type].prompt
    tag = "image-text-to-text" if prompt or kind == "chat" or model_type == "paligemma" else "image-to-text"
    assert yaml.safe_load(text.split("---\n")[1])["pipeline_tag"] == tag
    model.to(torch.bfloat16).save_pretrained(run / "model")
    exec(snippet, {})


def _judged_run(run, model, processor):
    for part in (model, processor):
        part.save_pretrained(run / "model")
    write_json(run / "run.json", run_record({"data": "scenes"}, seeds={}, data={}))
    write_predictions(run / "captions.jsonl", [{"image_id": "1", "caption": "a", "captions": ["b"]}])
    settings = {"num_images": 1, "tokenizer": "ptb", "idf": "references", "decoding": {}, "model_artifact": "model"}
    write_metrics(run / "metrics.json", {"cider": {"value": 0.5, "ci95": (0.4, 0.6)}}, **settings)
    return run
