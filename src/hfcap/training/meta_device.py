"""Forward passes on the meta device: shapes of floating-point tensors, values of all others.

A model without weights can be run for its shapes alone, but its integers (token ids, picture grids, masks) decide
about shapes: so they, and what is computed of them alone, stay real tensors on the CPU. What the backward pass would
keep is counted, not estimated.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers.modeling_layers import GradientCheckpointingLayer

META = torch.device("meta")
# Of the operations that autocast runs in lower precision, those that models call.
LOWER_PRECISION = {
    F.linear,
    F.conv1d,
    F.conv2d,
    F.conv3d,
    torch.matmul,
    torch.bmm,
    torch.baddbmm,
    torch.addmm,
    torch.mm,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.Tensor.bmm,
}
INDEXED = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)


class RealIntegers(TorchDispatchMode):
    """Run operations on meta tensors for their shapes, and all others on the CPU, whatever device they ask for."""

    def __init__(self):
        super().__init__()
        # Storages on meta of real ones, by their address; the real ones are held, so that none comes twice.
        self.stand_ins: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if not any(tensor.is_meta for tensor in tensors):
            if kwargs.get("device") == META:
                if func is torch.ops.aten._to_copy.default and kwargs.get("dtype") in (None, args[0].dtype):
                    return args[0]  # of the device that it is on
                kwargs["device"] = torch.device("cpu")
            return func(*args, **kwargs)
        if func in INDEXED:  # how many a boolean mask chooses is not known of its shape
            args = (args[0], _without_masks(args[1]), *args[2:])
        is_in_place = func._schema.name.endswith("_") and not tensors[0].is_meta
        if is_in_place:  # values that nobody knows, written into a real tensor, which keeps its shape
            return args[0]
        args, kwargs = tree_map_only(torch.Tensor, self._on_meta, (args, kwargs))
        if "device" in kwargs:
            kwargs["device"] = META
        return func(*args, **kwargs)

    def _on_meta(self, tensor: torch.Tensor) -> torch.Tensor:
        """Give a tensor on meta with the same strides; views of one storage stay views of one."""
        if tensor.is_meta:
            return tensor
        storage = tensor.untyped_storage()
        if storage._cdata not in self.stand_ins:
            self.stand_ins[storage._cdata] = storage, torch.UntypedStorage(storage.nbytes(), device=META)
        stand_in = self.stand_ins[storage._cdata][1]
        empty = torch.empty(0, dtype=tensor.dtype, device=META)
        return empty.set_(stand_in, tensor.storage_offset(), tensor.size(), tensor.stride())


def _without_masks(indices: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
    chosen = []
    for index in indices:
        is_mask = index is not None and index.dtype == torch.bool and not index.is_meta
        chosen += index.nonzero().unbind(1) if is_mask else [index]
    return chosen


class MetaKernels(TorchFunctionMode):
    """Let meta tensors be treated as those of a device: SDPA by a fused kernel, and autocast to bfloat16 if asked."""

    def __init__(self, bf16: bool):
        super().__init__()
        self.bf16 = bf16

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _fused_attention(*self._lower(args), **self._lower(kwargs))
        if func in LOWER_PRECISION:
            args, kwargs = self._lower(args), self._lower(kwargs)
        return func(*args, **kwargs)

    def _lower(self, values):
        if not self.bf16:
            return values
        return tree_map_only(torch.Tensor, lambda t: t.bfloat16() if t.dtype == torch.float32 else t, values)


def _fused_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
) -> torch.Tensor:
    if attn_mask is not None and attn_mask.dtype == torch.bool:  # made additive, as on a device
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
    if attn_mask is not None and attn_mask.ndim < 4:
        attn_mask = attn_mask.expand(*(1,) * (4 - attn_mask.ndim), *attn_mask.shape)
    output, _ = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
    )
    return output


def kept_for_backward(model: nn.Module, forward: Callable[[], object], checkpointing: bool = False) -> int:
    """Run `forward`, and count the bytes that it keeps for the backward pass, those of shared storage once.

    Parameters and buffers are left out.

    With `checkpointing` each layer that transformers can compute again keeps its input alone, and the largest of them
    is there whole in the backward pass.
    """
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    # By layer (None: outside of them), and in each by the address of the storage, which is held: none comes twice.
    kept: dict[nn.Module | None, dict[int, torch.UntypedStorage]] = {None: {}}
    current: list[nn.Module | None] = [None]

    def keep(tensor: torch.Tensor, layer: nn.Module | None) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[layer][storage._cdata] = storage
        return tensor

    def enter(layer, args, kwargs):
        kept[layer] = {}
        current.append(layer)
        for tensor in (*args, *kwargs.values()):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                keep(tensor, None)

    def leave(layer, *_):
        current.pop()

    layers = [m for m in model.modules() if checkpointing and isinstance(m, GradientCheckpointingLayer)]
    hooks = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
    hooks += [layer.register_forward_hook(leave) for layer in layers]
    try:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: keep(t, current[-1]), lambda t: t):
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    between = kept.pop(None)
    inside = [sum(s.nbytes() for a, s in storages.items() if a not in between) for storages in kept.values()]
    return sum(storage.nbytes() for storage in between.values()) + max(inside, default=0)
