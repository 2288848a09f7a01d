"""Card data beyond `metrics.json` and `run.json`: read off weights and captions, kept as JSON.

`card.json` makes a card reproducible where the weights and the data are not: a run's folder of records
(`run.json`, `metrics.json`, `card.json`) is enough to write the card again, letter for letter.
"""

import json
import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from safetensors import SafetensorError, safe_open

from hfcap import runs
from hfcap.atomic_files import write_json
from hfcap.content_hashes import captioner_hashes, captions_sha256
from hfcap.hub.caption_stats import CaptionStats, caption_stats
from hfcap.predictions import read_predictions

THUMBNAILS = "thumbnails"  # folder of the pictures that a card shows
CARD_JSON = "card.json"
NUM_SAMPLES = 6


@dataclass(frozen=True)
class CardData:
    """What the run's weights and captions say themselves.

    Attributes:
        name: the run's.
        weights: what the usage example loads: a folder as a user types it, or a Hub id.
        artifact: which weights they are: "adapter", "merged" or "model".
        form: how they load: "native", "hfcap", "remote-code", "adapter" or "onnx".
        model_type: from the config of the model, or of an adapter's base; "adapter" in records of earlier versions.
        num_parameters: values in the weight files.
        prompt: the instruction the captioner was trained with, or None.
        base: for an adapter, the base it names.
        habits: measured on the captions of the evaluation.
        samples: `{"image_id", "caption", "thumbnail"}` of pictures drawn at random; `thumbnail` is a path or None.
        base_revision: the commit of that base, where the adapter names one.
        weights_hash: of the run's weights (`hfcap.content_hashes`); None if unknown. Exported weights keep it: the
            verification of the export has shown that they are the same but for `dtype_change`.
        settings_hash: of its configuration, processor and tokenizer, likewise.
        captions_hash: of the captions that `habits` and `samples` are of; None if unknown.
        dtype_change: of an export in another dtype `{"before", "after", "num_images", "cider_before", "cider_after"}`.
        oldest_transformers: of an export, the oldest release that is known to load it.
        variants: of an ONNX export, `{"dtype", "bytes", "cpu_milliseconds", "cider", "cost"}` each: the median CPU
            time of a caption on one thread; raw CIDEr, None where none was measured; `cost` is None for float32.
        num_beams: of an ONNX export, the beams that times and CIDEr are measured with.
        revision: of a repository, the branch; None for `main`.
    """

    name: str
    weights: str
    artifact: str
    form: str
    model_type: str
    num_parameters: int
    prompt: str | None
    base: str | None
    habits: CaptionStats
    samples: list[dict[str, str | None]]
    base_revision: str | None = None
    weights_hash: str | None = None
    settings_hash: str | None = None
    captions_hash: str | None = None
    dtype_change: dict[str, Any] | None = None
    oldest_transformers: str | None = None
    variants: list[dict[str, Any]] | None = None
    num_beams: int | None = None
    revision: str | None = None


def read_card_data(folder: Path, recorded: bool | None = None) -> CardData:
    """CardData of a folder of records: read off weights and captions where they are, else from `card.json`.

    Args:
        folder: a run, or its records alone.
        recorded: whether to take name, places and thumbnails from `card.json`; by default where there are no weights.
            What it says of weights and captions that are there is read off them all the same.

    Raises:
        ValueError: neither is there, or a file is not what it should be.
        FileNotFoundError: the run has weights and no captions: evaluate it first.
    """
    if recorded is None:
        recorded = not any((folder / part).is_dir() for part in runs.ARTIFACTS)
    if recorded:
        path = folder / CARD_JSON
        if not path.is_file():
            raise ValueError(f"{folder} has neither weights ({', '.join(runs.ARTIFACTS)}) nor {CARD_JSON}")
        record = json.loads(path.read_text(encoding="utf-8"))
        return _as_they_are(folder, CardData(**record | {"habits": CaptionStats(**record["habits"])}))
    source = runs.resolve_model(folder)
    return CardData(
        name=folder.resolve().name,
        weights=as_typed(Path(source.path)),
        artifact=source.artifact,
        form="hfcap",
        base=None,
        **weight_data(Path(source.path)),
        **captioner_hashes(source.path),
        **_caption_data(folder),
    )


def _as_they_are(folder: Path, recorded: CardData) -> CardData:
    """CardData of `card.json`, but for weights and captions that are in the folder and have changed since."""
    weights = folder / recorded.artifact
    if (weights / "config.json").is_file():
        recorded = replace(recorded, **weight_data(weights), **captioner_hashes(weights))
    if not (folder / runs.CAPTIONS_JSONL).is_file():
        return recorded
    found = _caption_data(folder)
    if found["captions_hash"] == recorded.captions_hash:  # they may be counted by another tokenizer now
        return replace(recorded, habits=found["habits"])
    if recorded.captions_hash is None:  # an earlier hfcap wrote it: the same captions keep their thumbnails
        known = {(sample["image_id"], sample["caption"]): sample for sample in recorded.samples}
        found["samples"] = [known.get((sample["image_id"], sample["caption"]), sample) for sample in found["samples"]]
    return replace(recorded, **found)


def _caption_data(folder: Path) -> dict[str, Any]:
    """`habits`, `samples` and `captions_hash` of the captions of a run."""
    rows = sorted(read_predictions(folder / runs.CAPTIONS_JSONL), key=lambda row: row.image_id)
    captions = [row.captions[0] for row in rows]
    drawn = Random(0).sample(rows, min(NUM_SAMPLES, len(rows)))
    return {
        "habits": caption_stats(
            captions, [row.extra.get("captions") or [] for row in rows], runs.metrics_tokenizer(folder)
        ),
        "samples": [{"image_id": row.image_id, "caption": row.captions[0], "thumbnail": None} for row in drawn],
        "captions_hash": captions_sha256((row.image_id, row.captions[0]) for row in rows),
    }


def write_card_data(folder: Path, card_data: CardData) -> None:
    """Write `card.json`."""
    write_json(folder / CARD_JSON, asdict(card_data))


def weight_data(weights: Path) -> dict[str, Any]:
    """`model_type`, `num_parameters` and `prompt` of a folder of weights; of an adapter what it says itself."""
    config = _read_object(weights / "config.json")
    settings = _read_object(weights / "processor_config.json") | _read_object(weights / "tokenizer_config.json")
    return {
        "model_type": config.get("model_type", "adapter"),
        "num_parameters": count_parameters(weights),
        "prompt": settings.get("caption_prompt"),
    }


def count_parameters(folder: Path) -> int:
    """Count the values in a folder's safetensors files from their headers; tied weights are stored, and counted, once.

    Raises:
        ValueError: there are no such files, or one is cut off or damaged.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} has no .safetensors file; save the model there")
    count = 0
    for path in files:
        try:
            with safe_open(path, "np") as tensors:
                count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is cut off or damaged ({error}); save the model there again") from None
    return count


def _read_object(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def as_typed(folder: str | os.PathLike) -> str:
    """Return the folder relative to where the command runs; outside of it its last two parts."""
    folder = Path(folder)
    try:
        return folder.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return "/".join(folder.parts[-2:])
