"""Assertions on the fields of errors, so that their wording can change."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hfcap.cli import make_parser
from hfcap.errors import ConfigError


def run_command(*words: str) -> None:
    """Run a command of `hfcap`, and raise its errors, which `cli.main` would print."""
    args = make_parser().parse_args(words)
    args.run(args)


@contextmanager
def refused(error: type[Exception] = ConfigError, /, says: str | tuple[str, ...] = (), **fields) -> Iterator[None]:
    """Expect an error of one line with these fields, which holds `says`: names and figures that a user needs."""
    with pytest.raises(error) as raised:
        yield
    line = str(raised.value)
    assert {name: getattr(raised.value, name) for name in fields} == fields, line
    for part in (says,) if isinstance(says, str) else says:
        assert part in line
    assert "\n" not in line and len(line) < 700
