"""Checkpoints whose tokenizer is a sentencepiece file alone, as LLaVA's, PaliGemma's and Gemma 3's first ones were."""

import json
import shutil
from itertools import chain

import pytest
from transformers import AutoTokenizer

from hfcap.generation.caption import caption_rows
from hfcap.generation.loading import load_captioner
from hfcap.training.collators import CaptionCollator
from tiny.native import PROMPT, build_native

sentencepiece = pytest.importorskip("sentencepiece", reason="needs sentencepiece (the extra test)")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory, scene_rows):
    """A sentencepiece model of 300 pieces, as its trainer writes it."""
    prefix = tmp_path_factory.mktemp("sentencepiece") / "tokenizer"
    texts = [*chain.from_iterable(scene_rows["captions"]), *[PROMPT] * 9, "ASSISTANT:"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(prefix),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    return prefix.with_suffix(".model")


@pytest.mark.parametrize(
    ("model_type", "tokenizer_class"), [("llava", "LlamaTokenizer"), ("paligemma", "GemmaTokenizer")]
)
def test_a_sentencepiece_file_alone_is_enough(vocabulary, model_type, tokenizer_class, scene_rows, tmp_path):
    model, processor = build_native(model_type, list(chain.from_iterable(scene_rows["captions"])) + [PROMPT] * 9)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    shutil.copy(vocabulary, tmp_path / "tokenizer.model")
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    special |= {"tokenizer_class": tokenizer_class, "additional_special_tokens": ["<image>"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(special))
    config = json.loads((tmp_path / "config.json").read_text())
    name = "image_token_index" if "image_token_index" in config else "image_token_id"
    config |= {name: AutoTokenizer.from_pretrained(tmp_path).convert_tokens_to_ids("<image>")}
    (tmp_path / "config.json").write_text(json.dumps(config))

    model, processor = load_captioner(str(tmp_path))
    own = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))
    for caption in scene_rows[0]["captions"]:
        targets = CaptionCollator(processor, model.config, PROMPT).whole_targets([caption])[0]
        assert own.decode(targets[:-1]) == caption and targets[-1] == own.eos_id()
        if model_type == "llava":  # Gemma's writes no space before the first word
            assert targets[:-1] == own.encode(caption)
    rows = [scene_rows[0], scene_rows[1]]
    assert len(caption_rows(model, processor, rows, PROMPT, max_new_tokens=8)) == 2

    processor.save_pretrained(tmp_path / "saved")  # as a training does
    assert (tmp_path / "saved" / "tokenizer.json").is_file()
