"""Settings `metrics`, `tokenizer`, `clip_model` and `chair_synonyms` of recipes: help texts and checks."""

from typing import Any

from hfcap.errors import ConfigError
from hfcap.metrics import CLIP_MODEL, METRICS, Options, choose_metrics, metric_names, needs_images, refuse_unused

METRICS_HELP = (
    f"Metrics of evaluations, separated by commas: some of {', '.join(metric.key for metric in METRICS)}. Those that "
    "look at the images are computed at the end of a run only."
)
CHAIR_SYNONYMS_HELP = (
    "File of the words for each object of chair, a line per object: its name and synonyms, separated by commas."
)
CLIP_MODEL_HELP = "Folder or Hub id of the CLIP model of clip_score and ref_clip_score."


def check_metrics(args, uses_clip: bool = False) -> None:
    """Check the fields `metrics`, `tokenizer`, `clip_model` and `chair_synonyms` of a dataclass of arguments.

    Args:
        args: the dataclass.
        uses_clip: whether something beside the metrics needs `clip_model`.

    Raises:
        ConfigError: an unknown metric, one that cannot be computed here, or a `clip_model` or `chair_synonyms`
            that none uses.
    """
    try:
        options = metric_options(args)
        choose_metrics(options.pop("metrics"), Options(**options))
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error), option="metrics", got=args.metrics) from error
    names = metric_names(args.metrics)
    if args.clip_model != CLIP_MODEL and not uses_clip:
        refuse_unused("clip_model", args.clip_model, names, needs_images([metric.key for metric in METRICS]))
    refuse_unused("chair_synonyms", args.chair_synonyms, names, ("chair",))


def metric_options(args) -> dict[str, Any]:
    """What `evaluate_captioner` and `judge` take of a dataclass of arguments to compute its metrics."""
    return {
        "tokenizer": args.tokenizer,
        "metrics": metric_names(args.metrics),
        "clip_model": args.clip_model,
        "chair_synonyms": args.chair_synonyms,
    }


def text_metrics(args) -> list[str]:
    """The metrics of a dataclass of arguments that need no images: those that are computed while training."""
    names = metric_names(args.metrics)
    return [name for name in names if name not in needs_images(names)]
