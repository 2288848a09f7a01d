"""Description of a run without weights, for `--dry_run --meta`: tokens, parameters, memory and FLOPs from shapes."""

from contextlib import suppress
from dataclasses import fields

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

from hfcap.counts import counted
from hfcap.errors import ConfigError, as_config_error
from hfcap.generation.inputs import SHAPE_ERRORS
from hfcap.generation.loading import load_shapes
from hfcap.length_tokens import add_length_tokens
from hfcap.models.attention import uses_packed_sdpa
from hfcap.models.model_types import spec_of
from hfcap.training.dry_run import (
    BYTES_PER_TRAINED_PARAMETER,
    count_steps,
    describe_batch,
    describe_sample,
    first_batch,
)
from hfcap.training.flops import needed_flops
from hfcap.training.loss import token_loss
from hfcap.training.meta_device import META, MetaKernels, RealIntegers, kept_for_backward
from hfcap.training.model_inputs import model_inputs
from hfcap.training.packing import PREFIX_SEGMENT
from hfcap.training.plan import train_sampler
from hfcap.training.prompts import save_prompt_of_rows
from hfcap.training.reference_lengths import measure_references
from hfcap.training.steps import Run, caption_datasets
from hfcap.training.strategies import apply_strategy, lora_targets, parameter_table
from hfcap.training.trainer_inputs import caption_collator

CARDS = {"24 GB": (165e12, "RTX 4090"), "80 GB": (312e12, "A100")}  # dense bfloat16 FLOP/s, from the data sheets
UTILISATION = 0.25  # assumed: small models seldom reach more
NF4_BYTES = 0.516  # 4 bits, and 0.127 bits of constants a weight after double quantisation (Dettmers et al., 2023)
GIB = 2**30
# What transformers 4 wrote into the configuration of each part, as the oldest checkpoints have it (BLIP, GIT).
OF_VERSION_4 = {
    "model_type",
    "is_decoder",
    "add_cross_attention",
    "cross_attention_hidden_size",
    "tie_encoder_decoder",
}
OF_VERSION_4 |= {"tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"}
OF_VERSION_4 |= {"finetuning_task", "task_specific_params", "prefix", "pruned_heads", "tokenizer_class"}
OF_VERSION_4 |= {"tf_legacy_loss", "torchscript", "use_bfloat16"}


def describe_shapes(run: Run) -> str:
    """Describe a run of a native model from its configuration, its processor and the first batch of the data.

    Every operation of a forward pass is made on the meta device, so that fields of the configuration that fit neither
    each other nor the processor fail here as they would with weights. What the backward pass needs is counted on the
    way, and does not depend on the machine. Not counted: gradients of activations, the device's own share, and slack
    of its allocator.

    Raises:
        ConfigError: a captioner that is built from parts, or an adapter; a feature cache; token ids beyond the
            embeddings; a forward pass that fails.
    """
    _check(run)
    model, processor = load_shapes(run.base, run.model.image_processor_config)
    unknown = unknown_fields(model.config)
    model, weight_bytes = _as_trained(run, model, processor)
    data = caption_datasets(run, model, processor)
    collator = caption_collator(model, processor, (data["train_dataset"], data["eval_dataset"]), run.args)
    sampler = train_sampler(data["train_dataset"], collator, run.args)
    batch = first_batch(data["train_dataset"], sampler, collator, run.args.per_device_train_batch_size)

    def forward() -> torch.Tensor:
        inputs = model_inputs(batch, model)
        labels = inputs.pop("labels")
        return token_loss(model(**inputs), labels)

    # Renamed in transformers 5.23.
    names = ("activation_checkpointing", "gradient_checkpointing")
    checkpointing = any(getattr(run.args, name, False) for name in names)
    with as_config_error("forward pass", SHAPE_ERRORS), RealIntegers(), uses_packed_sdpa(model):
        with MetaKernels(run.args.bf16):
            kept = kept_for_backward(model.train(), forward, checkpointing)
        with MetaKernels(bf16=False):
            flops = needed_flops(model, forward)
    optimizer = BYTES_PER_TRAINED_PARAMETER * sum(p.numel() for p in model.parameters() if p.requires_grad)
    steps = count_steps(sampler, run.args)
    seconds = steps * run.args.gradient_accumulation_steps * flops / UTILISATION
    times = ", ".join(f"{seconds / rate / 60:.0f} min on one {name}" for rate, name in CARDS.values())
    return "\n\n".join(
        [
            describe_sample(batch, processor.tokenizer),
            describe_batch(batch),
            _describe_tokens(batch, model.config),
            str(measure_references(data["train_dataset"], collator)),
            parameter_table(model),
            f"memory, computed from shapes: {(weight_bytes + optimizer + kept) / GIB:.2f} GiB (weights "
            f"{weight_bytes / GIB:.2f}, gradients and optimizer {optimizer / GIB:.2f}, activations of this batch "
            f"{kept / GIB:.2f})",
            f"{counted(steps, 'optimizer step')}, {flops:.2e} FLOPs for a batch: {times}, at {UTILISATION:.0%} of its "
            "dense bfloat16 rate, without evaluation",
            *([f"fields of config.json that transformers does not know: {unknown}"] if unknown else []),
        ]
    )


def _check(run: Run) -> None:
    if run.base is None:
        raise ConfigError(
            "parts without weights are not joined", option="meta", got=True, fix="pass --model, or remove it"
        )
    if run.model.feature_cache:
        raise ConfigError("features are computed with weights", option="feature_cache", got=True, fix="remove it")


def _as_trained(run: Run, model: PreTrainedModel, processor: ProcessorMixin) -> tuple[nn.Module, float]:
    """Give a model on the meta device the prompt, the tokens and the trained parts of a run; return it, and bytes.

    The bytes are those of its weights: with QLoRA the linear layers of its language model are in 4 bits.
    """
    args, settings = run.model, run.args
    is_four_bit = args.strategy == "qlora"
    with META:
        if settings.length_tokens:
            add_length_tokens(model, processor.tokenizer)
        four_bit = [model.get_submodule(name).weight for name in lora_targets(model)] if is_four_bit else []
        saved = sum(weight.numel() for weight in four_bit) * (4 - NF4_BYTES)
        if settings.bf16:  # de-quantised one at a time, and not kept: no copies of them in bfloat16
            for weight in four_bit:
                weight.data = weight.data.bfloat16()
        strategy = "lora" if is_four_bit else args.strategy
        trained = apply_strategy(model, strategy, args.lora_r, args.lora_alpha, args.lora_dropout)
    save_prompt_of_rows(processor, run.rows, run.data.prompt)
    return trained, sum(4 * parameter.numel() for parameter in trained.parameters()) - saved


def _describe_tokens(batch: dict[str, torch.Tensor], config: PreTrainedConfig) -> str:
    """Image tokens of the pictures of a batch, and the tensors that their encoder takes."""
    shapes = ", ".join(f"{name} {tuple(batch[name].shape)}" for name in _vision_inputs(batch))
    if not spec_of(config).image_tokens:
        return f"images: no tokens in the language model's sequence; the encoder takes {shapes}"
    is_image = (batch["input_ids"] == config.image_token_id) & (batch["segment_ids"] == PREFIX_SEGMENT)
    rows, images = torch.where(is_image)[0], batch["image_ids"][is_image]
    counts = torch.stack([rows, images]).unique(dim=1, return_counts=True)[1].tolist()
    tokens = counted(max(counts), "token")
    most = tokens if min(counts) == max(counts) else f"{min(counts)} to {tokens}"
    return f"images: {most} each in the language model's sequence; the encoder takes {shapes}"


def _vision_inputs(batch: dict[str, torch.Tensor]) -> list[str]:
    of_rows = batch["segment_ids"].shape
    return [name for name, tensor in batch.items() if tensor.shape[:2] != of_rows or tensor.is_floating_point()]


def unknown_fields(config: PreTrainedConfig, default: PreTrainedConfig | None = None) -> str:
    """Fields of a configuration and its parts that their classes do not have, as `part.field`, for people.

    transformers keeps them without a word, a mistyped one too. What it sets itself (in `default`, the configuration
    that it makes of nothing) or wrote into every part in version 4 is left out.
    """
    if default is None:
        with suppress(ValueError):  # VisionEncoderDecoder has none without its parts
            default = type(config)()
    found, known = [], {field.name for field in fields(config)} | OF_VERSION_4 | set(getattr(default, "__dict__", {}))
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            inner = unknown_fields(value, getattr(default, name, None))
            found += [f"{name}.{field}" for field in inner.split(", ") if field]
        elif name not in known and not name.startswith("_"):
            found.append(name)
    return ", ".join(found)
