"""Provenance of a run: settings without secrets, versions, git state, machine."""

import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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


RUN_SCHEMA_VERSION = 1
REDACTED = "<redacted>"


# The last word of the name decides: `hub_token` is a secret, `max_new_tokens` and `image_token_id` are not.
_SECRET_NAME = re.compile(
    r"(^|[_-])(token|secret|password|passwd|credentials?|api[_-]?key|access[_-]?key|auth)$", re.I
)


# Tokens of the Hub, of Git hosts and of common services, and a password inside an address.
_SECRET_VALUE = re.compile(r"\b(hf_|gh[opsu]_|github_pat_|glpat-|sk-)[A-Za-z0-9_-]{8,}|(?<=://)[^/@\s]+:[^/@\s]+(?=@)")


_SPECIAL_TOKEN = re.compile(r"<[^>]*>|\[[^\]]*\]")


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
        data: fingerprint (`hfcap.runs.data_fingerprint`) of each split, by its name.
        command: the command line as a list, by default the one of this process.
        further: what else belongs into the record, such as `model_type` or `minutes`; JSON values.
    """
    return {
        "schema_version": RUN_SCHEMA_VERSION,
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
