"""Run folder: its files, the weights that `--model` means, and the records of metrics and data.

outputs/<name>/
    run.json         arguments, versions, git commit, machine, seeds, data fingerprint
    captions.jsonl   one caption per image, beside its references
    metrics.json     figures with intervals
    report.html      an HTML report
    README.md        the model card, written from the files above
    checkpoints/     of the training, to resume from
    model/           the captioner, after full training
    adapter/         LoRA weights ...
    merged/          ... and the captioner they were merged into, apart: an adapter beside merged weights is applied
                     a second time, silently, by `from_pretrained`
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from hfcap.atomic_files import write_json
from hfcap.errors import ConfigError
from hfcap.json_files import read_object
from hfcap.provenance import to_json

RUN_JSON = "run.json"
SKIPPED_JSONL = "skipped.jsonl"  # pictures left out by `on_bad_image: skip`
CAPTIONS_JSONL = "captions.jsonl"
METRICS_JSON = "metrics.json"
REPORT_HTML = "report.html"
CARD_README = "README.md"
POLICY_YAML = "policy.yaml"  # in the folder of a tagger's weights
CHECKPOINTS = "checkpoints"
MODEL = "model"
ADAPTER = "adapter"
MERGED = "merged"

ARTIFACTS = (ADAPTER, MERGED, MODEL)
SCHEMA_VERSION = 1


_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class ModelSource:
    """Where `from_pretrained` finds a captioner.

    Attributes:
        path: a local folder, or a Hub id.
        artifact: what it is: "merged", "model", or "adapter" (needs its base and PEFT).
    """

    path: str
    artifact: Literal["adapter", "merged", "model"]


def resolve_model(name: str | os.PathLike) -> ModelSource:
    """Find the weights that `--model NAME` means.

    A run folder means its `merged/`, else its `model/`. Any other folder is itself a model or an adapter; a name that
    is no folder is a Hub id.

    Raises:
        ConfigError: no weights there, an adapter and a model in one folder, or an empty name.
    """
    if not str(name).strip():
        raise ConfigError(option="model", got=str(name), wanted="a run folder, a model folder or a Hub id")
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return _hub_model(str(name), folder)
    folder = folder.absolute()
    for artifact in (MERGED, MODEL):
        if (folder / artifact / "config.json").is_file():
            return ModelSource(str(_not_both(folder / artifact)), artifact)
    if (folder / "config.json").is_file():
        return ModelSource(str(_not_both(folder)), MODEL)
    if (folder / "adapter_config.json").is_file():
        return ModelSource(str(folder), ADAPTER)
    if (folder / ADAPTER).is_dir():
        raise ConfigError(
            f"the run was not finished: it has {ADAPTER}/ and no {MERGED}/",
            option="model",
            got=str(folder),
            fix=f"run its command again, or pass --model {folder / ADAPTER}",
        )
    raise ConfigError(
        "this folder holds no model",
        option="model",
        got=str(folder),
        wanted=f"{MERGED}/config.json, {MODEL}/config.json, config.json or adapter_config.json in it",
    )


def write_metrics(
    path: str | os.PathLike,
    metrics: Mapping[str, Mapping[str, Any]],
    *,
    num_images: int,
    tokenizer: str,
    idf: str,
    decoding: Mapping[str, Any],
    model_artifact: str | None,
    num_missing: int = 0,
    **measured: Any,
) -> dict[str, Any]:
    """Write `metrics.json` atomically and return what was written.

    Args:
        path: the file.
        metrics: `{key: {"value": float, "ci95": (low, high)}}`, raw as the metrics return them (not times 100).
        num_images: images the figures rest on.
        tokenizer: name of the tokenizer the metrics split words with.
        idf: where CIDEr's document frequencies come from: "references", or the file.
        decoding: generation settings that made the captions.
        model_artifact: which weights wrote the captions: "adapter", "merged" or "model"; None if unknown.
        num_missing: images left out because they had no caption; written only if there were any.
        measured: what the figures are of, by content: see `hfcap.evaluation.Measured.record`.

    Raises:
        ValueError: a figure that is no finite number, an interval that is not one, an unknown artifact.
    """
    if model_artifact is not None and model_artifact not in ARTIFACTS:
        raise ValueError(f"model_artifact={model_artifact!r}; wanted one of {', '.join(ARTIFACTS)}, or None")
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "metrics": {key: _figure(key, figure) for key, figure in metrics.items()},
        "num_images": num_images,
        "tokenizer": tokenizer,
        "idf": idf,
        "decoding": to_json(decoding),
        "model_artifact": model_artifact,
        **to_json(measured),
    }
    if num_missing:
        record["num_missing"] = num_missing
    write_json(path, record)
    return record


def read_metrics(path: str | os.PathLike) -> dict[str, Any]:
    """Read and check `metrics.json`.

    Raises:
        ValueError: not JSON, another schema version, a key missing, a figure that is none.
    """
    record = read_object(path)
    if record.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{path}: schema_version is {record.get('schema_version')!r}, this hfcap reads {SCHEMA_VERSION}; evaluate "
            "again"
        )
    wanted = ("metrics", "num_images", "tokenizer", "idf", "decoding", "model_artifact")
    missing = [key for key in wanted if key not in record]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} missing; evaluate again")
    for key, figure in record["metrics"].items():
        _figure(f"{path}: {key}", figure)
    return record


def metrics_tokenizer(folder: Path) -> str:
    """Return the tokenizer that the figures of a run rest on, "ptb" where it has none."""
    path = folder / METRICS_JSON
    return read_metrics(path)["tokenizer"] if path.is_file() else "ptb"


def read_run(path: str | os.PathLike) -> dict[str, Any]:
    """Read `run.json`, as `run_record` made it. Raises ValueError if it is no JSON object."""
    return read_object(path)


def data_name(source: Any) -> str:
    """Name of a data source: of a local folder or file only its own name, which says enough and no more."""
    return Path(str(source)).name


def data_fingerprint(rows: Iterable[Mapping[str, Any]], pictures: Iterable[str] | None = None) -> dict[str, Any]:
    """Say which data a run saw: `{"num_images", "num_captions", "sha256", "prompts_sha256"}`.

    The digest covers ids, captions and pictures, in order, with the columns `chosen` and `rejected` where rows have
    them; that of the prompts is None where no row has one.

    Args:
        rows: with `image_id` (str), `captions` (list of str), perhaps `prompt`, and, without `pictures`, perhaps
            `image` (`{"bytes": ..., "path": ...}`): a picture that is given undecoded counts by its bytes. For a
            `datasets` dataset pass `dataset.cast_column("image", Image(decode=False))`.
        pictures: SHA-256 (hex) of each row's encoded picture, where it is known.
    """
    digest, prompts = sha256(), sha256()
    num_images = num_captions = num_prompts = 0
    known = None if pictures is None else iter(pictures)
    for row in rows:
        picture = _picture_sha256(row.get("image")) if known is None else next(known)
        # JSON keeps the parts apart: ["ab", "c"] and ["a", "bc"] differ.
        pairs = [row[name] for name in ("chosen", "rejected") if name in row]
        digest.update(json.dumps([row["image_id"], row["captions"], picture, *pairs]).encode())
        prompts.update(json.dumps(row.get("prompt")).encode())
        num_images += 1
        num_captions += len(row["captions"])
        num_prompts += row.get("prompt") is not None
    return {
        "num_images": num_images,
        "num_captions": num_captions,
        "sha256": digest.hexdigest(),
        "prompts_sha256": prompts.hexdigest() if num_prompts else None,
    }


def _picture_sha256(image: Any) -> str | None:
    content = image.get("bytes") if isinstance(image, Mapping) else None
    if content is None and isinstance(image, Mapping) and image.get("path"):
        content = Path(image["path"]).read_bytes()
    return sha256(content).hexdigest() if content is not None else None


def _hub_model(name: str, folder: Path) -> ModelSource:
    # `outputs/typo` has the form of a Hub id: an existing first part says that a folder was meant.
    is_path = not _HUB_ID.fullmatch(name) or name.startswith(".") or folder.parts[0] == "outputs"
    if is_path or (len(folder.parts) > 1 and Path(folder.parts[0]).is_dir()):
        beside = (
            sorted(path.name for path in folder.parent.iterdir() if path.is_dir()) if folder.parent.is_dir() else []
        )
        there = f"; {folder.parent} has {', '.join(beside[:10])}" if beside else ""
        raise ConfigError(
            f"no such folder{there}",
            option="model",
            got=str(folder),
            fix="pass a run folder, a model folder or a Hub id (owner/name)",
        )
    return ModelSource(name, MODEL)


def _not_both(folder: Path) -> Path:
    if (folder / "adapter_config.json").is_file():
        raise ConfigError(
            "this folder holds a model and an adapter, and from_pretrained would silently apply the adapter again",
            option="model",
            got=str(folder),
            fix="move adapter_config.json and adapter_model.safetensors to a folder of their own",
        )
    return folder


def _figure(key: str, figure: Mapping[str, Any]) -> dict[str, Any]:
    value, interval = figure.get("value"), figure.get("ci95")
    if not _is_finite(value):
        raise ValueError(f"{key}: value is {value!r}; wanted a finite number")
    if not isinstance(interval, list | tuple) or len(interval) != 2 or not all(map(_is_finite, interval)):
        raise ValueError(f"{key}: ci95 is {interval!r}; wanted two finite numbers (low, high)")
    low, high = map(float, interval)
    if low > high:
        raise ValueError(f"{key}: ci95 is ({low}, {high}); wanted low <= high")
    return {"value": float(value), "ci95": [low, high]}


def _is_finite(value: Any) -> bool:
    # Anything that float() takes as a number: NumPy scalars too, but no strings.
    return not isinstance(value, str | bool) and hasattr(value, "__float__") and math.isfinite(value)
