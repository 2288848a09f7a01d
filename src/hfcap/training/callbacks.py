"""What a training run shows besides its loss: captions of the same images, evaluation after evaluation."""

from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback

from hfcap.training.trainer import CaptionTrainer

NUM_SHOWN = 3


class SampleCaptions(TrainerCallback):
    """Print captions of the same few images after each evaluation, and send them to TensorBoard where it is on.

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
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
                text = "\n\n".join(f"**{image_id}** {caption}" for image_id, caption in samples)
                callback.tb_writer.add_text("captions", text, state.global_step)
