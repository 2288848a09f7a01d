"""Publishing of captioned images as a data set on the Hub: parquet files and a card, in one commit."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from math import ceil
from pathlib import Path

from datasets import Dataset, Image
from huggingface_hub import DatasetCardData

from hfcap import __version__, runs
from hfcap.atomic_files import write_atomic
from hfcap.data.picture_checks import undecoded
from hfcap.data.pictures import read_bytes
from hfcap.function_words import looks_english
from hfcap.hub.card import card_environment
from hfcap.hub.card_metadata import HFCAP_TAG
from hfcap.hub.push import Push, Target, push_folder
from hfcap.scripts import num_words

BYTES_A_SHARD = 500_000_000  # what the Hub recommends for parquet files
NUM_SAMPLES = 6


@dataclass(frozen=True)
class PushedSplit:
    """What a data set's card says of a split: images, captions, and the mean number of words in a caption."""

    name: str
    num_images: int
    num_captions: int
    words: float


def push_dataset(
    splits: Mapping[str, Dataset], target: Target, license: str | None = None, language: str | None = None
) -> Push:
    """Publish splits of rows `{image_id, image, captions, …}`, pictures embedded as the files they are.

    Args:
        splits: by name, as `load_captions` gives them.
        target: where to; its `repo_type` is "dataset".
        license: licence id as the Hub spells it; without one the card says that the rights are not stated.
        language: language code of the captions; by default English, if they look like it.

    Raises:
        ConfigError, WorkError: as `push_folder` does.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(splits, Path(folder), target.repo_id, license, language)
        return push_folder(Path(folder), target, "Upload captioned images")


def write_dataset(
    splits: Mapping[str, Dataset], folder: Path, repo_id: str, license: str | None = None, language: str | None = None
) -> None:
    """Write `data/SPLIT-00000-of-00001.parquet` and the card, as `load_dataset` reads them."""
    (folder / "data").mkdir(parents=True)
    for name, rows in splits.items():
        size = sum(_file_size(row["image"]) for row in undecoded(rows.select_columns(["image"])))
        num_shards = ceil(size / BYTES_A_SHARD) or 1
        for index in range(num_shards):
            shard = rows.shard(num_shards, index, contiguous=True)
            _embedded(shard).to_parquet(folder / "data" / f"{name}-{index:05d}-of-{num_shards:05d}.parquet")
    write_atomic(folder / runs.CARD_README, dataset_card(splits, repo_id, license, language))


def _file_size(image: dict) -> int:
    return len(image["bytes"]) if image["bytes"] is not None else Path(image["path"]).stat().st_size


def _embedded(rows: Dataset) -> Dataset:
    """Put the files' bytes into the rows, where `to_parquet` would write a path on this machine alone."""

    def embed(row: dict) -> dict:
        return {"image": {"bytes": read_bytes(row["image"]), "path": Path(row["image"]["path"] or "").name or None}}

    rows = undecoded(rows)
    # A few at a time: writing a batch of the default 1,000 photos would hold them all in memory.
    return rows.map(embed, features=rows.features, writer_batch_size=100).cast_column("image", Image())


def dataset_card(
    splits: Mapping[str, Dataset], repo_id: str, license: str | None = None, language: str | None = None
) -> str:
    """Fill the card of a data set: metadata for the Hub, columns, counts and captions as they are."""
    first = next(iter(splits.values()))
    if language is None and looks_english(text for captions in first["captions"] for text in captions):
        language = "en"
    metadata = DatasetCardData(
        language=language,
        license=license,
        task_categories=["image-to-text"],
        tags=[HFCAP_TAG, "image-captioning"],
        pretty_name=repo_id.split("/")[-1],
    )
    return (
        card_environment()
        .get_template("dataset_card.md.jinja")
        .render(
            metadata=metadata.to_yaml().strip(),
            name=repo_id.split("/")[-1],
            repo_id=repo_id,
            license=license,
            version=__version__,
            splits=[_facts(name, rows) for name, rows in splits.items()],
            other_columns=[name for name in first.column_names if name not in ("image_id", "image", "captions")],
            samples=[captions[0] for captions in islice(first["captions"], NUM_SAMPLES)],
        )
    )


def _facts(name: str, rows: Dataset) -> PushedSplit:
    words = [num_words(caption) for captions in rows["captions"] for caption in captions]
    return PushedSplit(name, len(rows), len(words), sum(words) / len(words))
