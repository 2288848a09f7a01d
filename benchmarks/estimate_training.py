r"""Memory and time of the runs in configs/train that start from models of the Hub: computed from shapes, not measured.

    python benchmarks/estimate_training.py            # a Markdown table of all of them
    python benchmarks/estimate_training.py --json     # the same as JSON lines

Memory is that of one process: weights (float32, and the bfloat16 copies that autocast keeps of those in a backward
pass; with QLoRA the linear layers of the language model in 4 bits), gradients and AdamW's two moments of what
trains (float32), activations kept for the backward pass under bfloat16 autocast with SDPA (`activation_bytes`, which a
test compares with what autograd keeps), and the logits of the targets. The CUDA context and the allocator's slack are
not in it: leave 2 GiB free. Time is FLOPs over the card's dense bfloat16 rate times an assumed utilisation: 2 for each
weight and token forward, 2 for the gradient of the input and 2 for that of the weights where they are needed, 2 for a
second forward of activation checkpointing, and attention on top. Evaluation is not in it.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from hfcap.training.meta_run import CARDS, GIB, NF4_BYTES, UTILISATION

CONFIGS = Path(__file__).parents[1] / "configs" / "train"
TRAIN_IMAGES = {"flickr30k": 29_000, "coco": 113_287}  # Karpathy's splits, restval with train
REFERENCES = 5
CAPTION_TOKENS, PROMPT_TOKENS = 14, 20


@dataclass(frozen=True)
class Stack:
    """A Transformer stack, as its config.json has it; `attention` is heads x head_dim, `kv` the same for keys."""

    layers: int
    width: int
    mlp: int
    attention: int
    kv: int
    gated: bool
    tokens: int = 0  # of a picture, for encoders
    vocabulary: int = 0
    tied: bool = True
    cross_width: int = 0  # width of the image features attended to
    mlp_bytes: int = 4  # an inner unit and token: GELU's input and output in bfloat16

    def layer_weights(self) -> int:
        """Weights of the matrices of one layer."""
        own = (
            2 * self.width * self.attention
            + 2 * self.width * self.kv
            + (3 if self.gated else 2) * self.width * self.mlp
        )
        cross = 2 * self.width * self.attention + 2 * self.cross_width * self.kv if self.cross_width else 0
        return own + cross

    def matrices(self) -> int:
        """Weights of all layers' matrices."""
        return self.layers * self.layer_weights()

    def embeddings(self) -> int:
        """Weights of token embeddings and head."""
        return self.vocabulary * self.width * (1 if self.tied else 2)

    def activation_bytes(self) -> int:
        """Bytes that one layer keeps of one token for the backward pass, under bfloat16 autocast.

        RMSNorm keeps its float32 input, what it normalised, and its bfloat16 output, LayerNorm no second; with grouped
        queries SDPA keeps keys and values repeated.
        """
        norms = 20 if self.gated else 16
        repeated = 4 * self.attention if self.kv < self.attention else 0
        cross = 6 * self.width + 4 * self.attention if self.cross_width else 0
        attention = 4 * self.attention + 4 * self.kv + repeated + cross
        return norms * self.width + attention + self.mlp_bytes * self.mlp


def vit(tokens: int, layers: int = 12, width: int = 768, mlp: int = 3072) -> Stack:
    """A ViT encoder."""
    return Stack(layers, width, mlp, width, width, gated=False, tokens=tokens)


def gated(layers: int, width: int, mlp: int, attention: int, kv: int, vocabulary: int, tied: bool = True) -> Stack:
    """A language model of the Llama and Qwen kind; its MLP keeps gate, activation, up and their product."""
    return Stack(layers, width, mlp, attention, kv, True, vocabulary=vocabulary, tied=tied, mlp_bytes=8)


def cross_attending(vocabulary: int, mlp_bytes: int) -> Stack:
    """A text decoder of GPT-2's or BERT's base size with cross-attention."""
    return Stack(12, 768, 3072, 768, 768, False, vocabulary=vocabulary, cross_width=768, mlp_bytes=mlp_bytes)


GELU_NEW_BYTES = 9  # GPT-2 computes its GELU in several steps


@dataclass(frozen=True)
class Shapes:
    """A captioner: encoder, language model, weights between them, image tokens in the language model's sequence."""

    encoder: Stack
    projector: int
    lm: Stack
    image_tokens: int


# By the part of a configuration's name that says which model it trains.
SHAPES = {
    "smolvlm_256m": Shapes(vit(1024), 12288 * 576, gated(30, 576, 1536, 576, 192, 49280, tied=False), 64 + 3),
    "smolvlm_500m": Shapes(vit(1024), 12288 * 960, gated(32, 960, 2560, 960, 320, 49280, tied=False), 64 + 3),
    # A picture of 512 x 384: 16-pixel patches, 2 x 2 of them per token; three deepstack mergers beside the merger.
    "qwen3_vl_2b": Shapes(
        vit(768, layers=24, width=1024, mlp=4096),
        4 * (4096 * 4096 + 4096 * 2048),
        gated(28, 2048, 6144, 2048, 1024, 151936),
        192 + 2,
    ),
    "siglip2_smollm2_135m": Shapes(vit(196), 3072 * 576 + 576**2, gated(30, 576, 1536, 576, 192, 49153), 49),
    "siglip2_qwen3_0_6b": Shapes(vit(196), 3072 * 1024 + 1024**2, gated(28, 1024, 3072, 2048, 1024, 151670), 49),
    "vit_gpt2": Shapes(vit(197), 0, cross_attending(50257, GELU_NEW_BYTES), 0),
    "blip_base": Shapes(vit(577), 0, cross_attending(30524, 4), 0),
}


@dataclass(frozen=True)
class Estimate:
    """What a run needs: GiB of one process, minutes on each of `CARDS`, and its FLOPs."""

    gib: float
    minutes: dict[str, float]
    flops: float

    def line(self) -> str:
        """One line for people."""
        times = ", ".join(f"{value:.0f} min on one {card} card" for card, value in self.minutes.items())
        return f"Computed, not measured: {self.gib:.0f} GiB, {times} (benchmarks/estimate_training.py)."


def estimate(name: str) -> Estimate:
    """Estimate the run of `configs/train/NAME.yaml`."""
    settings = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    shapes = next(shapes for part, shapes in SHAPES.items() if part in name)
    strategy = settings.get("strategy", "qlora")
    trains_encoder, trains_lm = strategy == "full", strategy in ("full", "frozen_encoder")
    lora = strategy == "qlora"
    images = TRAIN_IMAGES[name.split("_")[0]] * settings["num_train_epochs"]
    references = settings.get("references", REFERENCES)
    # Packed: a picture is one row.
    text = PROMPT_TOKENS * bool(settings.get("prompt") or "stage2" in name) + references * CAPTION_TOKENS
    lm_tokens, encoder_tokens = shapes.image_tokens + text, shapes.encoder.tokens
    checkpointing = bool(settings.get("gradient_checkpointing"))

    encoder, lm = shapes.encoder, shapes.lm
    adapter = _lora_weights(lm, settings["lora_r"]) if lora else 0
    trained = (
        shapes.projector
        + trains_encoder * encoder.matrices()
        + trains_lm * (lm.matrices() + lm.embeddings())
        + adapter
    )
    weights = 4 * (encoder.matrices() + lm.embeddings() + shapes.projector + adapter)
    weights += lm.matrices() * (NF4_BYTES if lora else 4 + 2) + trains_encoder * 2 * encoder.matrices()
    activations = _activations(lm, lm_tokens, checkpointing)
    activations += _activations(encoder, encoder_tokens, checkpointing) if trains_encoder else 0
    logits = references * CAPTION_TOKENS * lm.vocabulary * 6  # bfloat16, and the float32 that becomes the gradient
    batch = settings["per_device_train_batch_size"]
    # 4-bit layers are de-quantised one at a time.
    gib = (weights + 12 * trained + batch * (activations + logits) + lora * 2 * lm.layer_weights()) / GIB

    # Forward, gradient of inputs, gradient of weights, forward again.
    lm_passes = 2 + trains_lm + checkpointing
    encoder_passes = 1 + trains_encoder * (2 + checkpointing)
    flops = 2 * lm_passes * (lm.matrices() * lm_tokens + 2 * lm.layers * lm.attention * lm_tokens**2)
    flops += 2 * (2 + trains_lm) * lm.vocabulary * lm.width * references * CAPTION_TOKENS
    flops += (
        2
        * encoder_passes
        * encoder_tokens
        * (encoder.matrices() + 2 * encoder.layers * encoder.width * encoder.tokens)
    )
    minutes = {card: images * flops / (rate * UTILISATION) / 60 for card, (rate, _) in CARDS.items()}
    return Estimate(gib, minutes, images * flops)


def _activations(stack: Stack, tokens: int, checkpointing: bool) -> int:
    if not checkpointing:
        return tokens * stack.layers * stack.activation_bytes()
    return tokens * (
        4 * stack.width * stack.layers + stack.activation_bytes()
    )  # float32 inputs of layers, and one layer


def _lora_weights(lm: Stack, rank: int) -> int:
    pairs = [(lm.width, lm.attention)] * 2 + [(lm.width, lm.kv)] * 2 + [(lm.width, lm.mlp)] * (3 if lm.gated else 2)
    return lm.layers * sum(rank * (first + second) for first, second in pairs)


def names() -> list[str]:
    """Configurations that train a model of `SHAPES`."""
    found = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    return [name for name in found if any(part in name for part in SHAPES)]


def table() -> str:
    """All estimates as a Markdown table, for docs/models.md."""
    lines = ["| configuration | GiB | " + " | ".join(f"min, {card} ({CARDS[card][1]})" for card in CARDS) + " |"]
    lines.append("| --- " * (2 + len(CARDS)) + "|")
    for name in names():
        found = estimate(name)
        minutes = " | ".join(f"{value:.0f}" for value in found.minutes.values())
        lines.append(f"| `configs/train/{name}.yaml` | {found.gib:.0f} | {minutes} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="JSON lines in place of a table")
    if not parser.parse_args().json:
        print(table())
        return
    for name in names():
        found = estimate(name)
        print(json.dumps({"config": name, "gib": found.gib, "minutes": found.minutes, "flops": found.flops}))


if __name__ == "__main__":
    main()
