"""Captioning on all processes of a run: each does its share, all receive everything."""

from accelerate import PartialState
from accelerate.utils import gather_object
from torch.utils.data import Subset
from transformers import PreTrainedModel

from hfcap.generation.caption import caption_rows


def caption_sharded(
    model: PreTrainedModel,
    processor,
    rows,
    prompt: str | None = None,
    batch_size: int = 16,
    progress: str | None = None,
    **generate_kwargs,
) -> list[str]:
    """Caption rows with all processes: the captions, and their order, that one process alone would give.

    Every process must call this. Under ZeRO-3 and FSDP the weights are gathered for each forward pass by all processes
    together, so all must run equally many: a process that is done repeats its last batch until all are (`lockstep`),
    and `generate` goes on until the last process is done (`synced_gpus`, which stock `generate` sets by itself).
    Gathering the whole model once would decode faster, but needs room for it on every device, and what is trained with
    ZeRO-3 may not fit.

    Args:
        model: as for `caption_rows`, and so are the others.
        processor: its processor.
        rows: map-style data set, or a sequence.
        prompt: instruction for LLaVA-style models.
        batch_size: pictures decoded together by each process.
        progress: label of the main process's progress bar.
        generate_kwargs: override the model's `generation_config`.

    Returns:
        One caption per row, in order, the same list in every process.
    """
    state = PartialState()
    mine = range(state.process_index, len(rows), state.num_processes)
    at_least_one = mine or range(len(rows))[:1]
    captions = caption_rows(
        model,
        processor,
        Subset(rows, at_least_one),
        prompt,
        batch_size,
        progress if state.is_main_process else None,
        **generate_kwargs,
    )
    own = list(zip(mine, captions, strict=False))  # nothing where there are fewer rows than processes
    return [caption for _, caption in sorted(gather_object(own))]
