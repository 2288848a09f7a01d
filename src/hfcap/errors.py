"""Error classes with their exit codes, and their printing as one line."""

import logging
import os
import re
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SHOWN = 80  # characters of a value in a message
LONGEST_LINE = 1000  # of a message: a picture in base64 where a path belongs has 27,000 and more


class _OneLineError(Exception):
    """An error of one line whose parts stay as attributes.

    The line is `option is GOT; wanted WANTED: reason; fix`, or `option: reason; wanted WANTED; fix` without a value.

    Args:
        reason: why it is an error, in words.
        option: name of the setting, option, key or file that is wrong.
        got: its value, shown as by `shown`.
        wanted: values that are accepted.
        fix: what to do about it.
    """

    def __init__(
        self,
        reason: str | None = None,
        *,
        option: str | None = None,
        got: Any = None,
        wanted: str | None = None,
        fix: str | None = None,
    ):
        self.reason, self.option, self.got, self.wanted, self.fix = reason, option, got, wanted, fix
        wanted = None if wanted is None else f"wanted {wanted}"
        if got is None:
            parts = (_joined(": ", option, reason), wanted, fix)
        else:
            parts = (_joined(": ", _joined("; ", f"{option} is {shown(got, 2 * SHOWN)}", wanted), reason), fix)
        super().__init__(_joined("; ", *parts))


def _joined(separator: str, *parts: str | None) -> str:
    return separator.join(part for part in parts if part)


class ConfigError(_OneLineError, ValueError):
    """A wrong key, value, path or pair of settings: one line that names the value and the fix, exit code 2."""


@contextmanager
def as_config_error(option: str | None = None, kinds: tuple[type[Exception], ...] = (ValueError,)) -> Iterator[None]:
    """Within this context an error of `kinds` becomes a `ConfigError` about `option`; a `ConfigError` stays as it is.

    An `OSError` that names a file becomes one about that file.
    """
    try:
        yield
    except ConfigError:
        raise
    except kinds as error:
        if isinstance(error, OSError) and error.filename is not None:
            fix = "fix or change the path"
            raise ConfigError(error.strerror, option=str(error.filename), fix=fix) from error
        raise ConfigError(" ".join(str(error).split()), option=option) from error


class WorkError(_OneLineError, RuntimeError):
    """A runtime failure, as opposed to a usage error: one line with the reason and the fix, exit code 1."""


class VerificationError(WorkError):
    """Weights or an export that are not what they must be; the line names the tensor, the setting or the caption."""


def shown(value: Any, limit: int = SHOWN) -> str:
    """Return a value for a message: quoted as by `repr`, in `printable` characters, cut with a count if long."""
    if not isinstance(value, str):
        return beginning(repr(value), limit)
    return printable(repr(value[:limit])) + _how_long(value, limit)


def beginning(text: str, limit: int = SHOWN) -> str:
    """Return a text, such as an id, for a message: unquoted, in `printable` characters, cut with a count if long."""
    return printable(text[:limit]) + _how_long(text, limit)


def _how_long(text: str, limit: int) -> str:
    return f"… ({len(text):,} characters)" if len(text) > limit else ""


def printable(text: str, keep: str = "") -> str:
    r"""Return the text with what would not show on one line, or would show like something else, as escapes.

    These are control characters (a file's name may hold a line break or a terminal code), halves of surrogate pairs,
    and the accents of a decomposed text: a composed and a decomposed name look alike and are two names.
    """
    apart = not unicodedata.is_normalized("NFC", text)

    def escaped(character: str) -> str:
        shows = character.isprintable() or character in keep
        return character if shows and not (apart and unicodedata.combining(character)) else ascii(character)[1:-1]

    return text if text.isprintable() and not apart else "".join(map(escaped, text))


def for_terminal(message: str) -> str:
    """Return a message of one line or more with every line printable and not much longer than `LONGEST_LINE`."""
    middle = re.compile(rf"(.{{{LONGEST_LINE // 2}}})(.*)(.{{{LONGEST_LINE // 4}}})")

    def cut(line: str) -> str:
        if len(line) <= LONGEST_LINE:
            return line
        return middle.sub(lambda m: f"{m[1]} … ({len(m[2]):,} characters left out) … {m[3]}", line, count=1)

    return "\n".join(cut(printable(line, keep="\t\u00a0\u3000")) for line in message.split("\n"))


class _MessageFormatter(logging.Formatter):
    """Writes only the message, fit for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return for_terminal(super().format(record))


def encode_anything() -> None:
    """Let stdout print escapes for characters that its encoding lacks (cp1252, ASCII), as stderr does by default."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _format_warning(message: Warning | str, category: type[Warning], filename: str, *place: Any) -> str:
    """A warning about data or settings says all; where in hfcap's code it was raised says nothing to who reads it."""
    if category is UserWarning and Path(filename).is_relative_to(Path(__file__).parent):
        return for_terminal(f"warning: {message}") + "\n"
    return _format_with_code(message, category, filename, *place)


_format_with_code = warnings.formatwarning


def error_line(error: ConfigError | WorkError) -> str:
    """Return the line of an error; of one from a loader process, which `DataLoader` puts behind its traceback."""
    line = str(error)
    if line.startswith(f"Caught {type(error).__name__} in DataLoader worker"):
        line = line.rstrip().rpartition("\n")[2].partition(": ")[2]
    return line


def run_main(main: Callable[[], None]) -> None:
    """Run `main`; a `ConfigError` (exit code 2) or `WorkError` (1) becomes one line on stderr, without a traceback.

    So does an `OSError` that names a file (2): a path that cannot be read or written. What hfcap itself finds notable
    is shown, by the first process. A reader of the output that goes away (`| head`) ends the command (1), and so does
    Ctrl-C (130).
    """
    encode_anything()
    handler = logging.StreamHandler()
    handler.setFormatter(_MessageFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler])
    warnings.formatwarning = _format_warning
    logging.getLogger("hfcap").setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    try:
        main()
        sys.stdout.flush()
    except (ConfigError, WorkError) as error:
        print(for_terminal(f"error: {error_line(error)}"), file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except ModuleNotFoundError as error:
        from hfcap.extras import missing_extra

        line = missing_extra(error)
        if line is None:
            raise
        print(for_terminal(f"error: {line}"), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)  # as shells have it: 128 and the number of SIGINT
    except BrokenPipeError:
        # Or Python would try to flush what is left, and complain, when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        path = error.filename if error.filename2 is None else error.filename2  # a rename fails for where it goes to
        print(for_terminal(f"error: {path}: {error.strerror}; fix or change the path"), file=sys.stderr)
        sys.exit(2)
