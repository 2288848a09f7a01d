"""Training data sets: images with references, augmented by (seed, epoch, image_id), as maps and streams."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import datasets
import numpy as np
import torch
from datasets.distributed import split_dataset_by_node
from PIL import Image

from hfcap.counts import counted
from hfcap.data.augmentation import (
    View,
    color_jitter,
    color_jitter_is_true,
    draw,
    mirror,
    mirror_is_true,
    random_crop,
)
from hfcap.data.features import ComputedFeatures, FeatureCache
from hfcap.data.picture_checks import undecoded
from hfcap.data.pictures import load_picture
from hfcap.data.shards import too_few_shards
from hfcap.errors import WorkError

logger = logging.getLogger(__name__)

SHUFFLE_BUFFER = 1000  # images of a stream held to draw the next one from
EMPTY_EPOCHS = 10  # a reader whose shards hold nothing of the split that often gives up
FIRST_OF_STREAM = 1000  # images of a stream that stand for all of it in what is checked before training


@dataclass(frozen=True)
class Augmentation:
    """Random references and image augmentation of a row per epoch, drawn from (seed, epoch, image_id).

    Args:
        references: how many references of an image a step uses; `None` for all.
        mirror: flip pictures from left to right at random where no caption names a side.
        crop: smallest share of a picture's area that a random crop keeps; 1 crops nothing.
        cached_crops: how many crops of a picture a feature cache keeps, beside the whole one.
        color_jitter: largest change of brightness, contrast and saturation, where no caption names a colour or light.
        seed: seed of the draws.
    """

    references: int | None = None
    mirror: bool = False
    crop: float = 1.0
    cached_crops: int = 0
    color_jitter: float = 0.0
    seed: int = 0

    def captions(self, row: dict, epoch: int) -> list[str]:
        """Draw the references of the epoch, in the row's order."""
        captions = row["captions"]
        if self.references is None or len(captions) <= self.references:
            return captions
        chosen = draw(self.seed, epoch, row["image_id"], "references").permutation(len(captions))[: self.references]
        return [captions[i] for i in sorted(chosen)]

    def flips(self, row: dict, epoch: int) -> bool:
        """Draw whether the epoch shows the picture flipped."""
        may_flip = self.mirror and mirror_is_true(row["captions"])
        return may_flip and draw(self.seed, epoch, row["image_id"], "mirror").random() < 0.5

    def cached_views(self) -> list[View]:
        """Return what a feature cache keeps of each picture; every other crop is flipped where pictures may be."""
        whole = [View(), View(flipped=True)] if self.mirror else [View()]
        numbers = range(1, self.cached_crops + 1)
        return whole + [View(self.mirror and n % 2 == 0, self.crop, n, self.seed) for n in numbers]

    def view(self, row: dict, epoch: int) -> View:
        """Draw which of the cached views the epoch shows."""
        flipped = self.flips(row, epoch)
        views = [view for view in self.cached_views() if view.flipped == flipped]
        return views[draw(self.seed, epoch, row["image_id"], "crop").integers(len(views))]

    def picture(self, row: dict, epoch: int) -> Image.Image:
        """Load the row's picture as the epoch shows it."""
        picture = load_picture(row["image"])
        if self.crop < 1:
            picture = random_crop(picture, self.crop, draw(self.seed, epoch, row["image_id"], "crop"))
        if self.color_jitter > 0 and color_jitter_is_true(row["captions"]):
            picture = color_jitter(picture, self.color_jitter, draw(self.seed, epoch, row["image_id"], "color"))
        return mirror(picture) if self.flips(row, epoch) else picture

    def item(self, row: dict, epoch: int) -> dict:
        """Return `{image_id, captions}` and, where the row has one, its `prompt`."""
        item = {"image_id": row["image_id"], "captions": self.captions(row, epoch)}
        return item | {"prompt": row["prompt"]} if row.get("prompt") else item


class CaptionDataset(torch.utils.data.Dataset):
    """Rows `{image_id, captions, image}`, or `vision_features` in place of `image` where a feature cache is given.

    Args:
        rows: data set with the columns `image_id`, `image`, `captions` and maybe `prompt`.
        features: encoder features of exactly these rows, in their order.
        **augmentation: fields of `Augmentation`.
    """

    def __init__(
        self, rows: datasets.Dataset, features: FeatureCache | ComputedFeatures | None = None, **augmentation
    ):
        if features is not None and len(features) != len(rows):
            raise ValueError(
                f"the feature cache holds {counted(len(features), 'image')}, the data set {len(rows)}: rebuild it"
            )
        # Pictures stay encoded until they are asked for; with a cache they are never read.
        self.with_images = undecoded(rows)
        self.rows = self.with_images if features is None else self.with_images.remove_columns("image")
        self.features = features
        self.augmentation = Augmentation(**augmentation)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.rows)

    def __getitem__(self, key: int | tuple[int, int] | tuple[int, tuple[int, ...]]) -> dict | list[dict]:
        """Return row `index`, or `(epoch, index)` as samplers yield it; for several indices a list."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        return [self._item(epoch, i) for i in index] if isinstance(index, tuple) else self._item(epoch, index)

    def _item(self, epoch: int, index: int) -> dict:
        row = self.rows[index]
        item = self.augmentation.item(row, epoch)
        if self.features is None:
            return item | {"image": self.augmentation.picture(row, epoch)}
        return item | {"vision_features": self.features.read(index, self.augmentation.view(row, epoch))}


class CaptionStream(torch.utils.data.IterableDataset):
    """Rows `{image_id, captions, image}` of a stream, epoch after epoch without an end: `max_steps` ends training.

    An epoch's order is a function of (seed, epoch): its shards are shuffled, and its rows are drawn from a buffer that
    holds `SHUFFLE_BUFFER` encoded images. Processes and their loader processes divide the shuffled shards: together
    they see each image once per epoch, and each opens its own shards alone. Shards may be uneven: a process that is
    done with its part of an epoch goes on with its part of the next one. With fewer shards than processes, each reads
    all of them and takes every n-th row; with fewer than loader processes, the others of these read nothing.

    A resumed run reads the stream up to where it stopped, and goes on with the very next row: for `Trainer`
    all of training is one epoch, of which it skips the batches that were seen.

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

    def divide(self, process: int, num_processes: int, num_workers: int = 0) -> None:
        """Read the part of one training process; `CaptionTrainer` calls it.

        Args:
            process: its number.
            num_processes: how many train.
            num_workers: loader processes of each, for the log.
        """
        self.process, num_shards = (process, num_processes), self.rows.num_shards
        if process == 0 and num_shards < num_processes:
            logger.warning(too_few_shards(num_shards, num_processes))
        readers = readers_of_stream(num_shards, num_workers, num_processes)
        if process == 0 and readers < num_workers:
            logger.info(
                "%d of %d loader processes have work: the stream has %s",
                readers,
                num_workers,
                counted(num_shards, "shard"),
            )

    def __iter__(self) -> Iterator[dict]:
        """Yield items; in a loader process those of its shards.

        Raises:
            WorkError: the reader's shards gave no row, `EMPTY_EPOCHS` times in a row.
        """
        worker = torch.utils.data.get_worker_info()
        worker, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if worker >= readers_of_stream(self.rows.num_shards, num_workers, self.process[1]):
            return
        empty = 0
        for epoch in count():
            empty += 1
            # Not `iter(rows)`: in a loader process that would divide the rows by loader processes once more.
            for batch in self._rows_of(epoch, worker, num_workers).iter(batch_size=1):
                empty = 0
                row = {name: values[0] for name, values in batch.items()}
                if self.check is not None:
                    self.check(row)
                yield self.augmentation.item(row, epoch) | {"image": self.augmentation.picture(row, epoch)}
            if empty == EMPTY_EPOCHS:
                raise WorkError(
                    f"a reader of the stream found no row with a caption in {EMPTY_EPOCHS} epochs of its share of the "
                    f"{self.rows.num_shards} shards",
                    option="data",
                    fix="remove files without rows of this split",
                )

    def _rows_of(self, epoch: int, worker: int, num_workers: int) -> datasets.IterableDataset:
        """Shuffle an epoch, the same for all readers, and take the part of one."""
        # Not `set_epoch`: loader processes share that number, and one that is further on would change another's.
        order = np.random.default_rng([self.augmentation.seed, epoch])
        rows = self.rows.shuffle(generator=order, buffer_size=SHUFFLE_BUFFER)
        process, num_processes = self.process
        if rows.num_shards < num_processes:
            return split_dataset_by_node(rows, process, num_processes)
        readers = readers_of_stream(rows.num_shards, num_workers, num_processes)
        total = readers * num_processes
        # Moved on by one per epoch, or the first readers would always have the odd shards.
        return rows.shard(total, (process * readers + worker + epoch) % total, contiguous=False)


@lru_cache(maxsize=2)
def first_texts(rows: datasets.IterableDataset, count: int) -> list[dict]:
    """Captions and prompts of the first rows of a stream, which are read once, however often they are asked for."""
    return list(rows.take(count).remove_columns("image"))


def readers_of_stream(num_shards: int, num_workers: int, num_processes: int) -> int:
    """Count the loader processes of a training process that get shards of their own; 1 where it reads itself."""
    return max(1, min(num_workers, num_shards // num_processes))
