"""Errors that people see, and the exit codes that go with them."""

import logging
import os
import sys
from collections.abc import Callable


class ConfigError(ValueError):
    """A wrong key, value, path or pair of settings: one line that names the value and the fix, exit code 2."""


class WorkError(RuntimeError):
    """The command line was right and the work failed: one line that says why and what to do, exit code 1."""


class VerificationError(WorkError):
    """Weights or an export that are not what they must be; the line names the tensor, the setting or the caption."""


def run_main(main: Callable[[], None]) -> None:
    """Run `main`; a `ConfigError` (exit code 2) or `WorkError` (1) becomes one line on stderr, without a traceback.

    So does an `OSError` that names a file (2): a path that cannot be read or written. What hfcap itself finds notable
    is shown, by the first process.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("hfcap").setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    try:
        main()
    except (ConfigError, WorkError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except OSError as error:
        if error.filename is None:
            raise
        path = error.filename if error.filename2 is None else error.filename2  # a rename fails for where it goes to
        print(f"error: {path}: {error.strerror}; mend or change the path", file=sys.stderr)
        sys.exit(2)
