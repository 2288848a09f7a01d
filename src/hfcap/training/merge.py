"""Merge an adapter into its base, and show that the merge took place."""

from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoProcessor, PreTrainedModel

from hfcap.training.build import load_captioner
from hfcap.training.strategies import lora_targets, part_of


def merge_adapter(base: str, adapter: str | Path, folder: str | Path) -> PreTrainedModel:
    """Merge onto the base in its original precision, check every adapted tensor, and save model and processor.

    Merging onto de-quantised 4-bit weights would keep the quantisation error for good. What comes out here is
    therefore another model than the 4-bit one that was trained: evaluate it as what it is.

    Args:
        base: model folder or Hub id of the base, not quantised.
        adapter: folder of the adapter and of its processor.
        folder: where the merged model goes; never the adapter's folder, or `from_pretrained` would apply the adapter
        again.

    Returns:
        The merged model, in eval mode.

    Raises:
        RuntimeError: the merge left tensors of the base as they were; their names are given.
    """
    model, _ = load_captioner(base)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    adapted = [f"{name}.weight" for name in lora_targets(model)]
    adapted += [name for name in before if part_of(name) == "projector"]
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    after = dict(merged.named_parameters())
    unchanged = [name for name in adapted if torch.equal(before[name], after[name])]
    if unchanged:
        raise RuntimeError(
            f"{len(unchanged)} of {len(adapted)} adapted tensors are as before the merge of {adapter}: "
            f"{', '.join(unchanged[:5])}; the adapter does not belong to {base}, or was not trained"
        )
    merged.save_pretrained(folder)
    # The adapter's processor knows the prompt it was trained with, the base's does not.
    AutoProcessor.from_pretrained(adapter, backend="pil").save_pretrained(folder)
    return merged.eval()
