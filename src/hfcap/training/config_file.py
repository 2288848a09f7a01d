"""YAML files of settings."""

from pathlib import Path
from typing import Any

import yaml

from hfcap.errors import ConfigError


class _UniqueKeyLoader(yaml.SafeLoader):
    """`yaml.SafeLoader` that refuses a key used twice; YAML would keep the last one, silently."""

    def construct_mapping(self, node, deep=False):
        """Build a mapping whose keys are all different."""
        keys = [(key.tag, str(key.value), key.start_mark) for key, _ in node.value]
        for index, (tag, key, mark) in enumerate(keys):
            if (tag, key) in [other[:2] for other in keys[:index]]:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} twice; remove one", mark)
        return super().construct_mapping(node, deep)


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of settings.

    Raises:
        ConfigError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        config = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"--config {path}: not YAML in UTF-8: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"--config {path}: expected `key: value` lines, got {type(config).__name__}")
    return config
