"""Processes that a launcher started: joining, shares, decisions of the main one. A process alone needs no torch."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hfcap.atomic_files import only_writer
from hfcap.errors import ConfigError

if TYPE_CHECKING:
    from accelerate import PartialState

T = TypeVar("T")
# What launchers (torchrun, accelerate, MPI) set to the number of processes; accelerate reads the same.
_NUM_PROCESSES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


@dataclass(frozen=True)
class OneProcess:
    """What commands ask `accelerate.PartialState`, for a process alone."""

    process_index: int = 0
    num_processes: int = 1
    is_main_process: bool = True

    def wait_for_everyone(self) -> None:
        """Return: there is nobody to wait for."""


def is_alone() -> bool:
    """Whether no launcher started further processes."""
    return all(os.environ.get(name, "1") in ("", "0", "1") for name in _NUM_PROCESSES)


def join_processes() -> "OneProcess | PartialState":
    """Join the processes that a launcher started, where no `TrainingArguments` do; call it before all else.

    Without `cpu`, accelerate takes processes on CPUs for strangers. And one may wait for another's captions longer
    than the half hour that is usual between two gradients.
    """
    if is_alone():
        return OneProcess()
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(days=1))


def gather(items: list) -> list:
    """Return the items of all processes, in every process; all of them call it."""
    if is_alone():
        return items
    from accelerate.utils import gather_object

    return gather_object(items)


def main_process_decides(decide: Callable[[], T]) -> T:
    """Call `decide` in the main process alone; every process gets its result, or raises its `ConfigError`.

    Files that a run reads and then writes would otherwise differ between the processes that look at them.
    """
    if is_alone():
        return decide()
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    answer: list = [None, None]
    if PartialState().is_main_process:
        try:
            answer[0] = decide()
        except ConfigError as error:
            answer[1] = error
    broadcast_object_list(answer)
    result, refusal = answer
    if refusal is not None:
        raise refusal
    return result


@contextmanager
def one_writer(path: str | os.PathLike) -> Iterator[None]:
    """Within this context the processes of this run, and no others, write a file; the main process has the lock.

    Raises:
        ConfigError: another command is writing it.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        main_process_decides(lambda: held.enter_context(only_writer(path)))
        yield
