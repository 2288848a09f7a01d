"""Rows of a run: its splits, the pictures left out of them, and the texts of its tokenizer."""

import json
import os
from collections import Counter
from functools import partial
from itertools import chain
from pathlib import Path

import datasets
from datasets import Image

from hfcap import runs
from hfcap.data.caption_stream import first_texts
from hfcap.data.scene_wording import STYLES
from hfcap.data.scenes import scene_captions
from hfcap.data.sources import load_captions
from hfcap.errors import ConfigError, as_config_error
from hfcap.training.data_arguments import DataArguments, SourceArguments

TOKENIZER_SCENES = 1000
TOKENIZER_STREAM = 10_000  # images of a stream that a tokenizer is trained on
PROMPT_WEIGHT = 100  # often enough for the prompt's words to become tokens


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
    with as_config_error("data"):  # a stream says what is wrong when it is read
        encoded = list(rows.cast_column("image", Image(decode=False)))
    if not encoded:
        raise ConfigError(
            f"no file of {args.data} has a row of this split with a caption", option="eval_split", got=args.eval_split
        )
    return datasets.Dataset.from_list(encoded, features=rows.features)


def load_split(
    args: SourceArguments, split: str, limit: int | None, folder: Path
) -> datasets.Dataset | datasets.IterableDataset:
    """Rows `{image_id, image, captions, …}` of one split, the first `limit` of them.

    Pictures left out (`on_bad_image: skip`) are listed in `skipped.jsonl` in `folder`, one per image and split.
    """
    options = {
        "image_folder": args.image_folder,
        "image_column": args.image_column,
        "captions_column": args.captions_column,
        "on_bad_image": args.on_bad_image,
        "max_pixels": args.max_pixels,
        "on_skip": partial(list_skipped, folder / runs.SKIPPED_JSONL, split),
        "streaming": args.streaming,
    }
    if args.data == "scenes":
        options |= {"style": args.scenes_style, "image_size": args.scenes_image_size}
    with as_config_error("data"):
        return load_captions(args.data, split, num_images=limit, **options)


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
    """Texts that a tokenizer from scratch is trained on: the training captions, and with them the prompts.

    Of the embedded data set in every style: a model learns one style first, but its tokenizer is for good, and words
    cut into bytes are learned badly by whoever adapts the model to another style.
    """
    if isinstance(rows, datasets.IterableDataset):
        first = list(first_texts(rows, TOKENIZER_STREAM))
        captions, prompts = [row["captions"] for row in first], [row.get("prompt") for row in first]
    else:
        captions = list(rows["captions"])
        prompts = rows["prompt"] if "prompt" in rows.column_names else []
    if args.data == "scenes":
        others = [style for style in STYLES if style != args.scenes_style]
        captions += [row for style in others for row in scene_captions(args.train_split, TOKENIZER_SCENES, style)]
    counts = Counter(prompts) | Counter({args.prompt: PROMPT_WEIGHT})
    repeated = [[prompt] * min(count, PROMPT_WEIGHT) for prompt, count in counts.items() if prompt]
    return [*chain.from_iterable(captions), *chain.from_iterable(repeated)]
