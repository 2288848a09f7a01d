"""Non-finite weights (NaN, infinity), found before they are saved or shipped."""

from collections.abc import Iterable

import torch
from torch import nn

from hfcap.errors import VerificationError


def non_finite_weights(model: nn.Module) -> list[str]:
    """Name the floating-point parameters that hold NaN or infinity, and the saved buffers that hold NaN.

    Of parameters that ZeRO-3 or FSDP divided, this process's part is looked at; 4-bit weights are integers.
    """
    parameters = ((name, parameter) for name, parameter in model.named_parameters() if not is_finite(parameter))
    saved = model.state_dict(keep_vars=True).keys() if any(True for _ in model.buffers()) else ()
    buffers = (name for name, buffer in model.named_buffers() if buffer.is_floating_point() and buffer.isnan().any())
    return [name for name, _ in parameters] + [name for name in buffers if name in saved]


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor, or this process's part of one that is divided, holds neither NaN nor infinity."""
    tensor = getattr(tensor, "ds_tensor", tensor)  # ZeRO-3
    if hasattr(tensor, "to_local"):  # FSDP2
        tensor = tensor.to_local()
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def refuse_non_finite(names: Iterable[str], what: str) -> None:
    """Refuse weights of which some are not finite.

    Args:
        names: of `non_finite_weights`.
        what: the model, as people know it.

    Raises:
        VerificationError: naming the first and counting the others.
    """
    names = list(names)
    if names:
        others = f" and others, {len(names)} in all" if len(names) > 1 else ""
        raise VerificationError(
            f"weights that are NaN or infinite ({names[0]}{others}): its training diverged",
            option=what,
            fix="train again with a lower learning_rate, or use an earlier checkpoint of the run",
        )
