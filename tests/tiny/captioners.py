"""Captioners small enough to train in a second: configurations, and the captioner joined from them."""

from itertools import chain

from hfcap.training.arguments import CaptionTrainingArguments, ModelArguments
from hfcap.training.build import build_captioner

TINY_ENCODER = {"model_type": "convnext", "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 8}
TINY_VIT = {
    "model_type": "vit",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
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
TINY_DECODERS = {"llava": TINY_LLAMA, "encoder_decoder": TINY_GPT2}


def build_joined(family, captions, args=None, **parts):
    """Captioner and processor of a family; `captions` train its tokenizer, `parts` are fields of `ModelArguments`."""
    parts = {
        "encoder_config": TINY_ENCODER,
        "decoder_config": TINY_DECODERS[family],
        "image_size": 32,
        "vocab_size": 350,
    } | parts
    args = args or CaptionTrainingArguments(num_beams=1, max_new_tokens=8)
    return build_captioner(ModelArguments(family=family, **parts), args, captions)


def captions_of(rows):
    """All captions of some rows."""
    return list(chain.from_iterable(rows["captions"]))
