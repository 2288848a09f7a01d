"""What `--dry_run` shows: one sample as the model sees it, what trains, and what a run will take."""

import math
import time
from itertools import islice

import torch
from torch import nn

from hfcap.training.collators import CaptionCollator
from hfcap.training.dataset import CaptionDataset, CaptionStream
from hfcap.training.loss import token_loss
from hfcap.training.packing import IGNORE_INDEX, PREFIX_SEGMENT
from hfcap.training.strategies import parameter_table
from hfcap.training.throughput import peak_memory_gib
from hfcap.training.trainer import model_inputs

BYTES_PER_TRAINED_PARAMETER = 12  # its gradient and AdamW's two moments, float32 each


def describe_sample(batch: dict[str, torch.Tensor], tokenizer) -> str:
    """First row of a collated batch: prefix, then for each reference what is read and what is learned from it."""
    input_ids = batch.get("input_ids", batch.get("decoder_input_ids"))[0]
    segments, labels = batch["segment_ids"][0], batch["shift_labels"][0]
    prefix = input_ids[segments == PREFIX_SEGMENT]
    lines = [f"prefix, {len(prefix)} tokens, not learned: {tokenizer.decode(prefix)!r}"] if len(prefix) else []
    for segment in range(PREFIX_SEGMENT + 1, int(segments.max()) + 1):
        own = segments == segment
        learned = labels[own][labels[own] != IGNORE_INDEX]
        lines.append(f"reference {segment}, {len(learned)} targets")
        lines.append(f"  reads  {tokenizer.decode(input_ids[own])!r}")
        lines.append(f"  learns {tokenizer.decode(learned)!r}")
    return "\n".join(lines)


def describe_run(model: nn.Module, collator: CaptionCollator, data: CaptionDataset | CaptionStream, args) -> str:
    """Describe a run from one real batch: sample, token counts, trainable parameters, steps, minutes and memory.

    The batch is run forward and backward twice; the second pass is timed. Gradients are cleared afterwards.
    """
    batch = collator(list(islice(iter(data), args.per_device_train_batch_size)))
    targets = int((batch["shift_labels"] != IGNORE_INDEX).sum())
    padding = float((batch["segment_ids"] < 0).float().mean())
    seconds = min(_timed_step(model, batch) for _ in range(2))
    steps = args.max_steps
    if steps <= 0:
        micro_batches = math.ceil(len(data) / args.per_device_train_batch_size / args.world_size)
        steps = math.ceil(micro_batches / args.gradient_accumulation_steps) * math.ceil(args.num_train_epochs)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    minutes = steps * args.gradient_accumulation_steps * seconds / 60
    return "\n\n".join(
        [
            describe_sample(batch, collator.processor.tokenizer),
            f"batch: {batch['segment_ids'].shape[0]} rows of {batch['segment_ids'].shape[1]} tokens, "
            f"{targets} targets, {100 * padding:.0f} % padding",
            parameter_table(model),
            f"{steps} optimizer steps, {seconds:.2f} s for a batch: some {minutes:.0f} minutes without evaluation",
            f"memory: {peak_memory_gib() + trained * BYTES_PER_TRAINED_PARAMETER / 2**30:.1f} GiB "
            f"({peak_memory_gib():.1f} measured for this batch, the rest for the optimizer)",
        ]
    )


def _timed_step(model: nn.Module, batch: dict[str, torch.Tensor]) -> float:
    model.train()
    start = time.perf_counter()
    inputs = model_inputs({k: v.to(model.device) for k, v in batch.items()}, model)
    labels = inputs.pop("labels")
    token_loss(model(**inputs), labels).backward()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    model.zero_grad(set_to_none=True)
    return time.perf_counter() - start
