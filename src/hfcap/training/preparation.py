"""What a recipe does before the first step: cores, rows, features, and the checkpoint to go on from."""

import os
from pathlib import Path

import datasets
import torch
from transformers import PreTrainedModel

from hfcap.data.features import FeatureCache, cache_features
from hfcap.data.sources import load_captions
from hfcap.errors import ConfigError
from hfcap.training.arguments import CaptionTrainingArguments, DataArguments, ModelArguments
from hfcap.training.dataset import CaptionDataset
from hfcap.training.strategies import TRAINED_PARTS


def use_all_cores() -> None:
    """Give torch this process's share of the cores: `accelerate launch` sets OMP_NUM_THREADS=1, which leaves it one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def load_splits(args: DataArguments) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Rows of the training and the evaluation split.

    Raises:
        ConfigError: the source, a split or a column does not exist, or a picture cannot be read.
    """
    wanted = ((args.train_split, args.max_train_images), (args.eval_split, args.max_eval_images))
    return tuple(load_split(args, split, limit) for split, limit in wanted)


def load_split(args: DataArguments, split: str, limit: int | None) -> datasets.Dataset:
    """Rows `{image_id, image, captions, …}` of one split, the first `limit` of them."""
    options = {"style": args.scenes_style} if args.data == "scenes" else {}
    try:
        return load_captions(args.data, split, num_images=limit, on_bad_image=args.on_bad_image, **options)
    except ValueError as error:
        raise ConfigError(f"data: {error}") from error


def check_feature_cache(model_args: ModelArguments) -> None:
    """Raise a ConfigError where cached features would not be those of the encoder being trained."""
    if model_args.feature_cache and "encoder" in TRAINED_PARTS[model_args.strategy]:
        raise ConfigError(
            f"feature_cache needs a frozen encoder, and strategy {model_args.strategy!r} trains it: "
            "set strategy: frozen_encoder, or feature_cache: false"
        )


def caption_datasets(
    model: PreTrainedModel,
    processor,
    rows: tuple[datasets.Dataset, datasets.Dataset],
    data_args: DataArguments,
    model_args: ModelArguments,
    args: CaptionTrainingArguments,
) -> tuple[CaptionDataset, CaptionDataset]:
    """Training and evaluation data; with `feature_cache` the encoder runs here, once, and not while training."""
    train_rows, eval_rows = rows
    caches: list[FeatureCache | None] = [None, None]
    if model_args.feature_cache:
        views = ("plain", "mirror") if data_args.mirror else ("plain",)
        caches = [
            cache_features(model, processor.image_processor, train_rows, model_args.cache_dir, views=views),
            cache_features(model, processor.image_processor, eval_rows, model_args.cache_dir),
        ]
    train = CaptionDataset(
        train_rows, caches[0], references=data_args.references, mirror=data_args.mirror, seed=args.seed
    )
    return train, CaptionDataset(eval_rows, caches[1])


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """Newest `checkpoint-N` that was written to its end, or `None`.

    `transformers.trainer_utils.get_last_checkpoint` takes the highest number, complete or not; `trainer_state.json` is
    what `Trainer` writes last.
    """
    complete = [path.parent for path in Path(folder).glob("checkpoint-*/trainer_state.json")]
    newest = max(complete, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)
    return None if newest is None else str(newest)
