"""Order of an epoch by (seed, epoch)."""

from collections.abc import Iterator

import numpy as np
import torch


class EpochSampler(torch.utils.data.Sampler):
    """Shuffle by (seed, epoch) and yield `(epoch, index)`: workers and resumed runs need no other state."""

    def __init__(self, num_rows: int, seed: int):
        self.num_rows = num_rows
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; `Trainer` calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Count the rows."""
        return self.num_rows

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield `(epoch, index)` for each row once."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_rows)
        return iter([(self.epoch, int(index)) for index in order])
