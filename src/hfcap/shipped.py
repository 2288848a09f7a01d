"""Location of the shipped recipes and configurations, in a checkout or an installed package."""

from pathlib import Path

_PACKAGE = Path(__file__).parent
ROOT = _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parents[1]
CONFIGS = ROOT / "configs"
RECIPES = ROOT / "recipes"


def find_config(path: str | Path) -> Path:
    """Path of a configuration file, from the working directory or else among those of hfcap."""
    return Path(path) if Path(path).is_file() else ROOT / path
