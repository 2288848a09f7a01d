"""Errors that people see, and the exit codes that go with them."""

import sys
from collections.abc import Callable


class ConfigError(ValueError):
    """A wrong key, value, path or pair of settings: one line that names the value and the fix, exit code 2."""


def run_main(main: Callable[[], None]) -> None:
    """Run a recipe's `main`; a `ConfigError` becomes one line on stderr and exit code 2, without a traceback."""
    try:
        main()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
