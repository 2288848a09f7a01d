"""Merging of an adapter into its base, checked tensor by tensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

import hfcap.models  # noqa: F401  (registers the Auto classes)
from hfcap.checkpoint_files import check_checkpoint
from hfcap.errors import ConfigError, VerificationError
from hfcap.generation.loading import complete_settings, load_processor
from hfcap.models.finite import is_finite, non_finite_weights, refuse_non_finite
from hfcap.models.model_types import spec_of
from hfcap.models.pretrained import POOLER, load_whole

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Settings of PEFT's LoRA under which a merge is not W + scale * B @ A for every weight.
NOT_PLAIN = (
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
)
# A merged value may be off by so many roundings of its dtype: the product, the scale and the sum each round.
ROUNDINGS = 8


@dataclass(frozen=True)
class AdapterWeights:
    """The tensors of a saved LoRA adapter, by the names of the base.

    Attributes:
        lora: weight of the base -> (A (r, in), B (out, r)), float32.
        scale: the update is `scale * B @ A`.
        transposed: whether the base keeps those weights as (in, out), as GPT-2 does.
        saved: tensors that replace the base's whole (`modules_to_save`: the projector).
    """

    lora: dict[str, tuple[torch.Tensor, torch.Tensor]]
    scale: float
    transposed: bool
    saved: dict[str, torch.Tensor]


def read_adapter(folder: str | Path) -> AdapterWeights:
    """Read a saved LoRA adapter and check that it is whole.

    Raises:
        ConfigError: no such files, or another kind of adapter than plain LoRA.
        VerificationError: an A without its B, a module of `modules_to_save` that is not there, an adapter that was
            never trained (all B are zero), or one with values that are not finite.
    """
    check_checkpoint(folder)
    if not Path(folder, ADAPTER_WEIGHTS).is_file():
        raise ConfigError(
            f"{ADAPTER_WEIGHTS} is missing", option="adapter", got=str(folder), wanted="the folder of a saved adapter"
        )
    config = PeftConfig.from_pretrained(str(folder))
    _check_plain_lora(folder, config)
    halves: dict[str, dict[str, torch.Tensor]] = {}
    saved = {}
    tensors = load_file(Path(folder, ADAPTER_WEIGHTS))
    refuse_non_finite([name for name, tensor in tensors.items() if not is_finite(tensor)], f"the adapter {folder}")
    for key, tensor in tensors.items():
        name = key.removeprefix(_PREFIX)
        module, _, half = name.removesuffix(".weight").rpartition(".")
        if half in ("lora_A", "lora_B"):
            halves.setdefault(f"{module}.weight", {})[half] = tensor.float()
        else:
            saved[name] = tensor
    lone = sorted(name for name, pair in halves.items() if len(pair) < 2)
    lost = [m for m in config.modules_to_save or () if not any(f".{m}." in f".{name}" for name in saved)]
    if lone or lost:
        raise VerificationError(
            f"{', '.join(lone + lost)} missing from {ADAPTER_WEIGHTS}",
            option="adapter",
            got=str(folder),
            fix="save it again",
        )
    lora = {name: (pair["lora_A"], pair["lora_B"]) for name, pair in halves.items()}
    if not any(b.any() for _, b in lora.values()):
        raise VerificationError(
            "all LoRA updates are zero", option="adapter", got=str(folder), fix="train it before it is merged"
        )
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    return AdapterWeights(lora, scale, config.fan_in_fan_out, saved)


def _check_plain_lora(folder: str | Path, config: PeftConfig) -> None:
    if not isinstance(config, LoraConfig):
        raise ConfigError(
            f"{folder} holds another type of adapter",
            option="peft_type",
            got=str(getattr(config.peft_type, "value", config.peft_type)),
            wanted="LORA",
        )
    for name in NOT_PLAIN:
        if getattr(config, name, None):
            raise ConfigError(
                f"the merge of {folder} could not be checked (check_merge in src/hfcap/training/merge.py)",
                option=name,
                got=getattr(config, name),
                fix="merge it with PEFT and export the merged model",
            )


def load_base(base: str, revision: str | None = None) -> PreTrainedModel:
    """Load the base of an adapter in its original precision.

    Merging onto de-quantised 4-bit weights would keep the quantisation error for good.

    Args:
        base: folder or Hub id.
        revision: on the Hub.

    Raises:
        ConfigError: the base is not there, its weights are quantised or pickled, or some are missing.
    """
    check_checkpoint(base, revision)
    try:
        config = AutoConfig.from_pretrained(base, revision=revision or "main", trust_remote_code=False)
    except OSError as error:
        raise ConfigError(
            f"not available ({str(error).splitlines()[0]})",
            option="base of the adapter",
            got=base,
            fix="pass --base_model FOLDER or OWNER/NAME[@REVISION]",
        ) from error
    if getattr(config, "quantization_config", None):
        raise ConfigError(
            "it holds quantized weights only, and a merge needs the original ones",
            option="base of the adapter",
            got=base,
            fix="pass the model it was made from, --base_model FOLDER or OWNER/NAME[@REVISION]",
        )
    return load_whole(
        AutoModelForImageTextToText,
        "base of the adapter",
        base,
        may_lack=POOLER,
        dtype="auto",
        revision=revision or "main",
    )


def merge_adapter(
    base: str, adapter: str | Path, folder: str | Path | None = None, revision: str | None = None
) -> PreTrainedModel:
    """Merge onto the base in its original precision, check every tensor, and save model and processor.

    What comes out is another model than the 4-bit one that QLoRA trained: evaluate it as what it is.

    Args:
        base: model folder or Hub id of the base, not quantised.
        adapter: folder of the adapter and of its processor.
        folder: where the merged model goes; never the adapter's folder, or `from_pretrained` would apply the adapter
            again. None to save nothing.
        revision: of the base on the Hub.

    Returns:
        The merged model, in eval mode.

    Raises:
        ConfigError, VerificationError: see `load_base`, `read_adapter` and `check_merge`.
    """
    weights = read_adapter(adapter)
    model = load_base(base, revision)
    # The others are shared with the merged model: PEFT changes adapted weights in place.
    before = {name: tensor.clone() if name in weights.lora else tensor for name, tensor in model.state_dict().items()}
    refuse_non_finite(non_finite_weights(model), f"the base {base}")
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    refuse_non_finite(non_finite_weights(merged), f"{adapter} merged onto {base}")
    check_merge(before, merged.state_dict(), weights)
    # The adapter's processor knows the prompt it was trained with, the base's does not.
    processor = load_processor(str(adapter), spec_of(merged.config))
    complete_settings(merged, processor)
    if folder is not None:
        merged.save_pretrained(folder)
        processor.save_pretrained(folder)
    return merged.eval()


def check_merge(
    before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor], adapter: AdapterWeights
) -> None:
    """Check that a merged model is its base with the adapter applied, tensor by tensor.

    An adapted weight must be `W + scale * B @ A` to within 8 roundings of its dtype, and not `W`; a module of
    `modules_to_save` must be the adapter's, and not the base's; all else must be the base's.

    Args:
        before: state dict of the base.
        after: state dict of the merged model; it may have another dtype.
        adapter: of `read_adapter`.

    Raises:
        VerificationError: naming the tensors.
    """
    problems = [f"{name} is in one of base and merge only" for name in sorted(set(before) ^ set(after))]
    strange = sorted((set(adapter.lora) | set(adapter.saved)) - set(before))
    problems += [f"{name} is adapted and not in the base" for name in strange]
    for name in sorted(set(before) & set(after)):
        old, new = before[name].to(after[name].dtype), after[name]
        if name in adapter.lora:
            problems += _wrong_update(name, old, new, adapter)
        elif name in adapter.saved:
            wanted = adapter.saved[name].to(new.dtype)
            if not torch.equal(wanted, new):
                whose = ", it is the base's" if torch.equal(old, new) else ""
                problems.append(f"{name} is not the adapter's{whose}")
        elif not torch.equal(old, new):
            problems.append(f"{name} changed, and the adapter does not adapt it")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise VerificationError(f"not base + adapter: {'; '.join(problems[:5])}{more}", option="merged model")


def _wrong_update(name: str, old: torch.Tensor, new: torch.Tensor, adapter: AdapterWeights) -> list[str]:
    a, b = adapter.lora[name]
    update, size = b @ a, b.abs() @ a.abs()
    if adapter.transposed:
        update, size = update.T, size.T
    error = (new.float() - (old.float() + adapter.scale * update)).abs()
    allowed = ROUNDINGS * torch.finfo(new.dtype).eps * (old.float().abs() + abs(adapter.scale) * size)
    if b.any() and torch.equal(old, new):
        return [f"{name} is as before the merge"]
    if bool((error <= allowed).all()):
        return []
    return [f"{name} is not W + {adapter.scale:g} B A: off by up to {error.max():.3g}, allowed {allowed.max():.3g}"]
