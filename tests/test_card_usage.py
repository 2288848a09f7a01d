"""The usage example of a card runs, and gives the caption that hfcap itself gives."""

import re

import pytest
import torch
from PIL import Image
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

from hfcap.files import write_json
from hfcap.generation.caption import caption_rows
from hfcap.hub.card import write_card
from hfcap.models import (
    HfcapEncoderDecoderModel,
    HfcapEncoderDecoderProcessor,
    HfcapLlavaForConditionalGeneration,
    HfcapLlavaProcessor,
)
from hfcap.predictions import write_predictions
from hfcap.runs import run_record, write_metrics

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
    processor.caption_prompt = "word7 word8"
    return model, processor


def _encoder_decoder(encoder, image_processor, tokenizer):
    config = GPT2Config(n_embd=32, n_layer=1, n_head=2, **IDS, add_cross_attention=True, initializer_range=0.3)
    model = HfcapEncoderDecoderModel.from_parts(encoder, AutoModelForCausalLM.from_config(config))
    return model, HfcapEncoderDecoderProcessor(image_processor, tokenizer)


@pytest.mark.parametrize("build", [_llava, _encoder_decoder])
def test_the_usage_example_gives_the_caption_of_the_model(tmp_path, monkeypatch, capsys, build):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    encoder = AutoModel.from_config(ViTConfig(**SIZE, image_size=32, patch_size=8, initializer_range=0.3))
    model, processor = build(encoder, ViTImageProcessorPil(size={"height": 32, "width": 32}), _tokenizer())
    model.eval().generation_config.update(max_new_tokens=6, min_new_tokens=6, num_beams=1)
    run = tmp_path / "run"
    model.save_pretrained(run / "model")
    processor.save_pretrained(run / "model")
    write_json(run / "run.json", run_record({"data": "scenes"}, seeds={}, data={}))
    write_predictions(run / "captions.jsonl", [{"image_id": "1", "caption": "a", "captions": ["b"]}])
    settings = {"num_images": 1, "tokenizer": "ptb", "idf": "references", "decoding": {}, "model_artifact": "model"}
    write_metrics(run / "metrics.json", {"cider": {"value": 0.5, "ci95": (0.4, 0.6)}}, **settings)
    picture = Image.effect_noise((40, 30), 90).convert("RGB")
    picture.save("PHOTO.png")

    text = write_card(run).read_text(encoding="utf-8").replace("PHOTO.jpg", "PHOTO.png")
    capsys.readouterr()
    exec(re.search(r"```python\n(.*?)```", text, re.S)[1], {})
    (expected,) = caption_rows(model, processor, [{"image": picture}], getattr(processor, "caption_prompt", None))
    assert "word" in expected
    assert capsys.readouterr().out.strip() == expected
