"""Training throughput, MFU, and advice when memory runs out."""

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from hfcap.errors import WorkError
from hfcap.training.packing import PADDING_SEGMENT, PREFIX_SEGMENT

# Large enough to reach a device's rate, small enough to be over in a moment.
MATMUL_SIDE = {"cpu": 1024, "other": 8192}
OUT_OF_MEMORY_MESSAGES = ("out of memory", "can't allocate memory", "Cannot allocate memory")


@dataclass
class Work:
    """What a process did: seconds are wall-clock time of optimizer steps, evaluation and saving left out.

    Attributes:
        seconds: loading, forward, backward and update.
        waited: the part of it in which the model waited for data.
        captions: references learned from.
        images: pictures encoded, or features read.
        tokens: positions of the language model that hold a token.
        positions: the same with padding.
    """

    seconds: float = 0.0
    waited: float = 0.0
    captions: float = 0.0
    images: float = 0.0
    tokens: float = 0.0
    positions: float = 0.0

    def add(self, other: "Work") -> None:
        """Add what `other` counted."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def count_batch(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Count a collated batch: (4,) float64 of captions, images, tokens and positions, on its device."""
    segments, images = batch["segment_ids"], batch["image_ids"]
    is_new_image, is_new_segment = torch.ones_like(images, dtype=torch.bool), torch.ones_like(images, dtype=torch.bool)
    is_new_image[:, 1:] = images[:, 1:] != images[:, :-1]
    is_new_segment[:, 1:] = is_new_image[:, 1:] | (segments[:, 1:] != segments[:, :-1])
    is_token = segments != PADDING_SEGMENT
    counts = [
        (is_new_segment & (segments > PREFIX_SEGMENT)).sum(),
        (is_new_image & is_token).sum(),
        is_token.sum(),
        torch.tensor(segments.numel(), device=segments.device),
    ]
    return torch.stack(counts).double()


@dataclass
class Throughput:
    """Counts the work of one process, for the log and for `run.json`.

    `matmul_flops` is the device's rate in matrix products, measured (`measure_matmul`); `flops_a_token` what learning
    from the first batch takes (`flops.needed_flops`). With the rate of tokens they give the MFU.
    """

    since_log: Work = field(default_factory=Work)
    total: Work = field(default_factory=Work)
    matmul_flops: float | None = None
    flops_a_token: float | None = None
    _started: float | None = None
    _counts: list[torch.Tensor] = field(default_factory=list)

    def start_step(self, batches: Sequence[dict[str, torch.Tensor]], asked: float) -> None:
        """Begin an optimizer step whose micro-batches were asked for at `asked` (`time.perf_counter()`)."""
        self._started = asked
        self.since_log.waited += time.perf_counter() - asked
        self._counts += [count_batch(batch) for batch in batches]

    def end_step(self) -> None:
        """End the step; what comes until the next one is not counted."""
        self.since_log.seconds += time.perf_counter() - self._started

    def take(self) -> Work:
        """Give the work since the last call, and add it to the total."""
        if self._counts:  # read here and not in each step, which would wait for the device
            counted = torch.stack(self._counts).sum(dim=0).tolist()
            self.since_log.add(Work(0, 0, *counted))
        work, self.since_log, self._counts = self.since_log, Work(), []
        self.total.add(work)
        return work

    def rates(self, work: Work, num_processes: int = 1) -> dict[str, float]:
        """Figures for people, over `num_processes` that did `work` together."""
        if not work.seconds:
            return {}
        seconds = work.seconds / num_processes
        figures = {"data_wait_share": work.waited / work.seconds, "peak_memory_gib": peak_memory_gib()}
        if work.positions:  # self-critical training samples its tokens itself
            figures |= {
                "captions_per_second": work.captions / seconds,
                "images_per_second": work.images / seconds,
                "tokens_per_second": work.tokens / seconds,
                "padding_share": 1 - work.tokens / work.positions,
            }
        if self.matmul_flops and self.flops_a_token:
            figures["mfu"] = self.flops_a_token * work.tokens / seconds / num_processes / self.matmul_flops
        return {name: float(f"{value:.4g}") for name, value in figures.items()}


def measure_matmul(device: torch.device, dtype: torch.dtype) -> float:
    """Rate of square matrix products on a device, in floating-point operations per second: the best of five."""
    side = MATMUL_SIDE.get(device.type, MATMUL_SIDE["other"])
    # Random numbers, since a GPU is faster on constant ones; from a generator of their own, so that the dropout of the
    # training that follows stays what it is.
    draw = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(side, side, device=device, dtype=dtype, generator=draw) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def peak_memory_gib() -> float:
    """Most memory this process has had so far: the GPU's where there is one, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY_MESSAGES)


def memory_error(args, rows: int, alone: bool = False) -> WorkError:
    """Make the error of a process that ran out of memory: which settings to lower, by how much, what stays the same.

    Args:
        args: of the training.
        rows: of the process in a forward pass.
        alone: whether the other processes did not run out, so that `auto_find_batch_size` could not help.
    """
    accumulation = args.gradient_accumulation_steps
    if rows > 1:
        fewer = fitting_batch(rows * accumulation, rows // 2)
        first = (
            f"--per_device_train_batch_size {fewer} --gradient_accumulation_steps {rows * accumulation // fewer} (the "
            "same optimizer steps)"
        )
        if not args.auto_find_batch_size:
            first += ", or --auto_find_batch_size true, which finds them"
    else:
        first = "a lower max_row_tokens, references or max_caption_tokens (the batch has one row already)"
    reason = "out of memory"
    if alone:
        reason += f" on process {args.process_index} alone, where --auto_find_batch_size cannot help"
    return WorkError(
        reason,
        option="per_device_train_batch_size",
        got=rows,
        fix=f"set {first}; if that is not enough, --activation_checkpointing true, a smaller image_size, a larger "
        "pixel_shuffle_factor, a frozen encoder or LoRA",
    )


def fitting_batch(rows_a_step: int, most: int) -> int:
    """Largest batch of at most so many rows that accumulates to the same optimizer steps."""
    return max(size for size in range(1, most + 1) if rows_a_step % size == 0)


@contextmanager
def evaluating(args) -> Iterator[None]:
    """Within this context something is evaluated; its batches are not those of training.

    Raises:
        WorkError: memory ran out; names the setting to lower.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise WorkError(
            "out of memory in an evaluation",
            option="per_device_eval_batch_size",
            got=args.per_device_eval_batch_size,
            fix="lower it or num_beams, and run the same command again",
        ) from error
