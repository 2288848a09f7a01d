"""Runs of several processes: what one decides for all, and how weights load."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import TrainingArguments
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from hfcap.errors import ConfigError

T = TypeVar("T")


def main_process_decides(decide: Callable[[], T]) -> T:
    """Call `decide` in the main process alone; every process gets its result, or raises its `ConfigError`.

    Files that a run reads and then writes would otherwise differ between the processes that look at them.
    """
    state = PartialState()
    answer: list = [None, None]
    if state.is_main_process:
        try:
            answer[0] = decide()
        except ConfigError as error:
            answer[1] = str(error)
    if state.num_processes > 1:
        broadcast_object_list(answer)
    result, refusal = answer
    if refusal is not None:
        raise ConfigError(refusal)
    return result


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
