"""Folders of ONNX exports: recognition, `hfcap_ondevice.json`, graphs and their variants."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from hfcap.errors import ConfigError
from hfcap.json_files import read_object

ONDEVICE_JSON = "hfcap_ondevice.json"
SCHEMA_VERSION = 1
# What transformers.js calls the variants of an export (`dtype` in config.json).
VARIANTS = {"fp32": "none", "fp16": "float16", "q8": "int8"}
# Graphs by layout, in the order in which they run.
GRAPHS = {
    "encoder_decoder": ("encoder_model", "decoder_model_merged"),
    "decoder_only": ("vision_encoder", "embed_tokens", "decoder_model_merged"),
}
# What captioning reads of hfcap_ondevice.json, and of the description of a graph, with the kind of each.
_WANTED = {
    "layout": str,
    "decoding": dict,
    "image_processor": dict,
    "prompt_ids": list,
    "image_token_id": (int, NoneType),
    "variants": dict,
}
_WANTED_OF_GRAPH = {"file": str, "bytes": int}
_AGAIN = "write it again with `hfcap export RUN --format onnx --to FOLDER`"


@dataclass(frozen=True)
class OnnxFolder:
    """An ONNX export.

    Attributes:
        path: the folder.
        settings: the content of `hfcap_ondevice.json`.
        variant: which graphs are used: "none", "float16" or "int8", by their quantization.
        graphs: file of each graph by its name.
    """

    path: Path
    settings: Mapping[str, Any]
    variant: str
    graphs: Mapping[str, Path]


def is_onnx_folder(name: str | os.PathLike) -> bool:
    """Whether a name is a folder with an ONNX export, or a part of one, and no weights for torch beside it."""
    folder = Path(name)
    if not (folder / ONDEVICE_JSON).is_file() and not any(folder.glob("onnx/*.onnx")):
        return False
    return not any(path for pattern in ("*.safetensors", "pytorch_model*.bin") for path in folder.glob(pattern))


def refuse_onnx(name: str) -> None:
    """Refuse an ONNX export where weights for torch are needed, or the extra `train`. Raises ConfigError."""
    if is_onnx_folder(name):
        raise ConfigError(
            "an ONNX export captions photos and folders of them, by `hfcap caption` and `hfcap alt suggest` without "
            "--data, and nothing else",
            option="model",
            got=name,
            fix="name the photos, or pass the run or the model folder that it was exported from",
        )


def read_onnx_folder(name: str | os.PathLike, variant: str | None = None) -> OnnxFolder:
    """Read the settings of an ONNX export and find its graphs.

    Args:
        name: the folder.
        variant: "none", "float16" or "int8"; by default the one that the export recommends.

    Raises:
        ConfigError: no such folder, one that hfcap did not write or did not finish, or no such variant.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ConfigError("no such folder", option="model", got=str(folder), fix="pass the folder of an ONNX export")
    settings = read_settings_file(folder, ONDEVICE_JSON)
    if settings.get("schema_version") != SCHEMA_VERSION:
        raise ConfigError(
            option=f"{ONDEVICE_JSON}: schema_version",
            got=settings.get("schema_version"),
            wanted=str(SCHEMA_VERSION),
            fix="install the hfcap that wrote it, or export the model again",
        )
    missing = _unusable(settings, _WANTED)
    missing += [key for key in ("prompt_ids", "variants") if key not in missing and not settings[key]]
    if missing or settings["layout"] not in GRAPHS:
        raise ConfigError(
            f"no usable {', '.join(missing)}" if missing else f"layout {settings['layout']!r}",
            option=str(folder / ONDEVICE_JSON),
            fix=_AGAIN,
        )
    chosen = _variant(folder, settings["variants"], variant)
    described = settings["variants"][chosen]
    graphs = {}
    for graph in GRAPHS[settings["layout"]]:
        if (
            not isinstance(described, dict)
            or not isinstance(described.get(graph), dict)
            or _unusable(described[graph], _WANTED_OF_GRAPH)
        ):
            raise ConfigError(f"no graph {graph}", option=str(folder / ONDEVICE_JSON), fix=_AGAIN)
        graphs[graph] = _whole_file(folder, described[graph])
    return OnnxFolder(folder, settings, chosen, graphs)


def need_file(folder: Path, name: str) -> Path:
    """Return the path of a file of an export. Raises ConfigError where it is missing."""
    path = folder / name
    if not path.is_file():
        raise ConfigError(f"{name} is missing", option="model", got=str(folder), fix=_AGAIN)
    return path


def read_settings_file(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON file of an export. Raises ConfigError where it is missing or malformed."""
    path = need_file(folder, name)
    try:
        return read_object(path)
    except ValueError:
        raise ConfigError("no JSON object, or a part of one", option=str(path), fix=_AGAIN) from None


def _unusable(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    return [key for key, kind in wanted.items() if key not in found or not isinstance(found[key], kind)]


def _variant(folder: Path, variants: Mapping[str, Any], wanted: str | None) -> str:
    if wanted is not None and wanted not in variants:
        raise ConfigError(option="variant", got=wanted, wanted=f"one of {', '.join(variants)}")
    if wanted is not None:
        return wanted
    config = read_settings_file(folder, "config.json")
    javascript = config.get("transformers.js_config")
    dtype = javascript.get("dtype", "fp32") if isinstance(javascript, dict) else "fp32"
    # transformers.js also takes a dtype for each graph, which people write by hand.
    recommended = VARIANTS.get(dtype) if isinstance(dtype, str) else None
    return recommended if recommended in variants else next(iter(variants))


def _whole_file(folder: Path, described: Mapping[str, Any]) -> Path:
    """Return a graph's file. Raises ConfigError where it is missing, or of another size than was written."""
    path = need_file(folder, described["file"])
    size = path.stat().st_size
    if size != described["bytes"]:
        raise ConfigError(
            f"it has {size:,} bytes of {described['bytes']:,}",
            option=str(path),
            fix="copy the folder again (`git lfs pull` fetches files that are pointers), or " + _AGAIN,
        )
    return path
