"""Description of a run for `--dry_run`: a tokenized sample, trainable parameters, time and memory."""

import math
import re
import time
from itertools import islice

import torch
from torch import nn

from hfcap.counts import counted
from hfcap.errors import as_config_error
from hfcap.models.attention import uses_packed_sdpa
from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.collators import CaptionCollator
from hfcap.training.loss import token_loss
from hfcap.training.model_inputs import model_inputs
from hfcap.training.packing import IGNORE_INDEX, PREFIX_SEGMENT
from hfcap.training.reference_lengths import measure_references
from hfcap.training.strategies import parameter_table
from hfcap.training.throughput import count_batch, peak_memory_gib
from hfcap.training.trainer import CaptionTrainer

FEATURE_BYTES = 2  # on disk: float16
BYTES_PER_TRAINED_PARAMETER = 12  # its gradient and AdamW's two moments, float32 each


def describe_sample(batch: dict[str, torch.Tensor], tokenizer) -> str:
    """First row of a collated batch: the prefix of each image, then what each reference reads and learns."""
    input_ids = batch.get("input_ids", batch.get("decoder_input_ids"))[0]
    segments, images, labels = (batch[name][0] for name in ("segment_ids", "image_ids", "shift_labels"))
    num_images = int(images.max()) + 1
    lines = []
    for image in range(num_images):
        own_image = images == image
        if num_images > 1:
            lines.append(f"image {image + 1} of {num_images} in the row")
        prefix = input_ids[own_image & (segments == PREFIX_SEGMENT)]
        if len(prefix):
            decoded = _without_runs(tokenizer.decode(prefix))
            lines.append(f"prefix, {counted(len(prefix), 'token')}, not learned: {decoded!r}")
        for segment in range(PREFIX_SEGMENT + 1, int(segments[own_image].max()) + 1):
            own = own_image & (segments == segment)
            learned = labels[own][labels[own] != IGNORE_INDEX]
            lines.append(f"reference {segment}, {len(learned)} targets")
            lines.append(f"  reads  {tokenizer.decode(input_ids[own])!r}")
            lines.append(f"  learns {tokenizer.decode(learned)!r}")
    return "\n".join(lines)


def _without_runs(text: str) -> str:
    """Write tokens that stand many times in a row once: "<image> (x 576)"."""
    return re.sub(
        r"(<[^<>]{1,40}>|\[[^][]{1,40}\])(\1{3,})", lambda m: f"{m[1]} (x {1 + len(m[2]) // len(m[1])})", text
    )


def first_batch(data, sampler, collator: CaptionCollator, size: int) -> dict[str, torch.Tensor]:
    """Collate the first batch of a training in its own order; a stream has no sampler."""
    items = iter(data) if sampler is None else (data[key] for key in sampler)
    return collator(list(islice(items, size)))


def describe_batch(batch: dict[str, torch.Tensor]) -> str:
    """Rows, tokens, images and targets of a collated batch."""
    num_rows, length = batch["segment_ids"].shape
    _, images, tokens, positions = count_batch(batch).tolist()
    targets = int((batch["shift_labels"] != IGNORE_INDEX).sum())
    return (
        f"batch: {counted(num_rows, 'row')} of {counted(length, 'token')}, {counted(int(images), 'image')}, "
        f"{counted(targets, 'target')}, {100 * (1 - tokens / positions):.0f} % padding"
    )


def count_steps(sampler, args: CaptionTrainingArguments) -> int:
    """Optimizer steps of a training."""
    if args.max_steps > 0:
        return args.max_steps
    micro_batches = math.ceil(len(sampler) / args.per_device_train_batch_size / args.world_size)
    return math.ceil(args.num_train_epochs * math.ceil(micro_batches / args.gradient_accumulation_steps))


def describe_run(trainer: CaptionTrainer) -> str:
    """Describe a run from its first batch: sample, token counts, trainable parameters, steps, minutes and memory.

    The batch is run forward and backward twice, on the device and in the precision of the run; the faster pass counts.
    Gradients are cleared afterwards.
    """
    model, collator, data, args = trainer.model, trainer.data_collator, trainer.train_dataset, trainer.args
    if not getattr(model, "is_quantized", False):  # 4-bit weights are on their device already
        model.to(args.device)
    sampler = trainer.train_sampler
    batch = first_batch(data, sampler, collator, args.per_device_train_batch_size)
    autocast = torch.autocast(model.device.type, torch.bfloat16, enabled=args.bf16)
    with as_config_error("forward pass"), autocast, uses_packed_sdpa(model):
        seconds = min(_timed_step(model, batch) for _ in range(2))
    steps = count_steps(sampler, args)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    minutes = steps * args.gradient_accumulation_steps * seconds / 60
    return "\n\n".join(
        [
            describe_sample(batch, collator.processor.tokenizer),
            describe_batch(batch),
            str(measure_references(data, collator)),
            *(
                []
                if args.max_row_tokens is None
                else [f"an epoch: {counted(len(data), 'image')} in {counted(len(sampler), 'row')}"]
            ),
            parameter_table(model),
            f"{counted(steps, 'optimizer step')}, {seconds:.2f} s for a batch: some {minutes:.0f} min without "
            "evaluation",
            *_describe_cache(data),
            f"memory: {peak_memory_gib() + trained * BYTES_PER_TRAINED_PARAMETER / 2**30:.1f} GiB "
            f"({peak_memory_gib():.1f} measured for this batch, the rest for the optimizer)",
        ]
    )


def _describe_cache(data) -> list[str]:
    """Say what the features of the training images will take on disk, if they are to be cached."""
    features = getattr(data, "features", None)
    if features is None:
        return []
    num_views, size = len(data.augmentation.cached_views()), math.prod(features.read(0).shape) * FEATURE_BYTES
    return [
        f"feature cache: {num_views * len(features) * size / 1e6:,.0f} MB for {counted(num_views, 'view')} of "
        f"{counted(len(features), 'training image')}, computed before the first step"
    ]


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
