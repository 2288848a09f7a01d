"""Reading of pictures ahead of the model that captions them: rows that load when asked for, threads, waiting time."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from hfcap.data.pictures import load_picture
from hfcap.errors import ConfigError

T = TypeVar("T")
READERS = 4  # threads that read and preprocess pictures


class DataWait:
    """Measures which share of its time a loop waits for the next item.

    Attributes:
        waited: seconds until the items were there.
        seconds: wall-clock time of the loop.
    """

    def __init__(self):
        self.waited = self.seconds = 0.0

    def of(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items."""
        items, end = iter(items), object()
        started = asked = time.perf_counter()
        while (item := next(items, end)) is not end:
            self.waited += time.perf_counter() - asked
            yield item
            asked = time.perf_counter()
            self.seconds = asked - started


class PictureRows(Sequence):
    """Pictures as the rows that captioners read, each loaded when it is asked for.

    Args:
        pictures: what `hfcap.data.pictures.load_picture` takes: paths, PIL images, bytes.
    """

    def __init__(self, pictures: Sequence):
        self.pictures = pictures

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict:
        """Load one picture; raises what Pillow raises where there is none."""
        return {"image": load_picture(self.pictures[index])}


def check_batch_size(batch_size: int) -> None:
    """Check the number of pictures decoded together. Raises ConfigError unless it is a whole number, 1 or more."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(option="batch_size", got=batch_size, wanted="a whole number, 1 or more")


def loads_of(rows: Sequence[dict]) -> Iterator[Callable[[], dict]]:
    """Yield a function for each row that returns it."""
    return (partial(rows.__getitem__, index) for index in range(len(rows)))


def read_ahead(function: Callable, items: Iterable, depth: int) -> Iterator:
    """Apply `function` to `items` in threads, at most `depth` of them before they are asked for; results in order."""
    with ThreadPoolExecutor(READERS) as pool:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
