"""Content hashes of what a run reads besides its data (weights, code of rewards, synonyms), and their changes."""

import ast
import hashlib
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from hfcap import runs
from hfcap.content_hashes import captioner_hashes, file_sha256
from hfcap.metrics import metric_names, needs_images
from hfcap.origins import CLIP_MODEL, PARTS, SYNONYMS, find_origins
from hfcap.training.rewards import REWARDS, import_reward

HASHES = {
    "weights_hash": "weights",
    "settings_hash": "configuration, processor or tokenizer",
    "content_hash": "content",
}


def hashed_origins(settings: Mapping[str, Any]) -> dict[str, dict[str, str | None]]:
    """Origins of data and of all that decides the training and its figures, with hashes of what is loaded from them.

    Args:
        settings: every setting by name.

    Returns:
        As `find_origins`, and for each reward of the user `"reward MODULE:FUNCTION"`. Pretrained weights have
        `weights_hash` and `settings_hash`, other files `content_hash`; None where nothing is there yet.
    """
    origins = find_origins(settings if _uses_clip(settings) else {**settings, CLIP_MODEL: None})
    for name in origins.keys() & {*PARTS, CLIP_MODEL}:
        place = settings[name] if origins[name]["kind"] == "hub" else origins[name]["path"]
        if origins[name]["kind"] == "hub" or Path(place).is_dir():
            place = runs.resolve_model(place).path if name == "model" else place
            origins[name] |= captioner_hashes(place)
        else:
            origins[name] |= {"weights_hash": None, "settings_hash": None}
    if SYNONYMS in origins:
        path = Path(origins[SYNONYMS]["path"])
        origins[SYNONYMS] |= {"content_hash": file_sha256(path) if path.is_file() else None}
    for name in settings.get("rewards") or ():
        if name not in REWARDS:
            origins[f"reward {name}"] = {"kind": "code", "content_hash": code_sha256(name)}
    return origins


def _uses_clip(settings: Mapping[str, Any]) -> bool:
    metrics = settings.get("metrics")
    return "clip_score" in (settings.get("rewards") or ()) or bool(metrics and needs_images(metric_names(metrics)))


def code_sha256(reward: str) -> str | None:
    """SHA-256 (hex) of the code of a reward `MODULE:FUNCTION`; None where it is in no file (C, a console).

    It is the file of the module that the function itself names, where `MODULE` imports it from another, and with it
    those that it imports from its own folder, at any depth. Of an installed package it is that file alone.
    """
    function = import_reward(reward)
    name = getattr(function, "__module__", None) or reward.partition(":")[0]
    path = getattr(sys.modules.get(name), "__file__", None)
    if path is None:
        return None
    path = Path(path)
    root = path.parents[name.count(".") + (path.stem == "__init__")]
    is_installed = root.name in ("site-packages", "dist-packages")
    others = [] if is_installed or path.suffix != ".py" else sorted(imported_files(path, root) - {path})
    hashes = [file_sha256(file) for file in (path, *others)]
    return hashes[0] if not others else hashlib.sha256("".join(hashes).encode()).hexdigest()


def imported_files(path: Path, root: Path) -> set[Path]:
    """Python files under `root` that a Python file imports, at any depth, itself among them.

    Args:
        path: the file.
        root: folder that its imports start from, besides those of other packages.
    """
    found, waiting = set(), [path]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                waiting += chain.from_iterable(_files_of(root, one.name.split(".")) for one in node.names)
            elif isinstance(node, ast.ImportFrom):
                start = file.parents[node.level - 1] if node.level else root
                module = node.module.split(".") if node.module else []
                waiting += chain.from_iterable(_files_of(start, [*module, one.name]) for one in node.names)
    return found


def _files_of(start: Path, names: Sequence[str]) -> list[Path]:
    """Files of the module `names` and of the packages that it is in, as far as they lie in `start`."""
    places = [start.joinpath(*names[:number]) for number in range(1, len(names) + 1)]
    files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
    return [file for file in files if file.is_file()]


def changed_origins(before: Mapping[str, Any], now: Mapping[str, Any], finished: bool) -> list[str]:
    """What a run read and is another now; what is gone is no change to a finished run."""
    changed = []
    for name in [name for name in now if name in before and name not in ("data", "image_folder")]:
        if before[name]["kind"] != now[name]["kind"]:
            if not finished:
                was = before[name].get("path", "on the Hub")
                changed.append(f"{name} was {was}, is {now[name].get('path', 'on the Hub: there is no such folder')}")
            continue
        for key, what in HASHES.items():
            was, value = before[name].get(key), now[name].get(key)
            if None not in (was, value) and was != value:
                changed.append(f"the {what} of {name} changed (hash {was[:12]}, now {value[:12]})")
    return changed
