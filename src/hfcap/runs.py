"""The run folder: where its parts lie, what `--model` means, and the records of how it was made and how good it is.

outputs/<name>/
    run.json         arguments, versions, git commit, machine, seeds, data fingerprint
    captions.jsonl   one caption an image, beside its references
    metrics.json     figures with intervals
    report.html      a page to look at
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
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from hfcap.atomic_files import write_json
from hfcap.errors import ConfigError
from hfcap.json_files import read_object

RUN_JSON = "run.json"
SKIPPED_JSONL = "skipped.jsonl"  # pictures left out by `on_bad_image: skip`
CAPTIONS_JSONL = "captions.jsonl"
METRICS_JSON = "metrics.json"
REPORT_HTML = "report.html"
CARD_README = "README.md"
CHECKPOINTS = "checkpoints"
MODEL = "model"
ADAPTER = "adapter"
MERGED = "merged"

ARTIFACTS = (ADAPTER, MERGED, MODEL)
SCHEMA_VERSION = 1

# What decides a result; the ones that are not installed are left out of the record.
LIBRARIES = (
    "hfcap",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "bitsandbytes",
    "deepspeed",
    "datasets",
    "tokenizers",
    "huggingface_hub",
    "safetensors",
    "numpy",
    "pillow",
)
REDACTED = "<redacted>"

# The last word of the name decides: `hub_token` is a secret, `max_new_tokens` and `image_token_id` are not.
_SECRET_NAME = re.compile(
    r"(^|[_-])(token|secret|password|passwd|credentials?|api[_-]?key|access[_-]?key|auth)$", re.I
)
# Tokens of the Hub, of Git hosts and of common services, and a password inside an address.
_SECRET_VALUE = re.compile(r"\b(hf_|gh[opsu]_|github_pat_|glpat-|sk-)[A-Za-z0-9_-]{8,}|(?<=://)[^/@\s]+:[^/@\s]+(?=@)")
_SPECIAL_TOKEN = re.compile(r"<[^>]*>|\[[^\]]*\]")

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
        ConfigError: no weights there, or an adapter and a model in one folder.
    """
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
            f"model: {folder} holds {ADAPTER}/ and no {MERGED}/: the run was not finished. Run its command again to "
            f"finish it, or give --model {folder / ADAPTER}"
        )
    raise ConfigError(
        f"model: {folder} holds no model: wanted {MERGED}/config.json, {MODEL}/config.json, config.json or "
        "adapter_config.json in it"
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

    The digest covers ids, captions and pictures, in order; that of the prompts is None where no row has one.

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
        digest.update(json.dumps([row["image_id"], row["captions"], picture]).encode())
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


def to_json(value: Any) -> Any:
    """Turn settings into plain JSON values; what JSON does not know (paths, dtypes, enums) becomes its text."""
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((to_json(item) for item in value), key=str)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if type(value) in (str, int, float, bool, type(None)):
        return value
    return to_json(value.value) if isinstance(value, Enum) else str(value)


def run_record(
    arguments: Mapping[str, Any],
    *,
    seeds: Mapping[str, int],
    data: Mapping[str, Any],
    command: Iterable[str] | None = None,
    **further: Any,
) -> dict[str, Any]:
    """Describe how a run was made, for `run.json`. Tokens and passwords are left out; the environment is not read.

    Args:
        arguments: every setting by name, defaults included.
        seeds: by what they seed.
        data: fingerprint (see `data_fingerprint`) of each split, by its name.
        command: the command line as a list, by default the one of this process.
        further: what else belongs into the record, such as `model_type` or `minutes`; JSON values.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _without_secrets_in_command(sys.argv if command is None else command),
        "arguments": without_secrets(to_json(arguments)),
        "seeds": dict(seeds),
        "data": to_json(data),
        "versions": library_versions(),
        "git": git_state(Path(__file__).parent),
        "machine": machine(),
        **without_secrets(to_json(further)),
    }


def without_secrets(value: Any, name: str = "") -> Any:
    """Copy plain JSON values with tokens and passwords replaced, found by the setting's name and by their form."""
    if isinstance(value, dict):
        return {key: without_secrets(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [without_secrets(item, name) for item in value]
    if not isinstance(value, str):
        return value
    if value and _SECRET_NAME.search(name) and not _SPECIAL_TOKEN.fullmatch(value):
        return REDACTED
    return _SECRET_VALUE.sub(REDACTED, value)


def library_versions() -> dict[str, str]:
    """Versions of Python and of the installed libraries that decide a result."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def git_state(folder: str | os.PathLike) -> dict[str, Any] | None:
    """Commit of the checkout that tracks `folder`, and whether files differ from it: `{"commit": str, "dirty": bool}`.

    Untracked files count in `folder` alone; elsewhere they may be data. None without git, outside a checkout, and for
    an installed copy that lies inside somebody else's checkout.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()

    try:
        if not git("ls-files", "--", "."):
            return None
        changes = git("status", "--porcelain", "--untracked-files=no")
        changes += git("ls-files", "--others", "--exclude-standard", "--", ".")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes)}
    except (OSError, subprocess.SubprocessError):
        return None


def machine() -> dict[str, Any]:
    """Operating system, processor, usable cores, and the accelerators if torch is loaded. No host or user name."""
    torch = sys.modules.get("torch")
    accelerators = []
    if torch is not None and torch.cuda.is_available():
        accelerators = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    # Cores this process may use: fewer than the machine has inside a container or under a scheduler.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": cores,
        "accelerators": accelerators,
    }


def _without_secrets_in_command(command: Iterable[str]) -> list[str]:
    words, name = [], ""
    for word in command:
        option, equals, value = word.partition("=")
        if word.startswith("-") and equals:
            words.append(option + equals + without_secrets(value, option.lstrip("-")))
        else:
            words.append(without_secrets(word, name))
        name = word.lstrip("-") if word.startswith("-") else ""
    return words


def _hub_model(name: str, folder: Path) -> ModelSource:
    # `outputs/typo` has the form of a Hub id: an existing first part says that a folder was meant.
    is_path = not _HUB_ID.fullmatch(name) or name.startswith(".") or folder.parts[0] == "outputs"
    if is_path or (len(folder.parts) > 1 and Path(folder.parts[0]).is_dir()):
        beside = (
            sorted(path.name for path in folder.parent.iterdir() if path.is_dir()) if folder.parent.is_dir() else []
        )
        there = f"; {folder.parent} has {', '.join(beside[:10])}" if beside else ""
        raise ConfigError(
            f"model: no folder {folder}{there}. Give a run folder, a model folder or a Hub id (owner/name)"
        )
    return ModelSource(name, MODEL)


def _not_both(folder: Path) -> Path:
    if (folder / "adapter_config.json").is_file():
        raise ConfigError(
            f"model: {folder} holds a model and an adapter; from_pretrained would apply the adapter a second time, "
            "silently. Move adapter_config.json and adapter_model.safetensors to a folder of their own"
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
