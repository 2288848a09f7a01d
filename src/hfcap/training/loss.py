"""Token loss of every model type: exact under any split of the optimizer step."""

import torch

from hfcap.training.packing import IGNORE_INDEX

# A chunk of float32 logits that stays in a processor's cache, or that fills a GPU and is small beside its memory.
CHUNK_ELEMENTS = {"cpu": 2**21, "other": 2**26}


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
        outputs: model output whose `logits` are (N, vocabulary), one row for each target, or (B, L, vocabulary). The
            backward pass writes the gradient over them.
        labels: (N,) or (B, L) int64, already shifted: what each row of `logits` must predict, -100 for nothing.
        num_items_in_batch: target tokens in the optimizer step; those of this batch where it is not given.
        label_smoothing: mass spread evenly over the vocabulary (Szegedy et al., 2016).

    Returns:
        Scalar float32, in nats per token.
    """
    logits = outputs.logits
    if labels.ndim == 2:  # of a model whose head cannot run on target positions alone
        keep = labels != IGNORE_INDEX
        logits, labels = logits[keep], labels[keep]
    total = _CrossEntropySum.apply(logits, labels, label_smoothing)
    return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)


class _CrossEntropySum(torch.autograd.Function):
    """`F.cross_entropy(logits.float(), labels, reduction="sum")` whose only tensor of (N, vocabulary) is `logits`.

    PyTorch's keeps the log-softmax beside the logits and makes two more tensors of that size in the backward pass: at
    a vocabulary of 49,152 a quarter of the head's time and three quarters of its memory. Here the backward pass turns
    the logits into their gradient in place, in float32 a chunk of rows at a time. Autograd itself raises an error
    where somebody else needs the logits after that, or where backward runs twice.
    """

    @staticmethod
    def forward(ctx, logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
        log_sums, means = [], []
        for chunk in logits.split(_chunk_rows(logits)):
            rows = chunk.float()
            log_sums.append(rows.logsumexp(dim=1))
            means.append(rows.mean(dim=1) if label_smoothing else None)
        normalizer = torch.cat(log_sums)  # (N,)
        own = logits.gather(1, labels[:, None])[:, 0].float()
        losses = normalizer - (1 - label_smoothing) * own
        if label_smoothing:
            losses -= label_smoothing * torch.cat(means)
        ctx.save_for_backward(logits, labels, normalizer)
        ctx.label_smoothing = label_smoothing
        return losses.sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, scale: torch.Tensor) -> tuple:
        logits, labels, normalizer = ctx.saved_tensors
        rows = _chunk_rows(logits)
        parts = zip(logits.split(rows), labels.split(rows), normalizer.split(rows), strict=True)
        for chunk, targets, log_sum in parts:
            gradient = chunk.float()  # the logits themselves where they are float32 already
            gradient.sub_(log_sum[:, None]).exp_()
            if ctx.label_smoothing:
                gradient.sub_(ctx.label_smoothing / logits.shape[1])
            own = gradient.new_full((len(targets), 1), ctx.label_smoothing - 1)
            gradient.scatter_add_(1, targets[:, None], own).mul_(scale)
            if gradient is not chunk:
                chunk.copy_(gradient)
        return logits, None, None


def _chunk_rows(logits: torch.Tensor) -> int:
    elements = CHUNK_ELEMENTS.get(logits.device.type, CHUNK_ELEMENTS["other"])
    return max(1, elements // logits.shape[1])
