"""Tiny captioners and data, built in process: tests need no network, no GPU and no downloads."""

import os

# Before torch: test processes share the cores with others and must not spin for them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

from hfcap.training.arguments import CaptionTrainingArguments, ModelArguments

TINY_ENCODER = {"model_type": "convnext", "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 8}
TINY_LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
TINY_GPT2 = {
    "model_type": "gpt2",
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 64,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}


@pytest.fixture(scope="session")
def scene_rows():
    """24 embedded scenes of 32 pixels, five references each."""
    from hfcap.data.scenes import load_scenes

    return load_scenes("train", 24, "caption", image_size=32)


@pytest.fixture
def build_tiny(scene_rows):
    """Build a tiny captioner and processor of a family, with the same weights every time."""
    from hfcap.training.build import build_captioner

    def build(family: str, pad_is_eos: bool = False):
        torch.manual_seed(0)
        decoder = TINY_LLAMA if family == "llava" else TINY_GPT2
        model_args = ModelArguments(
            family=family, encoder_config=TINY_ENCODER, decoder_config=decoder, image_size=32, vocab_size=350
        )
        args = CaptionTrainingArguments(num_beams=1, max_new_tokens=8)
        captions = [caption for captions in scene_rows["captions"] for caption in captions]
        model, processor = build_captioner(model_args, args, captions)
        if pad_is_eos:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token
        return model, processor

    return build
