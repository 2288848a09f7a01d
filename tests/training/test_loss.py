"""`token_loss` against PyTorch's cross entropy."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from hfcap.training import loss
from hfcap.training.loss import token_loss


def loss_and_gradients(function, dtype, softcap=None):
    torch.manual_seed(0)
    hidden = torch.randn(7, 5, dtype=dtype, requires_grad=True)
    head = (30 * torch.randn(11, 5)).to(dtype).requires_grad_()
    labels = torch.randint(11, (7,))
    logits = hidden @ head.T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    value = function(logits, labels)
    value.backward()
    return value.detach(), hidden.grad, head.grad


@pytest.mark.parametrize("chunk_elements", [1, 40, 1000])  # 1, 3 and all 7 rows at a time
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_cross_entropy_in_value_and_gradient(monkeypatch, chunk_elements, smoothing):
    monkeypatch.setitem(loss.CHUNK_ELEMENTS, "cpu", chunk_elements)
    for dtype, softcap in ((torch.float32, None), (torch.float32, 30.0), (torch.bfloat16, None)):
        ours = loss_and_gradients(
            lambda logits, labels: token_loss(SimpleNamespace(logits=logits), labels, 70, smoothing), dtype, softcap
        )
        theirs = loss_and_gradients(
            lambda logits, labels: (
                F.cross_entropy(logits.float(), labels, reduction="sum", label_smoothing=smoothing) / 70
            ),
            dtype,
            softcap,
        )
        tolerance = 1e-5 if dtype == torch.float32 else 1e-2
        for value, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


def test_an_impossible_target_has_a_finite_loss():
    logits = torch.tensor([[0.0, 1e4], [1e4, 0.0]])
    assert token_loss(SimpleNamespace(logits=logits), torch.tensor([0, 0])).item() == 5000.0


def test_logits_that_somebody_else_needs_raise_instead_of_giving_a_wrong_gradient():
    logits = torch.randn(4, 3, requires_grad=True).exp()  # the backward pass of exp needs its output
    value = token_loss(SimpleNamespace(logits=logits), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_a_second_backward_pass_raises():
    logits = torch.randn(4, 3, requires_grad=True) * 1.0
    value = token_loss(SimpleNamespace(logits=logits), torch.zeros(4, dtype=torch.int64))
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()
