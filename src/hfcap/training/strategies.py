"""Training strategies: trained parts, LoRA targets, parameter groups with learning rates."""

import math
from collections import Counter

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from hfcap.models.model_types import ModelTypeSpec, Part, spec_of

# The parts that train, whole, in each strategy. LoRA's own matrices come on top.
TRAINED_PARTS: dict[str, tuple[Part, ...]] = {
    "full": ("encoder", "projector", "lm"),
    "frozen_encoder": ("projector", "lm"),
    "projector": ("projector",),
    "lora": ("projector",),
    "qlora": ("projector",),
}


def part_of(name: str, spec: ModelTypeSpec) -> Part:
    """Say which part of the captioner a parameter or module belongs to, behind a PEFT wrapper or not.

    Of several prefixes that fit, the longest counts (Qwen's projector lies inside its encoder).
    """
    name = name.removeprefix("base_model.model.")
    prefixes = {prefix: part for part in ("encoder", "projector", "lm") for prefix in getattr(spec, part)}
    fitting = [prefix for prefix in prefixes if name.startswith(prefix)]
    return prefixes[max(fitting, key=len)] if fitting else "projector"


def four_bit_parts(model: nn.Module) -> Counter:
    """Count the 4-bit parameters of each part."""
    spec = spec_of(model.config)
    return Counter(part_of(name, spec) for name, p in model.named_parameters() if type(p).__name__ == "Params4bit")


def check_only_lm_is_four_bit(model: nn.Module) -> None:
    """Raise a RuntimeError unless the language model, and nothing else, is in 4 bits."""
    parts = four_bit_parts(model)
    if set(parts) != {"lm"}:
        found = ", ".join(f"{count} in the {part}" for part, count in sorted(parts.items())) or "none"
        raise RuntimeError(f"4-bit weights belong in the language model alone; found {found}: fix the skip list")


def lora_targets(model: PreTrainedModel) -> list[str]:
    """Full names of the language model's linear layers, the LM head excepted."""
    # 4-bit layers derive from nn.Linear; GPT-2 writes its linear layers as Conv1D.
    spec = spec_of(model.config)
    return [
        name
        for name, module in model.named_modules()
        if part_of(name, spec) == "lm"
        and (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")
        and not f"{name}.".startswith(tuple(f"{head}." for head in spec.head))
    ]


def apply_strategy(
    model: PreTrainedModel, strategy: str, lora_r: int = 16, lora_alpha: int = 32, lora_dropout: float = 0.0
) -> PreTrainedModel | PeftModel:
    """Freeze what the strategy does not train, and add LoRA where it asks for it.

    Args:
        model: a captioner; for "qlora" loaded in 4 bits.
        strategy: a key of `TRAINED_PARTS`.
        lora_r: rank of the LoRA matrices (Hu et al., 2021).
        lora_alpha: their scale: the update is multiplied by `lora_alpha / lora_r`.
        lora_dropout: dropout before them.

    Returns:
        The model, wrapped by PEFT for "lora" and "qlora" with the projector saved in full beside the adapter.
    """
    # Of use to reentrant checkpoints alone, which are refused. GIT adds to its embeddings in place, which a frozen one
    # whose output is told to require a gradient does not allow.
    model.enable_input_require_grads = lambda: None
    if strategy == "qlora":
        check_only_lm_is_four_bit(model)
    if strategy in ("lora", "qlora"):
        config = LoraConfig(
            r=lora_r,
            lora_alpha=lora_alpha,
            lora_dropout=lora_dropout,
            target_modules=lora_targets(model),
            modules_to_save=projector_modules(model) or None,
        )
        return get_peft_model(model, config)
    spec = spec_of(model.config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name, spec) in TRAINED_PARTS[strategy])
    return model


def projector_modules(model: nn.Module) -> list[str]:
    """Full names of the outermost modules that hold parameters and belong to the projector; of lists, the members."""
    spec = spec_of(model.config)
    mixed = {""}  # modules that hold other parts as well
    for name, _ in model.named_parameters():
        if part_of(name, spec) != "projector":
            parents = name.split(".")[:-1]
            mixed |= {".".join(parents[:depth]) for depth in range(1, len(parents) + 1)}
    own = [
        name
        for name, module in model.named_modules()
        if name not in mixed
        and part_of(f"{name}.", spec) == "projector"
        and any(True for _ in module.parameters())
        and not isinstance(module, (nn.ModuleList, nn.ParameterList))  # PEFT cannot wrap what has no forward
    ]
    return [name for name in own if not any(name.startswith(f"{outer}.") for outer in own)]


def parameter_groups(
    model: nn.Module, decay_names: set[str], weight_decay: float, learning_rates: dict[Part, float]
) -> list[dict]:
    """Optimizer groups of the trainable parameters by part and by whether weight decay applies.

    Args:
        model: the captioner, wrapped by PEFT or not.
        decay_names: names of the parameters that weight decay applies to (`Trainer.get_decay_parameter_names`).
        weight_decay: its factor.
        learning_rates: one for each part.
    """
    spec = spec_of(model.config)
    groups: dict[tuple[Part, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((part_of(name, spec), name in decay_names), []).append(parameter)
    return [
        {"params": parameters, "lr": learning_rates[part], "weight_decay": weight_decay if decay else 0.0}
        for (part, decay), parameters in groups.items()
    ]


def count_parameters(model: nn.Module) -> tuple[Counter[Part], Counter[Part]]:
    """Count all and the trainable parameters of each part, packed in 4 bits or divided by ZeRO-3 as well."""
    spec = spec_of(model.config)
    total, trainable = Counter(), Counter()
    for name, parameter in model.named_parameters():
        # A 4-bit tensor packs two weights in a byte, and one that ZeRO-3 divided is empty here; both know their shape.
        state = getattr(parameter, "quant_state", None)
        count = getattr(parameter, "ds_numel", parameter.numel()) if state is None else math.prod(state.shape)
        total[part_of(name, spec)] += count
        trainable[part_of(name, spec)] += count if parameter.requires_grad else 0
    return total, trainable


def parameter_table(model: nn.Module) -> str:
    """Table of all and trainable parameters of each part, for people."""
    total, trainable = count_parameters(model)
    lines = [f"{'part':<10} {'parameters':>12} {'trainable':>12}"]
    lines += [f"{part:<10} {total[part]:>12,} {trainable[part]:>12,}" for part in ("encoder", "projector", "lm")]
    lines.append(f"{'all':<10} {total.total():>12,} {trainable.total():>12,}")
    return "\n".join(lines)
