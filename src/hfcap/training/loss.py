"""The one training loss of every family: exact under any split of the optimizer step."""

import torch
from torch.nn import functional as F


def token_loss(
    outputs,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Sum of the token losses over the number of target tokens in the whole optimizer step.

    Given to `Trainer` as `compute_loss_func`. `Trainer` counts the targets over all micro-batches and processes and,
    with several processes, multiplies by their number to undo the averaging of gradients; so 16 x 1, 4 x 4 and 1 x 16
    (batch x accumulation) give the same gradient. Stock `VisionEncoderDecoderModel` does not
    (https://github.com/huggingface/transformers/issues/47688).

    Args:
        outputs: model output whose `logits` are (N, vocabulary), one row for each target.
        labels: (N,) int64, the targets themselves, already shifted; none of them is -100.
        num_items_in_batch: target tokens in the optimizer step; those of this batch where it is not given.
        label_smoothing: mass spread evenly over the vocabulary (Szegedy et al., 2016).

    Returns:
        Scalar, in nats a token.
    """
    # Cross entropy in float32: in bfloat16 the sum over a large vocabulary loses digits.
    total = F.cross_entropy(outputs.logits.float(), labels, reduction="sum", label_smoothing=label_smoothing)
    return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)
