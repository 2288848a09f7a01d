"""Folders of ONNX exports: recognition, files of settings, graphs and their variants."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hfcap.errors import ConfigError
from hfcap.json_files import read_object

GRAPHS = "onnx"  # folder of the graphs, as transformers.js and optimum name it
_EXPORT = "write it again with `hfcap export RUN --format onnx --to FOLDER`"
# Graphs of the two layouts, as transformers.js names them.
ENCODER_DECODER = ("encoder_model", "decoder_model_merged")
LLAVA = ("vision_encoder", "embed_tokens", "decoder_model_merged")
# The end of a graph's file name for each `dtype` of transformers.js.
SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_int8", "uint8": "_uint8", "q8": "_quantized", "q4": "_q4"}


@dataclass(frozen=True)
class OnnxFolder:
    """The files of an ONNX export.

    Attributes:
        path: the folder.
        layout: "encoder_decoder", or "llava" with the picture's features among the tokens.
        config: `config.json`.
        generation: `generation_config.json`.
        preprocessor: `preprocessor_config.json`.
        graphs: file of each graph by its name.
    """

    path: Path
    layout: Literal["encoder_decoder", "llava"]
    config: dict[str, Any]
    generation: dict[str, Any]
    preprocessor: dict[str, Any]
    graphs: dict[str, Path]


def is_onnx_folder(name: str | os.PathLike) -> bool:
    """Whether a name is a folder with ONNX graphs and no weights for torch beside them."""
    folder = Path(name)
    return any(Path(folder, GRAPHS).glob("*.onnx")) and not any(
        path for pattern in ("*.safetensors", "pytorch_model*.bin") for path in folder.glob(pattern)
    )


def read_onnx_folder(name: str | os.PathLike) -> OnnxFolder:
    """Read the settings of an ONNX export and find its graphs.

    Raises:
        ConfigError: no such folder, a file that is missing or malformed, or graphs of another kind of model.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ConfigError("no such folder", option="model", got=str(folder), fix="pass the folder of an ONNX export")
    config = _settings(folder, "config.json")
    generation = _settings(folder, "generation_config.json")
    preprocessor = _settings(folder, "preprocessor_config.json")
    found = sorted(path.name for path in Path(folder, GRAPHS).glob("*.onnx"))
    is_encoder_decoder = any(name.startswith(ENCODER_DECODER[0]) for name in found)
    if not is_encoder_decoder and not any(name.startswith(LLAVA[0]) for name in found):
        raise ConfigError(
            f"no captioner: {GRAPHS}/ has {', '.join(found) or 'no graph'}",
            option="model",
            got=str(folder),
            wanted=f"{ENCODER_DECODER[0]}.onnx or {LLAVA[0]}.onnx in it",
            fix=_EXPORT,
        )
    names = ENCODER_DECODER if is_encoder_decoder else LLAVA
    graphs = {name: _graph(folder, name, config) for name in names}
    return OnnxFolder(
        folder, "encoder_decoder" if is_encoder_decoder else "llava", config, generation, preprocessor, graphs
    )


def need_file(folder: Path, name: str) -> Path:
    """Return the path of a file of an export. Raises ConfigError where it is missing."""
    path = folder / name
    if not path.is_file():
        raise ConfigError(f"{name} is missing", option="model", got=str(folder), fix=_EXPORT)
    return path


def _settings(folder: Path, name: str) -> dict[str, Any]:
    try:
        return read_object(need_file(folder, name))
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(str(error)) from None


def _graph(folder: Path, name: str, config: dict[str, Any]) -> Path:
    """File of a graph: the one that config.json recommends to transformers.js, else the first variant there is."""
    dtype = config.get("transformers.js_config", {}).get("dtype")
    recommended = dtype.get(name) if isinstance(dtype, dict) else dtype
    suffixes = [SUFFIXES[recommended]] if recommended in SUFFIXES else []
    variants = [folder / GRAPHS / f"{name}{suffix}.onnx" for suffix in (*suffixes, *SUFFIXES.values())]
    return next((path for path in variants if path.is_file()), None) or need_file(folder, f"{GRAPHS}/{name}.onnx")
