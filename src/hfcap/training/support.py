"""Support table: which strategy of which family works on which engine, and the test that shows it."""

from typing import Literal

Backend = Literal["single", "ddp", "zero1", "zero2", "zero3", "fsdp1", "fsdp2"]


EXACT = "tests/training/test_exact_loss.py"


STRATEGIES = "tests/training/test_strategies.py"


NATIVE = "tests/training/test_native_captioners.py"


BACKENDS = "tests/training/test_backends.py"


# Two processes on a CPU.
ON_CPU: dict[Backend, str] = dict.fromkeys(("ddp", "zero1", "zero2", "zero3", "fsdp2"), BACKENDS)


NO_FSDP: dict[Backend, str] = {backend: test for backend, test in ON_CPU.items() if backend != "fsdp2"}


# (family, strategy) -> backend -> the test that shows it. A pair or a backend that is missing is refused.
SUPPORT: dict[tuple[str, str], dict[Backend, str]] = {
    ("llava", "full"): {"single": EXACT, **ON_CPU},
    ("llava", "frozen_encoder"): {"single": STRATEGIES, **ON_CPU},
    ("llava", "projector"): {"single": STRATEGIES, **ON_CPU},
    ("llava", "lora"): {"single": STRATEGIES, **ON_CPU},
    ("llava", "qlora"): {"single": STRATEGIES, **NO_FSDP},
    ("encoder_decoder", "full"): {"single": EXACT, **ON_CPU},
    ("encoder_decoder", "frozen_encoder"): {"single": STRATEGIES, **ON_CPU},
    # Which native types each strategy is tested with: docs/models.md; on several processes: docs/compatibility.md.
    ("native", "full"): {"single": NATIVE, **ON_CPU},
    ("native", "frozen_encoder"): {"single": NATIVE, **ON_CPU},
    ("native", "projector"): {"single": NATIVE, **ON_CPU},
    ("native", "lora"): {"single": NATIVE, **ON_CPU},
    ("native", "qlora"): {"single": NATIVE, **NO_FSDP},
}


# Refused beside the table: BLIP ties its head to its embeddings, but `get_output_embeddings` does not name it.
# accelerate puts the two into different groups, and the first step fails.
NOT_ON_FSDP2 = ("blip",)


# hfcap's own model types; all others are native ones of transformers.
FAMILIES = {"hfcap_llava": "llava", "hfcap_encoder_decoder": "encoder_decoder"}


def support_table() -> str:
    """`SUPPORT` as a Markdown table, for `docs/compatibility.md`."""
    backends = list(dict.fromkeys(backend for cells in SUPPORT.values() for backend in cells))
    lines = ["| family | strategy | " + " | ".join(backends) + " |", "| --- " * (len(backends) + 2) + "|"]
    for (family, strategy), cells in SUPPORT.items():
        shown = [f"`{cells[b]}`" if b in cells else "refused" for b in backends]
        lines.append(f"| {family} | {strategy} | " + " | ".join(shown) + " |")
    return "\n".join(lines)
