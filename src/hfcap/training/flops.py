"""Floating-point operations that a training step needs, for the MFU."""

from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from hfcap.models.attention import eager_sdpa
from hfcap.models.facts import facts_of
from hfcap.models.model_utils import full_precision, in_eval
from hfcap.training.strategies import num_values


def needed_flops(model: nn.Module, forward: Callable[[], object]) -> float:
    """Count what learning from a batch takes: matrix products, convolutions, and attention to what may be seen.

    `forward` is run once, uncompiled, with SDPA, in eval() and without a gradient, and its operations are counted.
    Backward takes as much again for the gradient that is passed on, and once more for that of weights. A frozen
    encoder has neither, a frozen language model (projector, LoRA) the first alone; of parts that train in part the
    share of their parameters that does is taken. Recomputation and optimizer are left out. The last layer counts
    whole, though `packed_sdpa` leaves out a part of it; and so does attention that is not SDPA.

    Args:
        model: captioner, wrapped by PEFT or not.
        forward: calls it.

    Returns:
        Operations of forward and backward pass; a multiplication and an addition are two.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    encoder = base.get_submodule(facts_of(base.config).encoder[0].removesuffix("."))
    counter = _FlopCounter()
    hooks = [
        encoder.register_forward_pre_hook(lambda *_: setattr(counter, "part", "encoder")),
        encoder.register_forward_hook(lambda *_: setattr(counter, "part", "rest")),
    ]
    try:
        with torch.no_grad(), in_eval(model), full_precision(model), eager_sdpa(model), counter:
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    of_encoder = set(encoder.parameters())
    encoder_trains = _trained_share(encoder.parameters()) > 0
    rest_trains = _trained_share(p for p in model.parameters() if p not in of_encoder)
    flops = counter.flops
    return (
        (flops["encoder", "matmul"] + flops["encoder", "attention"]) * (3 if encoder_trains else 1)
        + flops["rest", "matmul"] * (2 + rest_trains)
        + flops["rest", "attention"] * 3
    )


def _trained_share(parameters: Iterable[nn.Parameter]) -> float:
    """Part of the values of parameters that trains."""
    counts = [(num_values(parameter), parameter.requires_grad) for parameter in parameters]
    return sum(count for count, trains in counts if trains) / sum(count for count, _ in counts)


class _FlopCounter(TorchDispatchMode):
    """Listens to operations. PyTorch's own counter decomposes them into others, whose results differ in the last bit.

    Attributes:
        part: what runs now.
        flops: operations by part and kind, "matmul" or "attention".
    """

    def __init__(self):
        super().__init__()
        self.part = "rest"
        self.flops: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if "scaled_dot_product" in func._schema.name:
            named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
            self.flops[self.part, "attention"] += _attention_flops(named)
        elif func._overloadpacket in flop_registry:
            self.flops[self.part, "matmul"] += flop_registry[func._overloadpacket](*args, **kwargs, out_val=output)
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
