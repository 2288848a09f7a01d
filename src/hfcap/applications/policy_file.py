"""YAML read with the line of each value, so that an error can name it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from hfcap.errors import ConfigError, shown
from hfcap.json_files import decode_text

_FIX = "in lists write one word per line after `- `, in 'single quotes' where it begins with a sign"


@dataclass(frozen=True)
class Place:
    """A value of a YAML file and where it stands.

    Attributes:
        path: of the file.
        name: of the value, as in `tags.weapon.words`.
        node: the value.
        line: of its key, from 1.
    """

    path: str
    name: str
    node: yaml.Node
    line: int = 1

    def error(self, reason: str | None = None, line: int | None = None, **fields) -> ConfigError:
        """Return a `ConfigError` about this value; `fields` are those of the class."""
        return ConfigError(reason, option=f"{self.path}, line {line or self.line}: {self.name}", **fields)

    def mapping(self, allowed: Sequence[str] | None = None, needed: Sequence[str] = ()) -> dict[str, "Place"]:
        """Return the entries of a mapping.

        Args:
            allowed: its keys; any by default.
            needed: keys that must be there.

        Raises:
            ConfigError: another type, a key twice, one that is not allowed, or one that is missing.
        """
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(wanted="`key: value` lines")
        entries: dict[str, Place] = {}
        for key, value in self.node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise self.error("a key that is no word", line)
            if key.value in entries:
                raise self.error(f"key {shown(key.value)} occurs twice; remove one", line)
            if allowed is not None and key.value not in allowed:
                raise self.error(f"unknown key {shown(key.value)}", line, wanted=", ".join(allowed))
            entries[key.value] = Place(self.path, f"{self.name}.{key.value}".removeprefix("policy."), value, line)
        missing = [key for key in needed if key not in entries]
        if missing:
            raise self.error(f"no {missing[0]}", fix="add it")
        return entries


def read_yaml(path: str | os.PathLike) -> yaml.Node:
    """Return the root of a YAML file. Raises ConfigError where it is missing, empty or malformed."""
    try:
        node = yaml.compose(decode_text(Path(path).read_bytes(), path), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(error.strerror, option="policy", got=str(path), fix="pass a YAML file") from error
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark or error.context_mark).line + 1
        reason = " ".join(f"{error.context or ''} {error.problem or ''}".split())
        raise ConfigError(reason, option=f"{path}, line {line}", fix=_FIX) from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(" ".join(str(error).split()), option="policy", got=str(path), wanted="YAML") from error
    if node is None:
        raise ConfigError("the file is empty", option="policy", got=str(path))
    return node


def string(place: Place) -> str:
    """Return a text that is not empty; `no` and `on` are words here, as they are written. Raises ConfigError."""
    if not isinstance(place.node, yaml.ScalarNode) or not place.node.value.strip():
        raise place.error(wanted="a text that is not empty")
    return " ".join(place.node.value.split())


def items(place: Place) -> list[Place]:
    """Return the entries of a list, one or more. Raises ConfigError."""
    if not isinstance(place.node, yaml.SequenceNode) or not place.node.value:
        raise place.error(wanted="a list of one word or more")
    return [Place(place.path, place.name, node, node.start_mark.line + 1) for node in place.node.value]
