"""Which files of a checkpoint may be read: safetensors, and nothing outside its folder."""

import json
import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from hfcap.errors import ConfigError

PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}  # running code where they are loaded


def check_checkpoint(name: str | os.PathLike) -> None:
    """Refuse a local checkpoint that has pickled weights only, or an index that points out of its folder.

    A name that is no folder (a Hub id) passes: `from_pretrained` with `use_safetensors=True` refuses the first there,
    and a file outside its repository cannot be downloaded.

    Raises:
        ConfigError: naming the file and the fix.
    """
    folder = Path(name)
    if not folder.is_dir():
        return
    files = {path.name for path in folder.iterdir() if path.is_file()}
    pickles = sorted(file for file in files if Path(file).suffix in PICKLE_SUFFIXES and file != "training_args.bin")
    if pickles and not any(file.endswith(".safetensors") for file in files):
        raise ConfigError(
            f"{folder} has pickled weights only ({pickles[0]}), and loading a pickle runs code from it. Write them as "
            "safetensors first, where you trust them: load the model with use_safetensors=False and save_pretrained it"
        )
    for index in sorted(file for file in files if file.endswith(".safetensors.index.json")):
        for file in set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values()):
            # As a file of either system: a backslash leaves the folder on Windows alone.
            if PurePosixPath(file).name != file or PureWindowsPath(file).name != file:
                raise ConfigError(
                    f"{folder / index} names {file!r}, which is not a file in that folder: the checkpoint was "
                    "tampered with; fetch it again from where it came from"
                )
