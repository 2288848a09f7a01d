"""Options that several commands share, and the refusal of options that a command would leave unread."""

import argparse
from collections.abc import Mapping
from typing import Any

from hfcap.errors import ConfigError
from hfcap.length_tokens import LONGEST

MODEL_HELP = "run folder, model or adapter folder, or Hub id"
SOURCE_HELP = "parquet, tar shards, JSONL or another source of docs/data.md, or a Hub id"


def positive(text: str) -> int:
    """Read a number of beams, tokens or photos, for `argparse`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; wanted a whole number, 1 or more")
    return int(text)


def caption_length(text: str) -> int:
    """Read a number of words that captions are to have, for `argparse`."""
    if not text.isdecimal() or not 1 <= int(text) < LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r}; wanted a whole number of words, 1 to {LONGEST - 1}")
    return int(text)


def add_model_options(command: argparse.ArgumentParser, decoded: str = "photos") -> None:
    """Add the captioner, what it is asked, and how many pictures it decodes together."""
    command.add_argument("--model", required=True, help=MODEL_HELP)
    command.add_argument("--prompt", help="instruction for models that take one (default: the one used in training)")
    command.add_argument(
        "--batch_size", "--batch-size", type=positive, default=8, help=f"{decoded} decoded together (default: 8)"
    )


def add_data_options(command: argparse.ArgumentParser) -> None:
    """Add a data source as what is captioned."""
    command.add_argument("--data", metavar="SOURCE", help=SOURCE_HELP)
    command.add_argument("--split", help="split of --data (default: train)")


def add_row_options(command: argparse.ArgumentParser, json_help: str = "print JSON lines instead of a table") -> None:
    """Add where the rows of photos go; `check_row_options` checks them."""
    command.add_argument("--json", action="store_true", help=json_help)
    command.add_argument(
        "--output", metavar="FILE", help="write JSON lines to this file (or parquet, by its name); run again to resume"
    )
    command.add_argument(
        "--keep_both",
        "--keep-both",
        action="store_true",
        help="if --output has another picture with the same image id, keep both under different ids",
    )


def check_row_options(args: argparse.Namespace) -> None:
    """Refuse the options of `add_row_options` that would be left unread.

    Raises:
        ConfigError: one is given.
    """
    check_needs(args, {"keep_both": "output"})
    if args.json and args.output is not None:
        raise ConfigError("--output writes JSON lines without it", option="--json", fix="remove it, or --output")


def check_needs(args: argparse.Namespace, needs: Mapping[str, str]) -> None:
    """Refuse options that are read only together with another one: `{"split": "data"}`.

    Raises:
        ConfigError: one is given alone.
    """
    for name, other in needs.items():
        if _is_given(getattr(args, name)) and not _is_given(getattr(args, other)):
            raise ConfigError(f"read only with --{other}", option=f"--{name}", fix=f"add --{other}, or remove it")


def _is_given(value: Any) -> bool:
    return value is not None and value is not False
