"""Checkpoint files that may be read: safetensors, and nothing outside the folder."""

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import HFValidationError
from safetensors import SafetensorError, safe_open

from hfcap.errors import ConfigError, as_config_error
from hfcap.json_files import read_object

PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}  # running code where they are loaded


SETTINGS = (
    "config",
    "adapter_config",
    "tokenizer_config",
    "preprocessor_config",
    "processor_config",
    "generation_config",
)


def check_settings(folder: str | os.PathLike) -> None:
    """Refuse a folder whose JSON files of settings are malformed, in one line, which libraries may answer by anything.

    Raises:
        ConfigError: naming the file and the fix; nothing where there is no such folder or file.
    """
    for path in (Path(folder, f"{name}.json") for name in SETTINGS):
        if path.is_file():
            with as_config_error():
                read_object(path)


def check_checkpoint(name: str | os.PathLike, revision: str | None = None) -> None:
    """Refuse a checkpoint with pickled weights only, files that are cut off, or an index that leaves its folder.

    Of a Hub id the names of the files are asked for, and nothing is downloaded. Left to itself, transformers would
    send the repository's name and the access token to a conversion service, and load what a pull request holds. A file
    outside its repository cannot be downloaded, so the index is for folders alone.

    Args:
        name: folder, or Hub id at `revision`. A Hub that does not answer, or has no such model, is left to
            `from_pretrained`, which says so.
        revision: branch, tag or commit; the main branch by default.

    Raises:
        ConfigError: naming the file and the fix.
    """
    folder = Path(name)
    is_local = folder.is_dir()
    check_settings(folder)
    files = {path.name for path in folder.iterdir() if path.is_file()} if is_local else _hub_files(str(name), revision)
    pickles = sorted(file for file in files if Path(file).suffix in PICKLE_SUFFIXES and file != "training_args.bin")
    if pickles and not any(file.endswith(".safetensors") for file in files):
        raise ConfigError(
            f"pickled weights only ({pickles[0]}), and loading a pickle runs code from it",
            option="model",
            got=str(name),
            fix="if you trust it, load the model with use_safetensors=False, save_pretrained it to a new folder with "
            "its processor, and pass that folder",
        )
    if is_local:
        for file in sorted(files):
            if file.endswith(".safetensors"):
                _check_whole(folder / file)
            elif file.endswith(".safetensors.index.json"):
                _check_index(folder / file)


def _check_whole(weights: Path) -> None:
    """Refuse a safetensors file that is cut off, or none (a pointer of Git LFS); its header says how long it is."""
    try:
        with safe_open(weights, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ConfigError(
            f"it is cut off, or no safetensors file ({error})",
            option=str(weights),
            fix="download it again (in a clone: git lfs pull)",
        ) from error


def _check_index(index: Path) -> None:
    with as_config_error():
        weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ConfigError(
            "not the index of a checkpoint",
            option=str(index),
            wanted='an object with a weight_map of tensors and files: {"weight_map": {"TENSOR": "FILE"}}',
            fix="download it again from its source",
        )
    for file in set(weight_map.values()):
        # As a file of either system: a backslash leaves the folder on Windows alone.
        if PurePosixPath(file).name != file or PureWindowsPath(file).name != file:
            raise ConfigError(
                f"it names {file!r}, which is not a file in that folder: the checkpoint was tampered with",
                option=str(index),
                fix="download it again from its source",
            )


def _hub_files(name: str, revision: str | None) -> set[str]:
    """Names of the files at the top of a repository; none where the Hub cannot say."""
    try:
        info = HfApi().model_info(name, revision=revision, timeout=10)
    except (HTTPError, OSError, HFValidationError):
        return set()
    return {sibling.rfilename for sibling in info.siblings or [] if "/" not in sibling.rfilename}
