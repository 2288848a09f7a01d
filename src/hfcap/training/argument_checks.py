"""Checks of argument values: minima, the metric of the best checkpoint, whole batches."""

from collections.abc import Sequence
from dataclasses import fields

from hfcap.errors import ConfigError

# Minimum values of fields that `TrainingArguments` defines; those of hfcap have theirs in their metadata.
INHERITED_MINIMA = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0,
    "label_smoothing_factor": 0,
}

# What the evaluations of an encoder compute.
TAGGING_FIGURES = ("loss", "precision", "recall", "f1")


def check_minima(arguments) -> None:
    """Check the numbers of a dataclass of arguments against the `min` of their fields; None is not compared.

    Raises:
        ConfigError: one is too small, or not a number.
    """
    for field in fields(arguments):
        smallest = field.metadata.get("min", INHERITED_MINIMA.get(field.name))
        value = getattr(arguments, field.name, None)
        if smallest is not None and value is not None and not value >= smallest:
            raise ConfigError(option=field.name, got=value, wanted=f"{smallest} or more")


def check_whole_batch(num_rows: int, args) -> None:
    """Check that an epoch of `num_rows` rows has a whole batch, where incomplete ones are dropped.

    Raises:
        ConfigError: it has none, so that nothing would be trained.
    """
    rows = args.per_device_train_batch_size * args.world_size
    if args.dataloader_drop_last and num_rows < rows:
        raise ConfigError(
            f"every batch would be dropped, as the training data has {num_rows} rows and a batch of all processes "
            f"{rows} (per_device_train_batch_size {args.per_device_train_batch_size} x {args.world_size})",
            option="dataloader_drop_last",
            got=True,
            fix="remove it, or lower per_device_train_batch_size",
        )


def check_best_metric(name: str | None, figures: Sequence[str]) -> None:
    """Check that evaluations compute `metric_for_best_model`.

    Raises:
        ConfigError: they do not.
    """
    if name is not None and name.removeprefix("eval_") not in figures:
        raise ConfigError(
            "evaluations compute only these",
            option="metric_for_best_model",
            got=name,
            wanted=f"one of {', '.join(figures)}",
        )
