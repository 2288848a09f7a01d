"""What a recipe does before the first step: cores, rows, features, and the checkpoint to go on from."""

import json
import logging
import os
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import partial
from itertools import chain
from pathlib import Path

import datasets
import torch
from accelerate.state import AcceleratorState
from datasets import Image
from transformers import EarlyStoppingCallback, PreTrainedModel, TrainerCallback

from hfcap import runs
from hfcap.data.features import FeatureCache, cache_features
from hfcap.data.scene_wording import STYLES
from hfcap.data.scenes import scene_captions
from hfcap.data.sources import load_captions
from hfcap.distributed import main_process_decides
from hfcap.errors import ConfigError
from hfcap.files import write_json
from hfcap.generation.inputs import caption_prompt
from hfcap.models.vision_features import find_encoder, take_features
from hfcap.training.arguments import (
    CaptionTrainingArguments,
    DataArguments,
    ModelArguments,
    RunArguments,
    SourceArguments,
)
from hfcap.training.checkpoints import (
    BestCheckpointHere,
    last_complete_checkpoint,
    remove_incomplete_checkpoints,
)
from hfcap.training.compatibility import checkpoint_engine, current_backend
from hfcap.training.dataset import CaptionDataset, CaptionStream
from hfcap.training.prompts import check_later_prompt

logger = logging.getLogger(__name__)

TOKENIZER_SCENES = 1000
TOKENIZER_STREAM = 10_000  # images of a stream that a tokenizer is trained on
FINGERPRINT_STREAM = 1000  # images of a stream that tell whether it is the same data
PROMPT_WEIGHT = 100  # often enough for the prompt's words to become tokens


def use_all_cores() -> None:
    """Give torch this process's share of the cores: `accelerate launch` sets OMP_NUM_THREADS=1, one core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def train_part_first(
    main: Callable[[list[str]], object], argv: list[str], part: Path, args: CaptionTrainingArguments
) -> None:
    """Run the recipe whose `main` trains the part of a captioner that another recipe starts from.

    Raises:
        ConfigError: a dry run, which trains nothing, and `part`, what the recipe leaves, is not there.
    """
    if args.dry_run:
        if not part.exists():
            command = f"accelerate launch recipes/{main.__module__}.py {' '.join(argv)}"
            raise ConfigError(f"dry_run trains nothing, and {part} is not there yet: {command}")
        return
    main(argv)
    # accelerate keeps the precision of a process's first training; this one has its own.
    AcceleratorState._reset_state()


def load_splits(
    args: DataArguments, run: Path
) -> tuple[datasets.Dataset | datasets.IterableDataset, datasets.Dataset]:
    """Rows of the training and the evaluation split; pictures left out are listed in the run folder.

    With `streaming`, the training split is a stream.

    Raises:
        ConfigError: the source, a split or a column does not exist, or a picture cannot be read.
    """
    train = load_split(args, args.train_split, args.max_train_images, run)
    return train, load_evaluation_split(args, run)


def load_evaluation_split(args: SourceArguments, folder: Path) -> datasets.Dataset:
    """Rows of the evaluation split (see `load_split`); every evaluation goes over them, so a stream is held in memory.

    Raises:
        ConfigError: as for `load_splits`.
    """
    rows = load_split(args, args.eval_split, args.max_eval_images, folder)
    if not args.streaming:
        return rows
    try:
        encoded = list(rows.cast_column("image", Image(decode=False)))
    except ValueError as error:  # a stream says what is wrong when it is read
        raise ConfigError(f"data: {error}") from error
    return datasets.Dataset.from_list(encoded, features=rows.features)


def load_split(
    args: SourceArguments, split: str, limit: int | None, folder: Path
) -> datasets.Dataset | datasets.IterableDataset:
    """Rows `{image_id, image, captions, …}` of one split, the first `limit` of them.

    Pictures left out (`on_bad_image: skip`) are listed in `skipped.jsonl` in `folder`, one an image and split.
    """
    options = {
        "image_folder": args.image_folder,
        "image_column": args.image_column,
        "captions_column": args.captions_column,
        "on_bad_image": args.on_bad_image,
        "max_pixels": args.max_pixels,
        "on_skip": partial(list_skipped, folder / runs.SKIPPED, split),
        "streaming": args.streaming,
    }
    if args.data == "scenes":
        options |= {"style": args.scenes_style, "image_size": args.scenes_image_size}
    try:
        return load_captions(args.data, split, num_images=limit, **options)
    except ValueError as error:
        raise ConfigError(f"data: {error}") from error


def list_skipped(path: Path, split: str, skipped: dict[str, str]) -> None:
    """Add a picture that was left out to a JSONL file; the same command again, or epoch, does not add it twice."""
    line = json.dumps({"split": split, **skipped}, ensure_ascii=False) + "\n"
    if os.environ.get("RANK", "0") != "0":  # every process checks every picture
        return
    if path.exists() and line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(line)


def tokenizer_texts(args: DataArguments, rows: datasets.Dataset) -> list[str]:
    """Texts that a tokenizer from scratch is trained on: the training captions, and with them the prompt.

    Of the embedded data set in every style: a model learns one style first, but its tokenizer is for good, and words
    cut into bytes are learned badly by whoever adapts the model to another style.
    """
    if isinstance(rows, datasets.IterableDataset):
        captions = [row["captions"] for row in rows.take(TOKENIZER_STREAM).remove_columns("image")]
    else:
        captions = list(rows["captions"])
    if args.data == "scenes":
        others = [style for style in STYLES if style != args.scenes_style]
        captions += [row for style in others for row in scene_captions(args.train_split, TOKENIZER_SCENES, style)]
    return [*chain.from_iterable(captions), *[args.prompt or ""] * PROMPT_WEIGHT]


def caption_datasets(
    model: PreTrainedModel,
    processor,
    rows: tuple[datasets.Dataset, datasets.Dataset],
    data_args: DataArguments,
    model_args: ModelArguments,
    args: CaptionTrainingArguments,
) -> tuple[CaptionDataset | CaptionStream, CaptionDataset]:
    """Training and evaluation data; with `feature_cache` the encoder runs here, once, and not while training.

    Evaluation data are kept in float32: the captions of a run are those that its saved model gives for the pictures.
    """
    train_rows, eval_rows = rows
    caches: list[FeatureCache | None] = [None, None]
    if model_args.feature_cache:
        views = ("plain", "mirror") if data_args.mirror else ("plain",)
        encoder = find_encoder(model)
        home = next(encoder.parameters()).device
        encoder.to(args.device)
        caches = [
            cache_features(model, processor.image_processor, train_rows, model_args.cache_dir, views=views),
            cache_features(model, processor.image_processor, eval_rows, model_args.cache_dir, dtype="float32"),
        ]
        encoder.to(home)  # where the rest is: the trainer moves the model, or an engine partitions it
        take_features(model)
    views = {name: getattr(data_args, name) for name in ("references", "mirror", "crop", "color_jitter")}
    views["seed"] = args.seed
    if isinstance(train_rows, datasets.IterableDataset):
        chosen = data_args.prompt is not None  # any others are the rows' own
        stream = CaptionStream(
            train_rows, None if chosen else partial(check_later_prompt, known=caption_prompt(processor)), **views
        )
        return stream, CaptionDataset(eval_rows)
    return CaptionDataset(train_rows, caches[0], **views), CaptionDataset(eval_rows, caches[1])


# Settings that may differ between a run and its continuation: where it lies, what it shows, how it is watched, how an
# optimizer step is divided over processes and micro-batches (the images in a step are compared instead), and kernels.
NOT_COMPARED = {
    "output_dir",
    "dry_run",
    "logging_steps",
    "logging_first_step",
    "report_to",
    "disable_tqdm",
    "run_name",
    "hub_model_id",
    "hub_private_repo",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "per_device_eval_batch_size",
    "dataloader_num_workers",
    "dataloader_prefetch_factor",
    "dataloader_persistent_workers",
    "dataloader_pin_memory",
    "ddp_find_unused_parameters",
    "restore_callback_states_from_checkpoint",
    "attn_implementation",
    "compile_layers",
    "pad_to_multiple_of",
}


def open_run(folder: Path, arguments: tuple, rows: tuple[datasets.Dataset, datasets.Dataset]) -> bool:
    """Start a run folder by writing `run.json`, or go on with the one that is there.

    With several processes the main one looks and writes, and all go by what it found.

    Args:
        folder: the run folder.
        arguments: the parsed dataclasses, `RunArguments` last.
        rows: training and evaluation split.

    Returns:
        Whether the run is finished: its figures are then printed, and there is nothing to do.

    Raises:
        ConfigError: the folder holds a run with other settings or other data, or of another engine.
    """
    return main_process_decides(lambda: _open_run(folder, arguments, rows))


def _open_run(folder: Path, arguments: tuple, rows: tuple[datasets.Dataset, datasets.Dataset]) -> bool:
    settings = {name: value for part in arguments for name, value in _plain(part).items()}
    args = arguments[-1]
    settings |= {
        "images_a_step": images_a_step(args),
        "engine": checkpoint_engine(current_backend(), args.world_size),
        "stream_readers": stream_readers(rows[0], args),
    }
    data = {
        name: runs.data_fingerprint(_first_of_stream(split).cast_column("image", Image(decode=False)))
        for name, split in zip(("train", "eval"), rows, strict=True)
    }
    seeds = {"seed": settings["seed"], "data_seed": settings["data_seed"]}
    record = runs.run_record(settings, seeds=seeds, data=data)
    path = folder / runs.RUN
    if not path.exists():
        write_json(path, record)
        logger.info("%s: a new run", folder)
        return False
    earlier = runs.read_run(path)
    # A setting that did not exist then was as it is by default now.
    before = _defaults(arguments) | earlier["arguments"]
    changed = [
        f"{name} was {before[name]!r}, is {value!r}"
        for name, value in record["arguments"].items()
        if name not in NOT_COMPARED and before.get(name, value) != value
    ]
    changed += [f"the {name} data changed" for name in data if earlier["data"][name] != record["data"][name]]
    if changed:
        raise ConfigError(
            f"{folder} holds another run: {'; '.join(changed)}. Give another --output_dir, or remove {folder}"
        )
    if all((folder / name).exists() for name in (runs.METRICS, runs.REPORT, runs.CARD)):
        print_finished(folder)
        return True
    remove_incomplete_checkpoints(folder / runs.CHECKPOINTS)
    checkpoint = last_complete_checkpoint(folder / runs.CHECKPOINTS)
    logger.info("%s: going on from %s", folder, "the start" if checkpoint is None else Path(checkpoint).name)
    return False


def images_a_step(args: RunArguments) -> int:
    """Images in an optimizer step: what batch size, accumulation and processes together must keep."""
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size


def stream_readers(rows: datasets.Dataset | datasets.IterableDataset, args: RunArguments) -> str | None:
    """Say what the order of a stream depends on besides the seed: loader processes read shards of their own, in turns.

    A run that went on with others would see some images twice and others not at all.
    """
    if not isinstance(rows, datasets.IterableDataset):
        return None
    readers = min(args.dataloader_num_workers, rows.num_shards)
    turns = f", {args.per_device_train_batch_size * args.world_size} images in turn" if readers > 1 else ""
    return f"dataloader_num_workers={readers}{turns}"


def _first_of_stream(rows: datasets.Dataset | datasets.IterableDataset) -> datasets.Dataset | datasets.IterableDataset:
    return rows.take(FINGERPRINT_STREAM) if isinstance(rows, datasets.IterableDataset) else rows


def print_finished(folder: Path) -> None:
    """Say what a finished run folder holds."""
    metrics = runs.read_metrics(folder / runs.METRICS)["metrics"]
    figures = ", ".join(f"{runs.METRIC_NAMES[key]} {100 * metrics[key]['value']:.1f}" for key in ("bleu_4", "cider"))
    print(f"{folder} is done: {figures}; look at {folder / runs.REPORT}. Remove the folder to train anew.")


def _plain(arguments) -> dict:
    """Settings of a parsed dataclass, without what `TrainingArguments` derives from the machine."""
    return {f.name: getattr(arguments, f.name) for f in fields(arguments) if f.init}


def _defaults(arguments: tuple) -> dict:
    """What parsed dataclasses hold where a setting is not given."""
    return {f.name: f.default for part in arguments for f in fields(part) if f.init and f.default is not MISSING}


def print_next_command(folder: Path) -> None:
    """Say where everything is, and last how to caption a picture of one's own."""
    print(f"\nRun folder: {folder}  (report: {folder / runs.REPORT})")
    print(f"Caption your own picture:\nhfcap caption PHOTO.jpg --model {folder}")


def run_callbacks(args: RunArguments) -> list[TrainerCallback]:
    """Callbacks of every recipe: the best checkpoint of a moved run is found, and early stopping where asked for."""
    patience = args.early_stopping_patience
    return [BestCheckpointHere(), *([] if patience is None else [EarlyStoppingCallback(patience)])]
