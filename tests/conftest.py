"""Tiny captioners and data, built in process: tests need no network, no GPU and no downloads."""

import os

# Before torch: test processes share the cores with others and must not spin for them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

from tiny.captioners import TINY_ENCODER, build_joined, captions_of


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

    def build(family: str, pad_is_eos: bool = False, encoder_config: dict = TINY_ENCODER):
        torch.manual_seed(0)
        model, processor = build_joined(family, captions_of(scene_rows), encoder_config=encoder_config)
        if pad_is_eos:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token
        return model, processor

    return build
