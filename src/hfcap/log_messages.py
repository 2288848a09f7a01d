"""Messages of libraries that are left out of the log."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_messages(logger_name: str, text: str) -> Iterator[None]:
    """Within this context a logger does not pass on messages that contain a text.

    Args:
        logger_name: of the library's module that logs them.
        text: part of the message.
    """

    def passes(record: logging.LogRecord) -> bool:
        return text not in record.getMessage()

    source = logging.getLogger(logger_name)
    source.addFilter(passes)
    try:
        yield
    finally:
        source.removeFilter(passes)
