"""Packing plan of an epoch: which images share a row, by the lengths of their captions.

Tokens are counted once, when training starts. A plan is a function of (seed, epoch), the number of rows is the same in
every epoch, and rows are of nearly the same length, so that processes are evenly loaded and padding is rare.
"""

import heapq
from bisect import bisect_left
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.data.caption_stream import CaptionStream
from hfcap.errors import ConfigError
from hfcap.training.argument_checks import check_whole_batch
from hfcap.training.collators import CaptionCollator
from hfcap.training.epoch_sampler import EpochSampler
from hfcap.training.packing import packed_length

CAPTIONS_AT_A_TIME = 10_000


def image_lengths(data: CaptionDataset, collator: CaptionCollator) -> np.ndarray:
    """Most tokens that each image takes in a packed row, (images,) int64; no picture is decoded.

    Where an epoch draws some of an image's references, its longest ones count, so that a plan holds for all epochs.

    Raises:
        ConfigError: the number of a picture's tokens depends on the picture.
    """
    # Of our own types alone it is known that all pictures have `image_seq_length` tokens.
    if collator.spec.feature_input != "vision_features":
        raise ConfigError(
            f"how many tokens {type(collator.processor).__name__} makes of an image is known only when it is decoded",
            option="max_row_tokens",
            fix="remove it",
        )
    captions, prompts = list(data.rows["captions"]), [None] * len(data)
    if "prompt" in data.rows.column_names:
        prompts = list(data.rows["prompt"])
    prefixes = {prompt: collator.prefix_length(prompt) for prompt in set(prompts)}
    flat = [caption for own in captions for caption in own]
    lengths = iter(
        [
            len(target)
            for start in range(0, len(flat), CAPTIONS_AT_A_TIME)
            for target in collator.targets(flat[start : start + CAPTIONS_AT_A_TIME])
        ]
    )
    counted = []
    for prompt, own in zip(prompts, captions, strict=True):
        longest = sorted((next(lengths) for _ in own), reverse=True)[: data.augmentation.references]
        counted.append(packed_length(prefixes[prompt], longest))
    return np.array(counted)


def plan_rows(lengths: Sequence[int], num_rows: int, seed: int, epoch: int) -> list[list[int]]:
    """Distribute images over `num_rows` rows of nearly the same length; each image is in one of them.

    The longest image first, always into the shortest row (Graham, "Bounds on multiprocessing timing anomalies", 1969).
    Images of the same length change places from epoch to epoch, and so do the rows. The lengths of the rows depend on
    the lengths of the images only, not on (seed, epoch).
    """
    draw = np.random.default_rng([seed, epoch])
    order = draw.permutation(len(lengths))
    order = order[np.argsort(-np.asarray(lengths)[order], kind="stable")]
    shortest = [(0, row) for row in range(num_rows)]  # a heap of (length so far, row)
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    for image in order:
        length, row = heapq.heappop(shortest)
        rows[row].append(int(image))
        heapq.heappush(shortest, (length + int(lengths[image]), row))
    return [rows[row] for row in draw.permutation(num_rows)]


def count_rows(lengths: Sequence[int], max_row_tokens: int) -> int:
    """Smallest number of rows for which `plan_rows` keeps every row within `max_row_tokens`.

    Raises:
        ConfigError: a single image is longer than that.
    """
    if max(lengths) > max_row_tokens:
        raise ConfigError(
            "an image and its references must fit into one row",
            option="max_row_tokens",
            got=max_row_tokens,
            wanted=f"{max(lengths)} or more",
            fix="raise it, or lower max_caption_tokens or references",
        )
    longest_first = sorted(map(int, lengths), reverse=True)
    candidates = range(-(-sum(longest_first) // max_row_tokens), len(longest_first) + 1)
    # By halving: one more empty row never makes the longest one longer.
    return candidates[bisect_left(candidates, True, key=lambda n: _longest_row(longest_first, n) <= max_row_tokens)]


def _longest_row(longest_first: Sequence[int], num_rows: int) -> int:
    """Tokens of the longest row of `plan_rows`, which are the same for every (seed, epoch)."""
    rows = [0] * num_rows  # a heap
    for length in longest_first:
        heapq.heapreplace(rows, rows[0] + length)
    return max(rows)


class RowSampler(EpochSampler):
    """Yield `(epoch, images)` for each row of the epoch's plan, in the place of `(epoch, index)`.

    Args:
        lengths: of `image_lengths`.
        max_row_tokens: no row is longer.
        seed: of the plans.
    """

    def __init__(self, lengths: np.ndarray, max_row_tokens: int, seed: int):
        super().__init__(count_rows(lengths, max_row_tokens), seed)
        self.lengths = lengths

    def __iter__(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield each row once."""
        return iter([(self.epoch, tuple(row)) for row in plan_rows(self.lengths, len(self), self.seed, self.epoch)])


def describe_references(references: int | None, packing: bool) -> str:
    """Say which references of an image per step learns from, and why."""
    if references is None:
        how = "in one row behind it, which encodes it once" if packing else "each in a row with a copy of it"
        return f"all references of an image in one step, {how}; references: 1 draws one of them per epoch"
    return f"{references} of an image's references in a step, redrawn each epoch, because references is {references}"


def train_sampler(
    data: CaptionDataset | CaptionStream, collator: CaptionCollator, args
) -> torch.utils.data.Sampler | None:
    """Order of the training data: an image per row, or as many as `max_row_tokens` holds; a stream has its own (None).

    Raises:
        ConfigError: images cannot share a row here, or an epoch has no whole batch and others are dropped.
    """
    sampler = _train_sampler(data, collator, args)
    if sampler is not None:
        check_whole_batch(len(sampler), args)
    return sampler


def _train_sampler(
    data: CaptionDataset | CaptionStream, collator: CaptionCollator, args
) -> torch.utils.data.Sampler | None:
    seed = args.seed if args.data_seed is None else args.data_seed
    if args.max_row_tokens is None:
        return EpochSampler(len(data), seed) if isinstance(data, CaptionDataset) else None
    reason, fix = None, "remove it"
    if not isinstance(data, CaptionDataset):
        reason = "the lengths of a stream are not known beforehand"
    elif collator.spec.layout == "encoder_decoder":
        reason = "a row of an encoder-decoder attends to one image"
    elif not collator.packing:
        reason, fix = "only packed rows hold several images", "remove it, or set packing: auto"
    if reason is not None:
        raise ConfigError(reason, option="max_row_tokens", got=args.max_row_tokens, fix=fix)
    return RowSampler(image_lengths(data, collator), args.max_row_tokens, seed)
