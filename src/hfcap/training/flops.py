"""Floating-point operations of a training step, for the MFU."""

import math
from collections import Counter
from collections.abc import Callable

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from hfcap.models.attention import eager_sdpa
from hfcap.models.model_types import spec_of
from hfcap.models.model_utils import full_precision, in_eval
from hfcap.training.strategies import count_parameters, projector_modules

# Of bitsandbytes 0.50: (input, packed weights, shape of the weights, …).
FOUR_BIT_PRODUCTS = ("bitsandbytes::gemm_4bit", "bitsandbytes::gemv_4bit")


def needed_flops(model: nn.Module, forward: Callable[[], object]) -> float:
    """Count what learning from a batch takes: matrix products, convolutions, and attention to what may be seen.

    `forward` is run once, uncompiled, with SDPA, in eval() and without a gradient, and its operations are counted.
    Backward takes as much again for the gradient that is passed on, and once more for that of weights. A frozen
    encoder has neither. Behind it the first is always there, and the second for the share of weights that train (next
    to none with LoRA). Recomputation and optimizer are left out. The last layer counts whole, though `packed_sdpa`
    leaves out a part of it; and so does attention that is not SDPA.

    Args:
        model: captioner, wrapped by PEFT or not.
        forward: calls it.

    Returns:
        Operations of forward and backward pass; a multiplication and an addition are two.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    spec = spec_of(base.config)
    counter = _FlopCounter()
    # The projector of some types lies inside the encoder.
    modules = {spec.encoder[0].removesuffix("."): "encoder", **dict.fromkeys(projector_modules(base), "rest")}

    def leave(*_) -> None:
        counter.parts.pop()

    hooks = []
    for name, part in modules.items():
        module = base.get_submodule(name)
        hooks.append(module.register_forward_pre_hook(lambda *_, part=part: counter.parts.append(part)))
        hooks.append(module.register_forward_hook(leave))
    try:
        with torch.no_grad(), in_eval(model), full_precision(model), eager_sdpa(model), counter:
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    total, trainable = count_parameters(base)
    encoder_trains = trainable.pop("encoder", 0) > 0
    del total["encoder"]
    flops = counter.flops
    return (
        (flops["encoder", "matmul"] + flops["encoder", "attention"]) * (3 if encoder_trains else 1)
        + flops["rest", "matmul"] * (2 + trainable.total() / total.total())
        + flops["rest", "attention"] * 3
    )


class _FlopCounter(TorchDispatchMode):
    """Listens to operations. PyTorch's own counter decomposes them into others, whose results differ in the last bit.

    Attributes:
        parts: what runs now is the last one.
        flops: operations by part and kind, "matmul" or "attention".
    """

    def __init__(self):
        super().__init__()
        self.parts = ["rest"]
        self.flops: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        part = self.parts[-1]
        if "scaled_dot_product" in func._schema.name:
            named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
            self.flops[part, "attention"] += _attention_flops(named)
        elif func._overloadpacket in flop_registry:
            self.flops[part, "matmul"] += flop_registry[func._overloadpacket](*args, **kwargs, out_val=output)
        elif func._schema.name in FOUR_BIT_PRODUCTS:
            rows = args[0].numel() // args[0].shape[-1]
            self.flops[part, "matmul"] += 2 * rows * math.prod(args[2])
        return output


def _attention_flops(arguments: dict) -> int:
    """Operations of an SDPA kernel for the pairs of query and key that may see each other.

    `arguments` are those of the kernel: `query` (B, heads, L, D), `key` (B, heads, S, D), and a mask or `is_causal`.
    """
    batch, heads, queries, width = arguments["query"].shape
    keys = arguments["key"].shape[2]
    mask = arguments.get("attn_mask", arguments.get("attn_bias"))
    if mask is not None:
        seen = mask > torch.finfo(mask.dtype).min / 2
        pairs = int(seen.sum()) * (batch * heads * queries * keys // seen.numel())
    else:
        causal = queries * (queries + 1) // 2 + queries * (keys - queries)
        pairs = batch * heads * (causal if arguments.get("is_causal") else queries * keys)
    return 4 * width * pairs
