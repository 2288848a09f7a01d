"""HF Trainer that stops at the first loss or gradient norm that is not finite, and where its steps are taken."""

import logging
import math

import torch
from transformers import EarlyStoppingCallback, Trainer

from hfcap.errors import WorkError
from hfcap.models.finite import non_finite_weights, refuse_non_finite

logger = logging.getLogger(__name__)


class FiniteTrainer(Trainer):
    """`Trainer` that ends a run where its loss or gradient norm becomes NaN or infinite, and saves no such weights.

    `Trainer` logs such a loss as 0 (`logging_nan_inf_filter`), takes the step, saves, and ends with exit code 0. Here
    no optimizer step is taken with it, except by DeepSpeed, which steps within the backward pass; nothing is saved
    after that. With fp16, gradient norms may be infinite: the loss scale is then lowered and the step skipped.

    A run that is resumed after its last step, or after it stopped early, takes none: `Trainer` looks whether to stop
    after each step, and takes one or an epoch more.
    """

    _step_loss: torch.Tensor | float = 0.0  # of this process's micro-batches since the last optimizer step

    def _init_training_state(
        self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
    ):
        """Say with which epoch and step training goes on."""
        started = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        if resume_from_checkpoint is not None and self._stopped_early():
            logger.info("%s: training stopped early there, no further step is taken", resume_from_checkpoint)
            return num_train_epochs, 0
        return (num_train_epochs, 0) if self.state.global_step >= max_steps else started

    def _stopped_early(self) -> bool:
        """Whether evaluations without a better metric are as many as `early_stopping_patience` allows now."""
        stops = [found for found in self.callback_handler.callbacks if isinstance(found, EarlyStoppingCallback)]
        for callback in stops:
            if self.args.early_stopping_patience is not None:  # a checkpoint brings that of its own run
                callback.early_stopping_patience = self.args.early_stopping_patience
            # `Trainer` fails at its next checkpoint where the one that it goes on from has none (transformers 5.24).
            self.state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())
        return any(found.early_stopping_patience_counter >= found.early_stopping_patience for found in stops)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Run forward and backward, and remember the loss until all processes look at it."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._step_loss = self._step_loss + loss.detach()
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        """Give the gradient norm, before the optimizer steps.

        Raises:
            WorkError: it, or the loss of any process, is not finite.
        """
        grad_norm = super()._get_grad_norm(model, grad_norm)
        loss, self._step_loss = self._step_loss, 0.0
        if self.args.world_size > 1:  # a process that stopped alone would leave the others waiting for it
            loss = self.accelerator.reduce(torch.as_tensor(loss, device=self.args.device).float(), "sum")
        self._refuse("loss", float(loss))
        if grad_norm is not None and not self.args.fp16:
            # DeepSpeed says -1 where a gradient is not finite.
            self._refuse("gradient norm", math.nan if float(grad_norm) < 0 else float(grad_norm))
        return grad_norm

    def _refuse(self, what: str, value: float) -> None:
        if math.isfinite(value):
            return
        rate, step = self._get_learning_rate(), self.state.global_step + 1
        raise WorkError(
            f"training diverged in step {step} (learning rate {rate:.3g}), and nothing was saved after it",
            option=what,
            got=value,
            fix=f"lower --learning_rate {self.args.learning_rate:g} (to a tenth of it), or warm up longer "
            f"(--warmup_steps, now {self.args.warmup_steps:g})"
            + (", or lower --max_grad_norm" if self.args.max_grad_norm else ", or set --max_grad_norm 1")
            + (", or set --precision float32" if self.args.bf16 or self.args.fp16 else "")
            + ", with another --output_dir; if this is step 1, the starting model or the data is broken",
        )

    def check_weights(self) -> None:
        """Refuse to go on with weights that are not finite; all processes call it.

        Raises:
            VerificationError: some are not.
        """
        names = non_finite_weights(self.model)
        if self.args.world_size > 1:
            found = torch.tensor(float(bool(names)), device=self.args.device)
            if self.accelerator.reduce(found, "sum") and not names:
                names = ["a tensor that another process holds"]
        refuse_non_finite(names, f"the model after step {self.state.global_step}")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save as `Trainer` does, checkpoints included, but no weights that are not finite."""
        self.check_weights()
        super().save_model(output_dir, _internal_call)
