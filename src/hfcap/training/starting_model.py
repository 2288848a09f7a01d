"""The model that training began with, kept to compare with: for `kl_coef`, and for preference training."""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from hfcap.models.attention import uses_packed_sdpa
from hfcap.models.model_utils import in_eval


class StartingModel:
    """The weights that training began with; for LoRA the base without its adapter, which costs no memory.

    Args:
        model: the captioner before its first step. Without LoRA the parameters that train are copied.
    """

    def __init__(self, model: PreTrainedModel | PeftModel):
        self.copy = None if isinstance(model, PeftModel) else frozen_copy(model)

    def attends_packed(self, torch_compile: bool = False) -> AbstractContextManager:
        """Within this context the copy attends as the model that trains (see `uses_packed_sdpa`)."""
        return nullcontext() if self.copy is None or torch_compile else uses_packed_sdpa(self.copy)

    @contextmanager
    def without_gradient(self, trained: PreTrainedModel | PeftModel) -> Iterator[PreTrainedModel | PeftModel]:
        """Give the model, without dropout and without gradients, while `trained` is between two steps."""
        with torch.no_grad():
            if self.copy is not None:
                yield self.copy
                return
            with in_eval(trained), trained.disable_adapter():
                yield trained


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Copy a model to compare with, in eval(); parameters that are not trained are shared, not copied."""
    shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    return copy.deepcopy(model, shared).requires_grad_(False).eval()
