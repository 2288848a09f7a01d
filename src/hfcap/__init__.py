"""hfcap: train, measure and ship image-captioning models, natively in the Hugging Face ecosystem.

    from hfcap import CaptionTrainer, CaptionTrainingArguments, caption, load_captioner, load_captions

Importing this package is cheap: torch and transformers are loaded when a name that needs them is first used.
`import hfcap.models` registers the model classes with the transformers Auto classes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfcap.data.sources import load_captions
    from hfcap.generation.caption import caption
    from hfcap.generation.loading import load_captioner
    from hfcap.metrics import compute_metrics
    from hfcap.training.arguments import CaptionTrainingArguments
    from hfcap.training.trainer import CaptionTrainer

__version__ = "0.1.0"

_MODULES = {
    "CaptionTrainer": "hfcap.training.trainer",
    "CaptionTrainingArguments": "hfcap.training.arguments",
    "caption": "hfcap.generation.caption",
    "compute_metrics": "hfcap.metrics",
    "load_captioner": "hfcap.generation.loading",
    "load_captions": "hfcap.data.sources",
}
__all__ = [
    "CaptionTrainer",
    "CaptionTrainingArguments",
    "caption",
    "compute_metrics",
    "load_captioner",
    "load_captions",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        try:
            return getattr(import_module(_MODULES[name]), name)
        except ModuleNotFoundError as error:
            from hfcap.extras import missing_extra

            line = missing_extra(error)
            if line is None:
                raise
            raise ImportError(f"hfcap.{name} {line}") from None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
