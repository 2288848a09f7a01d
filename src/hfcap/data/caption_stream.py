"""Training streams: rows shuffled block by block, divided among readers, and resumed with the very next row."""

import hashlib
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, count, islice
from typing import Any

import datasets
import numpy as np
import torch

from hfcap.counts import counted
from hfcap.data.caption_dataset import Augmentation
from hfcap.data.shards import too_few_shards
from hfcap.errors import WorkError, as_config_error
from hfcap.log_messages import without_messages

logger = logging.getLogger(__name__)

BLOCK = 100  # images of a stream that are read at a time
DELAYS = 20  # an image waits until 0 to 19 further blocks are read; about 1,050 wait, encoded
EMPTY_EPOCHS = 10  # a reader whose shards hold nothing of the split that often gives up
FIRST_OF_STREAM = 1000  # images of a stream that stand for all of it in what is checked before training
POSITION = "stream_position"  # key of an item: where its reader is after it


class CaptionStream(torch.utils.data.IterableDataset):
    """Rows `{image_id, captions, image}` of a stream, epoch after epoch without an end: `max_steps` ends training.

    An epoch's order is a function of (seed, epoch): its shards are shuffled, `datasets` reads up to ten of them in
    turns, and of each `BLOCK` of rows every one waits for a random number of further blocks, below `DELAYS`, and is
    shuffled with those that then come from other blocks. Processes and their loader processes divide the shuffled
    shards: together they see each image once per epoch, and each opens its own shards alone. Shards may be uneven: a
    process that is done with its part of an epoch goes on with its part of the next one. With fewer shards than
    processes, each reads all of them and takes every n-th row; with fewer than loader processes, the others of these
    read nothing.

    Each item has the position of its reader, and `state_dict_after` gathers those of the batches that were used: with
    it a resumed reader reads `DELAYS` blocks again at most, and goes on with the very next row.

    Args:
        rows: stream of `load_captions`.
        check: called with each row; what it raises ends training.
        **augmentation: fields of `Augmentation`.

    Attributes:
        source: `rows` as they were given, for `first_texts`.
    """

    def __init__(self, rows: datasets.IterableDataset, check: Callable[[dict], None] | None = None, **augmentation):
        self.check = check
        self.augmentation = Augmentation(**augmentation)
        self.source = rows
        self.rows = rows.cast_column("image", datasets.Image(decode=False))
        self.process = (0, 1)
        self.num_readers = 1
        self.load_state_dict(None)

    def divide(self, process: int, num_processes: int, num_workers: int = 0) -> None:
        """Read the part of one training process; `StreamTrainer` calls it.

        Args:
            process: its number.
            num_processes: how many train.
            num_workers: loader processes of each.
        """
        self.process, num_shards = (process, num_processes), self.rows.num_shards
        if process == 0 and num_shards < num_processes:
            logger.warning(too_few_shards(num_shards, num_processes))
        self.num_readers = readers_of_stream(num_shards, num_workers, num_processes)
        self.load_state_dict(None)
        if process == 0 and self.num_readers < num_workers:
            logger.info(
                "the %s of the stream keep %d of %d loader processes busy",
                counted(num_shards, "shard"),
                self.num_readers,
                num_workers,
            )

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Begin where `state` says, the next time the stream is read; None is its start.

        Raises:
            WorkError: the state is of another number of processes, readers or shards.
        """
        divided = {"processes": self.process[1], "readers": self.num_readers, "shards": self.rows.num_shards}
        if state is None:
            state = divided | {"next_reader": 0, "positions": {}}
        wrong = [f"{state[name]} {name}, now {number}" for name, number in divided.items() if state[name] != number]
        if wrong:
            raise WorkError(
                f"the stream was divided differently ({'; '.join(wrong)}): some images would come twice, others never",
                option="stream state",
                fix="resume with the same number of processes and dataloader_num_workers, on the same shards",
            )
        self.state = state

    def state_dict_after(self, state: dict[str, Any], positions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return `state` after the batches whose last items had these positions, in the order of the batches."""
        for position in positions:
            reader = position["reader"]
            state = state | {
                "next_reader": (reader + 1) % self.num_readers,
                "positions": state["positions"] | {str(reader): position},  # JSON has no other keys
            }
        return state

    def __iter__(self) -> Iterator[dict]:
        """Yield items; in a loader process those of its shards.

        Raises:
            ConfigError: a row or a file that is not as it must be.
            WorkError: the reader's shards gave no row, `EMPTY_EPOCHS` times in a row; a resumed reader finds other
                rows than before.
        """
        worker = torch.utils.data.get_worker_info()
        worker, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        num_readers = readers_of_stream(self.rows.num_shards, num_workers, self.process[1])
        if worker >= num_readers:
            return
        reader = (worker + self.state["next_reader"]) % num_readers  # the first worker gives the first batch
        start = self.state["positions"].get(str(reader))
        process, num_processes = self.process
        part = (process * num_readers + reader, num_processes * num_readers)
        if self.rows.num_shards < num_processes:
            part = (0, 1)
        empty = 0
        for epoch in count(start["epoch"] if start else 0):
            empty += 1
            for row, position in self._rows_of(epoch, part, start):
                empty = 0
                if self.check is not None:
                    self.check(row)
                item = self.augmentation.item(row, epoch) | {"image": self.augmentation.picture(row, epoch)}
                yield item | {POSITION: {"reader": reader, "epoch": epoch, **position}}
            start = None
            if empty == EMPTY_EPOCHS:
                raise WorkError(
                    f"a reader of the stream found no row with a caption in {EMPTY_EPOCHS} epochs of its share of the "
                    f"{self.rows.num_shards} shards",
                    option="data",
                    fix="remove files without rows of this split",
                )

    def _rows_of(
        self, epoch: int, part: tuple[int, int], start: dict[str, Any] | None = None
    ) -> Iterator[tuple[dict, dict[str, Any]]]:
        """Yield the rows of an epoch, from the position `start` on, each with the position after it.

        Args:
            epoch: its number.
            part: number of the part of its shards, and of how many parts; of one part for all processes, each takes
                every n-th row.
            start: position in this epoch.
        """
        offset, step = self.process if part[1] < self.process[1] else (0, 1)
        before, done, groups = 0, 0, self._groups(epoch, part)
        if start is not None:
            before, done, groups = start["before"], start["done"], self._groups_again(epoch, part, start)
        for number, group, state in groups:
            digest = _digest(group)
            for place, row in enumerate(group):
                if place >= done and (before + place) % step == offset:
                    position = {"group": number, "done": place + 1, "before": before, "rows": state, "digest": digest}
                    yield row, position
            before, done = before + len(group), 0

    def _groups_again(
        self, epoch: int, part: tuple[int, int], start: dict[str, Any]
    ) -> Iterator[tuple[int, list[dict], dict[str, Any] | None]]:
        """Yield the groups of an epoch from that of the position `start` on.

        Raises:
            WorkError: it is not the group that was read before.
        """
        groups = self._groups(epoch, part, start["group"], start["rows"])
        first = next(groups)
        if _digest(first[1]) != start["digest"] and start["rows"] is not None:
            # The state of a stream that the caller shuffled has no rows of its buffer, and that of datasets 4.8 errs.
            logger.warning("the state of the stream does not lead to the same rows: its epoch is read from the start")
            groups = self._groups(epoch, part, start["group"])
            first = next(groups)
        if _digest(first[1]) != start["digest"]:
            raise WorkError(
                f"a reader finds other images than before the checkpoint (epoch {epoch}, group {start['group']})",
                option="data",
                fix="put the data back as they were, or begin again in another output_dir",
            )
        yield from chain([first], groups)

    def _groups(
        self, epoch: int, part: tuple[int, int], first: int = 0, state: dict[str, Any] | None = None
    ) -> Iterator[tuple[int, list[dict], dict[str, Any] | None]]:
        """Yield the rows of an epoch in groups: the rows that wait for a block no longer, in random order.

        Args:
            epoch: its number.
            part: number of the part of its shards, and of how many parts.
            first: group to begin with.
            state: that of `datasets` before the first block whose rows may be in the first group; None is the epoch's
                start.

        Returns:
            Number of the group, its rows, and the state before the first block whose rows may be in it.
        """
        rows, first_block = self._unshuffled(epoch, part), 0
        if state is not None:
            rows.load_state_dict(state)
            first_block = first - DELAYS + 1
        iterator = ({name: values[0] for name, values in batch.items()} for batch in rows.iter(batch_size=1))
        waiting: dict[int, list[dict]] = defaultdict(list)
        states = deque(maxlen=DELAYS)  # before each of the last blocks
        for number in count(first_block):
            states.append(state)
            # It warns that a state leaves out a buffer, which holds nothing here.
            with as_config_error("data"), without_messages("datasets.iterable_dataset", "shuffle buffer"):
                block = list(islice(iterator, BLOCK))
            state = rows.state_dict()
            draws = np.random.default_rng([self.augmentation.seed, epoch, part[0], number + 1])
            for row, delay in zip(block, draws.integers(DELAYS, size=len(block)).tolist(), strict=True):
                if number + delay >= first:
                    waiting[number + delay].append(row)
            if number < first:
                continue
            group = waiting.pop(number, [])
            draws.shuffle(group)
            yield number, group, states[0]
            if not block and not waiting:
                return

    def _unshuffled(self, epoch: int, part: tuple[int, int]) -> datasets.IterableDataset:
        """Shuffle the shards of an epoch, the same for all readers, and take those of a part."""
        # Not `set_epoch`: loader processes share that number, and one that is further on would change another's.
        order = np.random.default_rng([self.augmentation.seed, epoch])
        # A buffer of one row holds none between two rows, so that the state of `datasets` is whole.
        rows = self.rows.shuffle(generator=order, buffer_size=1)
        number, num_parts = part
        # Moved on by one per epoch, or the first readers would always have the odd shards.
        return rows.shard(num_parts, (number + epoch) % num_parts, contiguous=False)


def _digest(group: Sequence[dict]) -> str:
    """Hash the ids of a group, to know it again."""
    return hashlib.sha256("\n".join(row["image_id"] for row in group).encode()).hexdigest()[:16]


def collate_with_position(collate: Callable[[list[dict]], dict], items: list[dict]) -> dict:
    """Collate items of a stream; the batch keeps the position of the last one."""
    batch = collate(items)
    batch[POSITION] = items[-1][POSITION]
    return batch


@lru_cache(maxsize=2)
def first_texts(rows: datasets.IterableDataset, count: int) -> list[dict]:
    """Captions and prompts of the first rows of a stream, which are read once, however often they are asked for."""
    with as_config_error("data"):
        return list(rows.take(count).remove_columns("image"))


def readers_of_stream(num_shards: int, num_workers: int, num_processes: int) -> int:
    """Count the loader processes of a training process that get shards of their own; 1 where it reads itself."""
    return max(1, min(num_workers, num_shards // num_processes))
