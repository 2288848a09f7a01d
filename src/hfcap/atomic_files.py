"""Files that are either whole or absent (a temporary file first, then a rename), and have one writer at a time."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EISDIR
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hfcap.errors import ConfigError


def write_atomic(path: str | os.PathLike, text: str | bytes, sync: bool = True) -> Path:
    """Write `text` (UTF-8 if a string) to `path` so that no reader, and no crash, ever sees half of it.

    The parent folder is made if needed. An existing file is replaced, and stays as it was if anything goes wrong.
    Without `sync` nothing waits for the disk, and a crash of the machine may leave an empty file: for caches.
    Returns the path. Raises OSError as the file system does, and UnicodeEncodeError before anything is touched.
    """
    path = Path(path)
    if not path.name:
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR), str(path))
    data = text.encode("utf-8") if isinstance(text, str) else text
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_bytes(data)  # a device or a pipe: a rename would put a file in the place of /dev/null
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, because a rename is atomic only within one file system; with the process id, because two
    # processes may write the same file. Not `tempfile`: its files are readable by their owner only.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_json(path: str | os.PathLike, value: Any) -> Path:
    """Write `value` atomically as indented JSON with a final newline. NaN and infinity raise ValueError: not JSON."""
    return write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def only_writer(path: str | os.PathLike) -> Iterator[None]:
    """Hold the lock of a file that a command reads, works on, and writes anew; the lock is `.NAME.lock` beside it.

    A second command would write the file as it was before the first one ended. The lock of a dead process is free;
    devices and pipes have none.

    Raises:
        ConfigError: another process holds it.
        OSError: its folder is not there, or cannot be written to.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        yield
        return
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    Path(lock.lock_file).touch()  # `acquire` takes a folder that is not there for a lock that is held
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            "another command is working on this file", option=str(path), fix="wait until it ends"
        ) from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
