"""The tuple of all metrics, their choice by name, and their display names."""

from collections.abc import Iterable, Sequence
from typing import Any

from hfcap.errors import ConfigError

from .bleu import BLEU
from .chair import CHAIR
from .cider import CIDER, CIDER_D
from .clip_metrics import CLIP_SCORE, REF_CLIP_SCORE
from .invented import INVENTED
from .meteor import METEOR
from .metric import Metric, Options
from .rouge_l import ROUGE_L

# In the order in which people see them.
METRICS = (CIDER, CIDER_D, BLEU, METEOR, ROUGE_L, CLIP_SCORE, REF_CLIP_SCORE, CHAIR, INVENTED)
DEFAULT_METRICS = ("bleu", "rouge_l", "cider")


def metric_names(text: str) -> tuple[str, ...]:
    """Read the names of an option, "bleu,cider"."""
    return tuple(name.strip() for name in text.split(","))


def choose_metrics(names: Sequence[str], options: Options | None = None) -> tuple[Metric, ...]:
    """Find metrics by name, each once, and check that they can be computed with these options on this machine.

    Raises:
        ValueError: an unknown name, none at all, or an option that does not suit a metric.
        ConfigError: what a metric runs on is missing: the message says what to install.
    """
    by_key = {metric.key: metric for metric in METRICS}
    unknown = [name for name in names if name not in by_key]
    if unknown or not names:
        raise ValueError(f"unknown metrics {', '.join(unknown) or '(none)'}; wanted some of {', '.join(by_key)}")
    chosen = tuple(by_key[name] for name in dict.fromkeys(names))
    for metric in chosen:
        metric.require(options or Options())
    return chosen


def refuse_unused(option: str, value: Any, names: Sequence[str], users: Sequence[str]) -> None:
    """Refuse an option that no chosen metric reads.

    Args:
        option: its name, as people type it.
        value: None where it is not given.
        names: of the chosen metrics.
        users: names of the metrics that read it.

    Raises:
        ConfigError: it is given, and none of `users` is chosen.
    """
    if value is not None and not set(users) & set(names):
        fix = f"add {users[0]} to the metrics, or remove it"
        raise ConfigError("no metric asked for uses it", option=option, got=value, fix=fix)


def value_keys(names: Sequence[str]) -> tuple[str, ...]:
    """Keys of the values of the metrics of these names: "bleu" has four."""
    return tuple(key for name in names for metric in METRICS if metric.key == name for key in metric.names)


def needs_images(names: Sequence[str]) -> list[str]:
    """Those of these names whose metric looks at the images."""
    return [metric.key for metric in METRICS if metric.key in names and "images" in metric.needs]


def lower_is_better(key: str) -> bool:
    """Whether the better of two values of this key is the lower one; False for keys of no metric."""
    return any(key in metric.names and not metric.greater_is_better for metric in METRICS)


def display_name(key: str) -> str:
    """How people know a value: "BLEU-4" for "bleu_4"; the key itself where no metric has it."""
    return next((metric.names[key] for metric in METRICS if key in metric.names), key)


def for_people(key: str, value: float) -> float:
    """A raw value as people read it: CIDEr 0.5 is 50."""
    return next((metric.scale for metric in METRICS if key in metric.names), 100.0) * value


def display_order(keys: Iterable[str]) -> list[str]:
    """Keys in the order in which people see their values, BLEU-4 before BLEU-1; those of no metric last."""
    known = [key for metric in METRICS for key in reversed(metric.names)]
    return sorted(keys, key=lambda key: (known.index(key) if key in known else len(known), key))


def headline(keys: Iterable[str]) -> list[str]:
    """Those of these keys that a one-line summary shows: BLEU-4, CIDEr, and all that is not computed by default."""
    keys = list(keys)
    left_out = set(value_keys(DEFAULT_METRICS)) - {"bleu_4", "cider"}
    return [key for key in keys if key not in left_out] or keys
