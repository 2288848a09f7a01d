"""Origins of data and parts: folder or Hub id, decided once and kept in `run.json`.

`clients/photos` has the form of a Hub id and may be a folder. Which it was is known where and when the run starts;
another working directory, or a stranger who reads the record, must not guess it again.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from hfcap import runs
from hfcap.errors import ConfigError
from hfcap.json_files import read_object

ORIGINS = "origins"  # key in `run.json`
ADAPTER_CONFIG = "adapter_config.json"
PARTS = ("model", "encoder", "decoder")
# What rewards and metrics are computed with.
CLIP_MODEL = "clip_model"
SYNONYMS = "chair_synonyms"
# What is trained before the run starts, and so is a folder, whether it is there yet or not.
_TRAINED_FIRST = {"model": "base_config", "encoder": "encoder_training"}
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
# Settings whose value is a path, or may be one; no other text is taken for a path, whatever is in it.
PATH_SETTINGS = (
    "data",
    "image_folder",
    "policy",
    *PARTS,
    CLIP_MODEL,
    SYNONYMS,
    *_TRAINED_FIRST.values(),
    "cache_dir",
    "output_dir",
    "run_name",
    "accelerator_config",
    "fsdp_config",
)


def find_origins(arguments: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Say of the data and each pretrained part whether it is a folder here or a name on the Hub.

    Args:
        arguments: every setting by name.

    Returns:
        `{name: {"kind": "folder", "path": absolute} or {"kind": "hub"}}` of those that are given of "data",
        "image_folder", "model", "encoder", "decoder", "clip_model" and "chair_synonyms". A file counts as a folder;
        the embedded `scenes` are neither.
    """
    origins = {}
    for name in ("data", "image_folder", *PARTS, CLIP_MODEL, SYNONYMS):
        value = arguments.get(name)
        if value is None or (name == "data" and value == "scenes"):
            continue
        path = Path(value).expanduser()
        is_here = path.exists() or arguments.get(_TRAINED_FIRST.get(name)) is not None
        is_hub = name not in ("image_folder", SYNONYMS) and not is_here and bool(_HUB_NAME.fullmatch(value))
        origins[name] = {"kind": "hub"} if is_hub else {"kind": "folder", "path": os.path.abspath(path)}
    return origins


def is_on_hub(run: Mapping[str, Any], name: str) -> bool:
    """Whether the setting `name` of a run is a Hub id.

    A record of an earlier hfcap does not say so; its values are then judged by their form, and by what is here.

    Args:
        run: the record of `run.json`.
        name: "data", "clip_model", or one of `PARTS`.
    """
    origin = run.get(ORIGINS, {}).get(name)
    if origin is not None:
        return origin["kind"] == "hub"
    value = run["arguments"].get(name)
    return value is not None and "/" in value and bool(_HUB_NAME.fullmatch(value)) and not _is_path(value)


def _is_path(value: str) -> bool:
    return Path(value).exists() or Path(value).parts[0] == "outputs"


def hub_ids(run: Mapping[str, Any]) -> list[str]:
    """Hub ids of the pretrained parts that a run started from; folders of its machine are not named."""
    return [run["arguments"][name] for name in PARTS if is_on_hub(run, name)]


def part_name(run: Mapping[str, Any], name: str) -> str:
    """The value of a path setting for strangers: a Hub id as it is, of a folder its own name.

    Of the weights inside a run folder that is the run's name.
    """
    value = run["arguments"][name]
    if name in ("data", *PARTS, CLIP_MODEL) and is_on_hub(run, name):
        return value
    path = Path(value)
    return path.parent.name if path.name in runs.ARTIFACTS else path.name


def public_record(run: Mapping[str, Any]) -> dict[str, Any]:
    """The record of `run.json` without what only the machine it ran on knows: command line, folders on the way."""
    arguments = {
        name: part_name(run, name) if name in PATH_SETTINGS and isinstance(value, str) else value
        for name, value in run["arguments"].items()
    }
    public = {key: value for key, value in run.items() if key != "command"} | {"arguments": arguments}
    if ORIGINS in run:
        kept = ("kind", "weights_hash", "settings_hash", "content_hash")
        public[ORIGINS] = {
            name: {key: origin[key] for key in kept if key in origin} for name, origin in run[ORIGINS].items()
        }
    return public


def data_settings(run: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of a run with the places of its data as absolute paths: they hold in any working directory.

    Args:
        run: the record of `run.json`.
        folder: the run folder, perhaps moved together with what lies around it.
    """
    arguments, origins, started_in = dict(run["arguments"]), run.get(ORIGINS, {}), _started_in(run, folder)
    for name in ("data", "image_folder"):
        value, origin = arguments.get(name), origins.get(name, {})
        if value is None or (name == "data" and value == "scenes") or origin.get("kind") == "hub":
            continue
        places = [origin.get("path"), started_in and started_in / value]
        arguments[name] = str(next((place for place in places if place and Path(place).exists()), value))
    return arguments


def adapter_base(adapter: str | os.PathLike) -> tuple[str | None, str | None]:
    """Name and revision of the base that an adapter was trained on.

    Args:
        adapter: its folder, in a run folder or not.

    Returns:
        An absolute path of a folder, or a Hub id with its revision, as the adapter's configuration says. A folder that
        was moved together with the run is found from there. (None, None) for what is no adapter.

    Raises:
        ConfigError: its configuration names no base that could be one.
    """
    path = Path(adapter, ADAPTER_CONFIG)
    if not path.is_file():
        return None, None
    settings = read_object(path)
    name, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(name, (str, NoneType)):
        raise ConfigError(option=f"{path}: base_model_name_or_path", got=name, wanted="a folder or a Hub id")
    if name is None or (Path(name).is_absolute() and Path(name).is_dir()):
        return name, revision
    return _base_of_run(Path(adapter), name) or name, revision


def _base_of_run(adapter: Path, name: str) -> str | None:
    """The folder `name`, taken from where the adapter's run was started; None if there is none, or on the Hub."""
    adapter = Path(os.path.abspath(adapter))
    # RUN/adapter, RUN/checkpoints/checkpoint-N
    run = next((place for place in adapter.parents[:2] if (place / runs.RUN_JSON).is_file()), None)
    if run is None:
        return os.path.abspath(name) if Path(name).is_dir() else None
    record = runs.read_run(run / runs.RUN_JSON)
    if record.get(ORIGINS, {}).get("model", {}).get("kind") == "hub":
        return None
    started_in, model = _started_in(record, run), record["arguments"].get("model")
    if started_in is not None and (started_in / name).is_dir():  # an earlier hfcap wrote it as it was given
        return str(started_in / name)
    if started_in is not None and model is not None and (started_in / model).is_dir():
        try:
            return runs.resolve_model(started_in / model).path
        except ConfigError:
            return None
    return os.path.abspath(name) if Path(name).is_dir() else None


def _started_in(run: Mapping[str, Any], folder: Path) -> Path | None:
    """The working directory that a run was started in, if its folder was given relative to it and has its name still.

    Where a whole project was moved, this is the directory's new place.
    """
    output_dir = run["arguments"].get("output_dir")
    if output_dir is None or Path(output_dir).is_absolute():
        return None
    path = Path(os.path.normpath(output_dir))  # the recipes set it to the folder of the checkpoints
    parts = list((path.parent if path.name == runs.CHECKPOINTS else path).parts)
    own = Path(os.path.abspath(folder)).parts
    if ".." in parts or not parts or list(own[-len(parts) :]) != parts:
        return None
    return Path(*own[: -len(parts)])
