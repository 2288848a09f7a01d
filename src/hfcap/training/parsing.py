"""Parsing of YAML files and the command line into argument dataclasses."""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Iterable
from copy import copy
from dataclasses import Field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from transformers import HfArgumentParser

from hfcap.errors import ConfigError
from hfcap.training.config_file import read_config, take_config


class _Parser(HfArgumentParser):
    """`HfArgumentParser` whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise argparse's "argument --two_words/--two-words: reason"."""
        if not message.startswith("argument "):  # "the following arguments are required: --model"
            raise ConfigError("required", option=message.rpartition(": ")[2])
        names, _, reason = message.removeprefix("argument ").partition(": ")
        raise ConfigError(reason, option=names.split("/")[0].removeprefix("--"))

    @staticmethod
    def _parse_dataclass_field(parser: ArgumentParser, field: Field) -> None:
        """Hand all metadata to argparse but `min`, which `check_minima` reads."""
        field = copy(field)
        field.metadata = {name: value for name, value in field.metadata.items() if name != "min"}
        HfArgumentParser._parse_dataclass_field(parser, field)


def _flags(config: dict[str, Any]) -> list[str]:
    """Command-line options that mean the same as a YAML mapping, nulls apart, so that one parser checks both."""
    flags = []
    for key, value in config.items():
        if isinstance(value, list):
            flags += [f"--{key}", *map(str, value)]
        elif value is not None:  # behind "=", a value may begin with a dash
            flags.append(f"--{key}={json.dumps(value) if isinstance(value, dict) else value}")
    return flags


def _takes_list(hint: Any) -> bool:
    return any(list in (kind, get_origin(kind)) for kind in (hint, *get_args(hint)))


def parse_arguments(
    *dataclasses: type,
    argv: list[str] | None = None,
    default_config: str | Path | None = None,
    recipe: str | None = None,
    prog: str | None = None,
) -> tuple:
    """Fill dataclasses from `--config FILE.yaml` and the command line; the command line wins.

    Args:
        dataclasses: classes whose fields are the accepted keys.
        argv: arguments, `sys.argv[1:]` by default.
        default_config: the YAML file of a recipe called without `--config`.
        recipe: name of the recipe; a key `recipe` in the file, by which `hfcap train` chooses, must agree.
        prog: name of the command in its help, by default that of the script.

    Returns:
        One instance of each class, in their order.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a value of a wrong type, null where a setting must
            have a value, an unreadable file, or one for another recipe.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    config_path = take_config(argv) or default_config
    config = read_config(config_path) if config_path is not None else {}
    wanted = config.pop("recipe", recipe)
    if recipe is not None and wanted != recipe:
        raise ConfigError(
            f"{config_path} is for another recipe",
            option="recipe",
            got=wanted,
            wanted=recipe,
            fix=f"use recipes/{wanted}.py",
        )
    known = {f.name for dataclass in dataclasses for f in fields(dataclass) if f.init}
    nulls = _check_values(config, config_path, dataclasses, known)
    parser = _Parser(dataclasses, allow_abbrev=False, prog=prog)
    parser.set_defaults(**dict.fromkeys(nulls))
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(_flags(config) + argv, return_remaining_strings=True)
    except ConfigError:
        raise
    except ValueError as error:  # from the checks in TrainingArguments
        raise ConfigError(" ".join(str(error).split())) from error
    if unknown:
        name = unknown[0].removeprefix("--").split("=")[0]
        raise ConfigError("unknown argument", option=unknown[0], fix=nearest(name, known) or "remove it")
    return tuple(parsed)


def _check_values(
    config: dict[str, Any], path: str | Path | None, dataclasses: Iterable[type], known: set[str]
) -> list[str]:
    """Refuse keys and values of a YAML file that no field takes; return the keys that are null."""
    for key in config:
        if key not in known:
            raise ConfigError(
                f"unknown key in {path}",
                option=str(key),  # its value may be secret: a token under a mistyped name
                fix=nearest(str(key), known) or "remove it",
            )
    hints = {name: hint for dataclass in dataclasses for name, hint in get_type_hints(dataclass).items()}
    for key, value in config.items():
        if isinstance(value, list) and not _takes_list(hints[key]):
            fix = f"write {key}: {','.join(map(str, value))}" if key == "metrics" else None
            raise ConfigError(f"a list in {path}", option=key, got=value, wanted="one value", fix=fix)
    nulls = [key for key, value in config.items() if value is None]
    for key in nulls:
        if type(None) not in get_args(hints[key]):
            raise ConfigError(
                f"null in {path}", option=key, wanted="a value", fix="set one, or remove the key for its default"
            )
    return nulls


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Ask, as the fix of an error, whether a wrong name was meant to be the known one most like it."""
    matches = get_close_matches(name.replace("-", "_"), known, n=1)
    return f"did you mean {matches[0]!r}?" if matches else None
