"""Module utilities: eval mode of frozen parts, 4-bit layers, compiled layers, masks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def keep_frozen_in_eval(model: nn.Module) -> None:
    """Put every BatchNorm, and every module all of whose parameters are frozen, into eval().

    Running statistics drift in train() even with `requires_grad_(False)`, and batch statistics make the loss depend
    on how the data are split into batches. Modules without parameters (dropout) follow the module they stand in.
    Call it at the end of `train()`, so that no caller needs to remember.
    """
    _put_frozen_in_eval(model)


def _put_frozen_in_eval(module: nn.Module) -> set[bool]:
    """Treat a module and all below it; return the values of `requires_grad` there, none where it has no parameter."""
    # Before every training step: one walk, without the names of parameters.
    values = {parameter.requires_grad for parameter in module._parameters.values() if parameter is not None}
    for child in module.children():
        values |= _put_frozen_in_eval(child)
    if module.training and (values == {False} or isinstance(module, _BatchNorm)):
        # Not module.eval(): on the model itself that would come back here through train().
        for submodule in module.modules():
            submodule.training = False
    return values


def keep_4bit_layers_unpacked(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights on CPUs with AVX512-BF16.

    bitsandbytes 0.50 repacks a `Linear4bit` at its first forward in eval() and leaves it so. The packed product has no
    backward: after one evaluation no gradient would pass through the language model any more, without a word. It also
    computes in bfloat16, so that captions would differ from those of the training process, and it asserts that the
    number of outputs is a multiple of 32. Other processors never repack.
    """
    for module in model.modules():
        if "support_avx512bf16_for_cpu" in vars(module):
            module.support_avx512bf16_for_cpu = False


@contextmanager
def full_precision(model: nn.Module) -> Iterator[None]:
    """Within this context `model` computes as it will when it is loaded again, in the dtype of its weights.

    With `bf16`, accelerate replaces the `forward` of a model that it prepares by one under autocast: captions and
    losses after training would be those of rounded products, and differ from the ones that the saved model gives.
    """
    under_autocast = model.__dict__.pop("forward", None) if hasattr(model, "_original_forward") else None
    try:
        yield
    finally:
        if under_autocast is not None:
            model.forward = under_autocast


def compile_layers(model: nn.Module) -> None:
    """Compile each layer of the encoder and the language model, in place; it happens when a layer first runs.

    Equal layers share their code, so that one of a stack is compiled (torch calls it regional compilation). Blocks of
    a CNN that differ in shape are left alone, and so is what stands between stacks: the choice of target positions
    would break a compiled whole apart.
    """
    for stack in model.modules():
        if isinstance(stack, nn.ModuleList):
            kinds = {(type(layer), tuple(p.shape for p in layer.parameters())) for layer in stack}
            if len(kinds) == 1 < len(stack):
                for layer in stack:
                    layer.compile()


def is_compiled(model: nn.Module) -> bool:
    """Whether `model` or a part of it was compiled in place."""
    return any(part._compiled_call_impl is not None for part in model.modules())


@contextmanager
def in_eval(module: nn.Module) -> Iterator[None]:
    """Within this context a module and all of its parts are in eval(); afterwards each is as it was."""
    was_training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in was_training:
            part.training = True


def to_additive_mask(attention_mask, dtype: torch.dtype):
    """Turn a boolean 4-D mask (True: may attend) into the additive one; None, a BlockMask, others stay as they are.

    Eager attention adds the mask to the scores, so that a boolean one would silently add 0 and 1.
    """
    is_boolean = isinstance(attention_mask, torch.Tensor) and attention_mask.dtype == torch.bool
    if not is_boolean or attention_mask.ndim != 4:
        return attention_mask
    blocked = torch.zeros(attention_mask.shape, dtype=dtype, device=attention_mask.device)
    return blocked.masked_fill_(~attention_mask, torch.finfo(dtype).min)
