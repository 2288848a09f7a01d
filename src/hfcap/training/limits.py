"""What settings may be at the least, and by which figures a checkpoint can be best: known before anything loads."""

from collections.abc import Sequence

from hfcap.errors import ConfigError

# Smallest value of a setting, whichever dataclass it is in.
SMALLEST = {
    "max_train_images": 1,
    "max_eval_images": 1,
    "scenes_image_size": 1,
    "max_pixels": 1,
    "references": 1,
    "max_caption_tokens": 2,  # a word and EOS
    "image_size": 1,
    "vocab_size": 259,  # bytes and special tokens
    "lora_r": 1,
    "lora_alpha": 1,
    "lora_dropout": 0,
    "batch_size": 1,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0,
    "encoder_learning_rate": 0,
    "projector_learning_rate": 0,
    "label_smoothing_factor": 0,
    "early_stopping_patience": 1,
    "max_row_tokens": 1,
    "pad_to_multiple_of": 1,
    "eval_caption_images": 1,
    "num_beams": 1,
    "no_repeat_ngram_size": 0,
    "max_new_tokens": 1,
    "num_samples": 2,  # the baseline of one is the mean of the others
    "sampling_temperature": 0.01,
}

# What the evaluations of an encoder compute.
TAGGING_FIGURES = ("loss", "precision", "recall", "f1")


def check_smallest(arguments) -> None:
    """Check the numbers of a dataclass of arguments against `SMALLEST`; None, where it is allowed, is not compared.

    Raises:
        ConfigError: one is too small, or not a number.
    """
    for name, smallest in SMALLEST.items():
        value = getattr(arguments, name, None)
        if value is not None and not value >= smallest:
            raise ConfigError(f"{name} is {value}; wanted {smallest} or more")


def check_whole_batch(num_rows: int, args) -> None:
    """Check that an epoch of `num_rows` rows has a whole batch, where incomplete ones are dropped.

    Raises:
        ConfigError: it has none, so that nothing would be trained.
    """
    rows = args.per_device_train_batch_size * args.world_size
    if args.dataloader_drop_last and num_rows < rows:
        raise ConfigError(
            f"dataloader_drop_last drops every batch: the training data has {num_rows} rows, and a batch of all "
            f"processes {rows} (per_device_train_batch_size {args.per_device_train_batch_size} x {args.world_size}); "
            "leave it out, or lower per_device_train_batch_size"
        )


def check_best_metric(name: str | None, figures: Sequence[str]) -> None:
    """Check that evaluations compute `metric_for_best_model`.

    Raises:
        ConfigError: they do not.
    """
    if name is not None and name.removeprefix("eval_") not in figures:
        raise ConfigError(f"metric_for_best_model is {name!r}; evaluations compute {', '.join(figures)}")
