"""Tiny captioners and data, built in process: tests need no network, no GPU and no downloads."""

import os

# Before torch: test processes share the cores with others and must not spin for them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from tiny import TINY_ENCODER, TINY_GPT2, TINY_LLAMA

from hfcap.training.arguments import CaptionTrainingArguments, ModelArguments


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Tar shards and examinations of pictures go to a cache of the test's own."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def scene_rows():
    """24 embedded scenes of 32 pixels, five references each."""
    from hfcap.data.scenes import load_scenes

    return load_scenes("train", 24, "caption", image_size=32)


@pytest.fixture
def build_tiny(scene_rows):
    """Build a tiny captioner and processor of a family, with the same weights every time."""
    from hfcap.training.build import build_captioner

    def build(family: str, pad_is_eos: bool = False, encoder_config: dict = TINY_ENCODER):
        torch.manual_seed(0)
        decoder = TINY_LLAMA if family == "llava" else TINY_GPT2
        model_args = ModelArguments(
            family=family, encoder_config=encoder_config, decoder_config=decoder, image_size=32, vocab_size=350
        )
        args = CaptionTrainingArguments(num_beams=1, max_new_tokens=8)
        captions = [caption for captions in scene_rows["captions"] for caption in captions]
        model, processor = build_captioner(model_args, args, captions)
        if pad_is_eos:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token
        return model, processor

    return build
