"""The folder of files that hfcap makes once and can make again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return `hfcap` in the user's cache folder (`$XDG_CACHE_HOME`, by default `~/.cache`); it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "hfcap"
