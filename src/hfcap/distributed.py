"""Several processes: lockstep, loading of weights, CPU cores."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import FullyShardedDataParallelPlugin, reduce
from transformers import PreTrainedModel, TrainingArguments
from transformers.integrations.deepspeed import (
    is_deepspeed_zero3_enabled,
    set_hf_deepspeed_config,
    unset_hf_deepspeed_config,
)
from transformers.integrations.fsdp import is_fsdp_managed_module

T = TypeVar("T")


def lockstep(model: torch.nn.Module, items: Iterable[T]) -> Iterator[tuple[T, bool]]:
    """Yield each item with True; where processes gather weights together, go on until all of them have run out.

    Under ZeRO-3 and FSDP a forward pass is joint work, and one process that runs more of them than another waits for
    ever. A process that has no item left gets its last one again, with False: it runs it for the others alone.

    Args:
        model: what runs on the items.
        items: of this process, at least one if another process has one.
    """
    items = iter(items)
    state = PartialState()
    if state.num_processes == 1 or not (is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model)):
        yield from ((item, True) for item in items)
        return
    nothing_left = object()
    item = last = next(items, nothing_left)
    while reduce(torch.tensor(float(item is not nothing_left), device=state.device), "sum"):
        yield last, item is not nothing_left
        item = next(items, nothing_left)
        last = last if item is nothing_left else item


def all_processes_join(group: torch.distributed.ProcessGroup) -> bool:
    """Whether all processes call this before the group's timeout; one that waits in a collective elsewhere does not.

    Args:
        group: all processes, by gloo, and in use for nothing else.
    """
    try:
        torch.distributed.barrier(group)
    except RuntimeError:
        return False
    return True


def prepare_fsdp(plugin: FullyShardedDataParallelPlugin, model: PreTrainedModel) -> None:
    """Let FSDP2 divide a captioner layer by layer, and keep its weights in float32.

    The layers are those that the model names (`_no_split_modules`) and holds: accelerate refuses a name it does not
    find, and every captioner with CLIP or SigLIP has some, of the text halves (accelerate 1.15, transformers 5.24).

    FSDP2's own mixed precision would gather weights in bfloat16 for captions and evaluation losses too, and they would
    not be those of the saved model; it also fails where a layer gets float32 from another. Training runs under
    autocast instead, as on other engines.

    Args:
        plugin: of the accelerator, before it prepares the model; layers that the launcher was given stay.
        model: a captioner, wrapped by PEFT or not.
    """
    plugin.mixed_precision_policy = None
    if plugin.transformer_cls_names_to_wrap is None:
        held = {type(module).__name__ for module in model.modules()}
        plugin.transformer_cls_names_to_wrap = sorted(held & set(model._no_split_modules or ()))


@contextmanager
def whole_weights(args: TrainingArguments) -> Iterator[None]:
    """Within this context every process loads whole weights, unless accelerate's `zero3_init_flag` is true.

    `TrainingArguments` and `Trainer` make ZeRO-3 partition weights as they load, whatever that flag says. A captioner
    that is joined from parts or merged needs them whole; DeepSpeed partitions it when training starts.
    """
    plugin = args.deepspeed_plugin
    if plugin is None or plugin.zero3_init_flag:
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(plugin.hf_ds_config)  # `generate` asks it whether processes must stay in step


def use_all_cores() -> None:
    """Give torch this process's share of the cores: `accelerate launch` sets OMP_NUM_THREADS=1, one core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
