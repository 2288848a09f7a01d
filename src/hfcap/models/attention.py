"""Attention of the language model: packed SDPA or FlexAttention in training, stock SDPA elsewhere.

SDPA for packed rows leaves out what no query sees and no target reads; loss and gradient stay the same. Most of a row
is the prefix of its first image, which no mask is needed for: it is causal. And in the last layer nothing reads the
prefix but through its keys and values, since the head runs at targets: neither its attention nor its MLP is computed
there. What is said of a row's prefix holds for the positions that lie in it in every row of the batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hfcap.models.model_types import is_packable, spec_of
from hfcap.models.model_utils import is_compiled

PACKED_SDPA = "hfcap_packed_sdpa"


def packed_sdpa(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers' SDPA does; the mask may have rows for the last queries alone, those before are causal.

    Args:
        module: the attention layer; where `prefix_is_unread` is set on it, the causal queries give zeros.
        query: (B, heads, L, D).
        key: (B, key heads, L, D).
        value: the same.
        attention_mask: (B, 1, R, L) additive, for the last R queries.
        **kwargs: of `sdpa_attention_forward`.

    Returns:
        (B, L, heads, D), and None for the attention weights.
    """
    causal = 0 if attention_mask is None else query.shape[2] - attention_mask.shape[2]
    if causal <= 0:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    kwargs.pop("is_causal", None)
    masked, _ = sdpa_attention_forward(module, query[:, :, causal:], key, value, attention_mask, **kwargs)
    if getattr(module, "prefix_is_unread", False):
        return F.pad(masked, (0, 0, 0, 0, causal, 0)), None
    first = (states[:, :, :causal] for states in (query, key, value))
    prefix, _ = sdpa_attention_forward(module, *first, None, is_causal=True, **kwargs)
    return torch.cat([prefix, masked], dim=1), None


AttentionInterface.register(PACKED_SDPA, packed_sdpa)
AttentionMaskInterface.register(PACKED_SDPA, sdpa_mask)


@contextmanager
def uses_packed_sdpa(model: PreTrainedModel) -> Iterator[None]:
    """Within this context the language model of `model` takes masks of the last rows alone, where it used SDPA.

    Encoder-decoders are left as they are, since their prefix is a start token, and so are models that are not packed,
    and compiled layers: inductor cannot pass slices to SDPA (torch 2.13).
    """
    uses_sdpa = model.config.get_text_config(decoder=True)._attn_implementation == "sdpa"
    has_prefix = is_packable(model.config) and spec_of(model.config).image_tokens
    if not (uses_sdpa and has_prefix) or is_compiled(model):
        yield
        return
    last_layer = getattr(model.get_decoder(), "layers", [None])[-1]
    # Llama and its relatives; others call the parts of a layer otherwise, and just compute what nobody reads.
    leaves_out = hasattr(last_layer, "self_attn") and hasattr(last_layer, "mlp")
    hooks = _leave_out_prefix(last_layer) if leaves_out else []
    try:
        with _attends_by(model, PACKED_SDPA):
            yield
    finally:
        for hook in hooks:
            hook.remove()
        if leaves_out:
            del last_layer.self_attn.prefix_is_unread


def _leave_out_prefix(layer: nn.Module) -> list[torch.utils.hooks.RemovableHandle]:
    """Let a decoder layer compute attention and MLP from the first masked position on."""
    prefix = {"length": 0}

    def before_layer(layer, args, kwargs):
        prefix["length"] = 0
        mask = kwargs.get("attention_mask")
        if mask is not None and layer.self_attn.config._attn_implementation == PACKED_SDPA:
            prefix["length"] = args[0].shape[1] - mask.shape[2]

    def before_mlp(mlp, args):
        return (args[0][:, prefix["length"] :], *args[1:])

    def after_mlp(mlp, args, output):
        return F.pad(output, (0, 0, prefix["length"], 0))

    layer.self_attn.prefix_is_unread = True
    return [
        layer.register_forward_pre_hook(before_layer, with_kwargs=True),
        layer.mlp.register_forward_pre_hook(before_mlp),
        layer.mlp.register_forward_hook(after_mlp),
    ]


@contextmanager
def eager_sdpa(model: nn.Module) -> Iterator[None]:
    """Within this context nothing of `model` is compiled, and stock SDPA attends, whatever does so in training.

    `generate` sees a new shape at every step, and an evaluation at every batch: each would be compiled again. Types
    without SDPA (Gemma 2) attend eagerly.
    """
    in_training = model.config.get_text_config(decoder=True)._attn_implementation
    attention = nullcontext()
    if in_training in ("flex_attention", PACKED_SDPA):
        attention = _attends_by(model, "sdpa" if model.get_decoder()._supports_sdpa else "eager")
    with attention, torch.compiler.set_stance("force_eager") if is_compiled(model) else nullcontext():
        yield


@contextmanager
def _attends_by(model: nn.Module, implementation: str) -> Iterator[None]:
    before = model.config.get_text_config(decoder=True)._attn_implementation
    model.set_attn_implementation({"text_config": implementation})
    try:
        yield
    finally:
        model.set_attn_implementation({"text_config": before})
