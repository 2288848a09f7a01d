"""YAML files of settings, and the option `--config` that names one."""

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
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} occurs twice; remove one", mark)
        return super().construct_mapping(node, deep)


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of settings.

    Raises:
        ConfigError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        config = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise ConfigError(error.strerror, option="--config", got=str(path), fix="pass a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(reason, option="--config", got=str(path), wanted="YAML in UTF-8") from error
    if not isinstance(config, dict):
        reason = f"the file holds a {type(config).__name__}"
        raise ConfigError(reason, option="--config", got=str(path), wanted="`key: value` lines")
    return config


def take_config(argv: list[str]) -> str | None:
    """Remove `--config FILE` (or `--config=FILE`) from the arguments, and return the file.

    Raises:
        ConfigError: no file, or two.
    """
    files = []
    for at in reversed([at for at, option in enumerate(argv) if option.partition("=")[0] == "--config"]):
        option, has_value, value = argv.pop(at).partition("=")
        if not has_value and at == len(argv):
            raise ConfigError("nothing follows it", option=option, wanted="a YAML file")
        files.append(value if has_value else argv.pop(at))
    if len(files) > 1:
        raise ConfigError(option="--config", got=files[::-1], wanted="one file")
    return files[0] if files else None
