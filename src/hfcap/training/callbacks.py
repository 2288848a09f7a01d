"""Callbacks of the trainers: sample captions after each evaluation, the best checkpoint, early stopping."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback

from hfcap.training.arguments import RunArguments
from hfcap.training.checkpoints import BestCheckpointHere

if TYPE_CHECKING:
    from hfcap.training.trainer import CaptionTrainer

NUM_SHOWN = 3


def run_callbacks(args: RunArguments) -> list[TrainerCallback]:
    """Callbacks of every trainer: find the best checkpoint of a moved run, and stop early where asked."""
    patience = args.early_stopping_patience
    return [BestCheckpointHere(), *([] if patience is None else [EarlyStoppingCallback(patience)])]


class SampleCaptions(TrainerCallback):
    """Print captions of the same few images after each evaluation; TensorBoard and trackio get them too.

    Args:
        trainer: the trainer that captions them.
    """

    def __init__(self, trainer: CaptionTrainer):
        self.trainer = trainer

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        """Show the captions that `CaptionTrainer.evaluate` just wrote."""
        if not state.is_world_process_zero:
            return
        samples = self.trainer.sample_captions[:NUM_SHOWN]
        for image_id, caption in samples:
            tqdm.write(f"  step {state.global_step}  {image_id}: {caption}")
        text = "\n\n".join(f"**{image_id}** {caption}" for image_id, caption in samples)
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                callback.tb_writer.add_text("captions", text, state.global_step)
            elif isinstance(callback, TrackioCallback):
                import trackio  # an extra, and slow to import

                trackio.log({"captions": trackio.Markdown(text)}, step=state.global_step)
