"""Shards of a source: the parts that processes divide among themselves. They are listed, and opened only when read."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import pyarrow as pa

from hfcap.counts import counted
from hfcap.data.records import SourceRow
from hfcap.errors import WorkError

T = TypeVar("T")
RETRY_WAITS = (1.0, 5.0)  # seconds before a shard that could not be read is tried again

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """A part of a source that is read on its own.

    Attributes:
        name: the file, or what else tells it from the others.
        open: returns its rows, from the first on; called again after an error.
    """

    name: str
    open: Callable[[], Iterator[SourceRow]]


def read_shard(shard: Shard) -> Iterator[SourceRow]:
    """Yield the rows of a shard. Where it cannot be read, it is opened again, and goes on with the next row.

    Raises:
        WorkError: it could not be read `len(RETRY_WAITS)` times more either; names it. Other errors of its content
            come as the readers raise them.
    """
    done = 0
    for wait in (*RETRY_WAITS, None):
        try:
            for row in islice(shard.open(), done, None):
                done += 1
                yield row
            return
        except (OSError, ValueError) as error:
            if not _may_pass(error):
                raise
            reason, times = f"{type(error).__name__}: {error}", len(RETRY_WAITS) + 1
            if wait is None:
                raise WorkError(
                    f"cannot be read after {counted(done, 'row')}, {times} times in a row ({reason})",
                    option=shard.name,
                    fix="check the disk or the network and run the same command again, or replace this file",
                ) from error
            logger.warning("%s cannot be read (%s); trying again in %g s", shard.name, reason, wait)
            time.sleep(wait)


def _may_pass(error: Exception) -> bool:
    """Whether an error comes from a disk or a network, or from Arrow, which does not say where its own come from."""
    return any(isinstance(one, (OSError, pa.ArrowException)) for one in (error, error.__cause__))


def own_share(shards: Sequence[T], index: int, count: int) -> tuple[list[T], int, int]:
    """Divide shards among `count` readers: of number `index`, which it reads, and which rows of these.

    Returns:
        The shards, the first row and the step. With fewer shards than readers everyone reads all of them and takes
        every `count`-th row of what they give together; else all rows (0, 1).
    """
    if len(shards) >= count:
        return list(shards[index::count]), 0, 1
    return list(shards), index, count


def too_few_shards(num_shards: int, num_processes: int) -> str:
    """Say that processes have to read each other's rows, and the fix."""
    files = "1 file" if num_shards == 1 else f"{num_shards} files"
    return (
        f"the data are {files} for {num_processes} processes: each process reads all of it and skips the rows of the "
        f"others. Write it as {num_processes} or more parquet or tar files, and each reads only its own"
    )
