"""Positions of language models that end: learned embeddings of them."""

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from hfcap.models.model_types import ModelTypeSpec


def learned_positions(model: PreTrainedModel | PeftModel, spec: ModelTypeSpec) -> int | None:
    """Count the tokens that the embedding of positions in the language model has room for; None: there is none."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    for name, module in base.named_modules():
        last = name.rpartition(".")[2]
        if name.startswith(spec.lm) and isinstance(module, nn.Embedding) and ("position" in last or last == "wpe"):
            # Rows that no token has: OPT and BART start behind an offset, RoBERTa behind the row of padding.
            first = getattr(module, "offset", 0) + (0 if module.padding_idx is None else module.padding_idx + 1)
            return module.num_embeddings - first
    return None
