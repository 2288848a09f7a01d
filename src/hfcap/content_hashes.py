"""Hashes of weights, model settings and captions: a path or a Hub id says where to look, not what is there."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from hfcap.origins import ADAPTER_CONFIG, adapter_base

# What loading a captioner reads besides its weights; records (`metrics.json`, `card.json`, ...) are no settings.
SETTINGS_FILES = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab*",
    "merges.txt",
    "*.model",
)


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 (hex) of a file's bytes. Raises OSError where it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(folder: str | os.PathLike) -> str | None:
    """SHA-256 (hex) over the weight files of a model folder; None where it has none.

    Covered are the names and bytes of all `*.safetensors` at its top, or where there are none of `pytorch_model*.bin`,
    or of the graphs of an ONNX export.
    The hash of an adapter includes the weights of the base that its `adapter_config.json` names.
    """
    folder = Path(folder)
    patterns = ("*.safetensors", "pytorch_model*.bin", "onnx/*.onnx*")
    files = next((found for pattern in patterns if (found := sorted(folder.glob(pattern)))), [])
    if not files:
        return None
    base, revision = adapter_base(folder)
    parts = [[path.name, file_sha256(path)] for path in files]
    return _sha256_of(parts + ([["base", weights_identity(base, revision)]] if base else []))


def weights_identity(
    name: str | os.PathLike, revision: str | None = None, local_files_only: bool = False
) -> str | None:
    """What the weights are that `from_pretrained(name)` loads: `weights_sha256` of a folder, the commit of a Hub id.

    Args:
        name: model folder, adapter folder, or Hub id.
        revision: branch, tag or commit of a Hub id; the main branch by default.
        local_files_only: ask the cache alone, for what has just been loaded.

    Returns:
        64 hex digits for a folder, 40 for a Hub id, or None where neither can be found (a Hub that does not answer and
        no copy in the cache, a folder without weights).
    """
    if Path(name).is_dir():
        return weights_sha256(name)
    from transformers.utils import cached_file  # slow to import, and folders do without
    from transformers.utils.hub import extract_commit_hash

    try:
        found = [
            cached_file(
                str(name),
                file,
                revision=revision or "main",
                local_files_only=local_files_only,
                _raise_exceptions_for_missing_entries=False,
            )
            for file in ("config.json", ADAPTER_CONFIG)
        ]
    except (OSError, ValueError):
        return None
    return next((extract_commit_hash(file, None) for file in found if file is not None), None)


def settings_sha256(folder: str | os.PathLike) -> str:
    """SHA-256 (hex) over the files of a model folder that decide its captions besides the weights.

    Covered are the configurations of model, decoding, pictures and adapter, the tokenizer, and the chat template; of
    an adapter also those of its base, where that is a folder (of a Hub id, `weights_identity` covers all).
    """
    files = {path for pattern in SETTINGS_FILES for path in Path(folder).glob(pattern) if path.is_file()}
    base, _ = adapter_base(folder)
    parts = [[path.name, file_sha256(path)] for path in sorted(files)]
    return _sha256_of(parts + ([["base", settings_sha256(base)]] if base and Path(base).is_dir() else []))


def captioner_hashes(
    name: str | os.PathLike, revision: str | None = None, local_files_only: bool = False
) -> dict[str, str | None]:
    """`weights_hash` (see `weights_identity`) and `settings_hash` of a captioner; the commit of a Hub id is both."""
    weights = weights_identity(name, revision, local_files_only)
    return {"weights_hash": weights, "settings_hash": settings_sha256(name) if Path(name).is_dir() else weights}


def captions_sha256(captions: Iterable[tuple[str, str]]) -> str:
    """SHA-256 (hex) over `(image_id, caption)` pairs, whatever their order."""
    return _sha256_of(sorted(map(list, captions)))


def _sha256_of(value: object) -> str:
    # JSON keeps the parts apart: ["ab", "c"] and ["a", "bc"] differ.
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
