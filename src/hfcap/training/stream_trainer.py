"""HF Trainer that resumes a stream where its readers stopped, without reading what was seen."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.data_loader import IterableDatasetShard
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from hfcap.atomic_files import write_json
from hfcap.data.caption_stream import POSITION, CaptionStream, collate_with_position
from hfcap.errors import ConfigError, WorkError
from hfcap.training.finite import FiniteTrainer


class _StepsOfAll(TrainerCallback):
    """Tell how much of the training is done: `Trainer` counts a resumed run's own steps where it skips no batches."""

    def on_step_end(self, args, state, control, **kwargs) -> None:
        state.epoch = state.global_step / state.max_steps


class StreamTrainer(FiniteTrainer):
    """`FiniteTrainer` whose checkpoints keep the positions of the readers of a `CaptionStream`.

    `Trainer` would read a stream from its start and skip the batches that were seen. Other training data are left to
    it.

    Args:
        args, kwargs: arguments of `Trainer`.

    Raises:
        ConfigError: a stream with `dispatch_batches`.
    """

    def __init__(self, *, args, **kwargs):
        super().__init__(args=args, **kwargs)
        if not isinstance(self.train_dataset, CaptionStream):
            return
        if args.accelerator_config.dispatch_batches:
            reason, option = "each process reads its own part of a stream", "accelerator_config.dispatch_batches"
            raise ConfigError(reason, option=option, got=True, fix="remove it")
        self.train_dataset.divide(args.process_index, args.world_size, args.dataloader_num_workers)
        self.add_callback(_StepsOfAll())
        # By the number of steps: that of a step is known before it is taken, and some checkpoints are saved before it.
        self._stream_states: dict[int, dict[str, Any]] = {}
        self._random_states: str | None = None

    def get_train_dataloader(self) -> DataLoader:
        """Batches of training; those of a stream as this process reads it, with the position behind each."""
        loader = super().get_train_dataloader()
        if isinstance(self.train_dataset, CaptionStream):
            loader.base_dataloader.collate_fn = partial(collate_with_position, self.data_collator)
        if isinstance(loader.dataset, IterableDatasetShard):
            # accelerate lets each process read everything and keep its share; a `CaptionStream` gives the share alone.
            loader.dataset.num_processes, loader.dataset.process_index = 1, 0
        return loader

    def _init_training_state(
        self, max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
    ):
        """Let a stream begin where the checkpoint says; `Trainer` then has no batches to skip.

        Raises:
            WorkError: the checkpoint does not say it, or for other readers.
        """
        started = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        if not isinstance(self.train_dataset, CaptionStream):
            return started
        self._random_states = resume_from_checkpoint
        state = None if resume_from_checkpoint is None else self._read_stream_state(Path(resume_from_checkpoint))
        self.train_dataset.load_state_dict(state)
        self._stream_states = {self.state.global_step: self.train_dataset.state}
        return started if started[0] >= num_train_epochs else (0, 0)  # else nothing is left to do

    def _read_stream_state(self, checkpoint: Path) -> dict[str, Any]:
        path = self._stream_file(checkpoint)
        if not path.exists():
            raise WorkError(
                f"has no {path.name}, which says where the stream stopped: it is of an earlier version, of fewer "
                "processes or of data read whole",
                option=str(checkpoint),
                fix="resume with the version and the processes that wrote it, or begin in another output_dir",
            )
        return json.loads(path.read_text())

    def _stream_file(self, checkpoint: str | Path) -> Path:
        return Path(checkpoint) / f"stream_state_{self.args.process_index}.json"

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Take the micro-batches of an optimizer step, and from them where the stream is after it."""
        batches, num_items_in_batch = super().get_batch_samples(epoch_iterator, num_batches, device)
        if isinstance(self.train_dataset, CaptionStream):
            step, positions = self.state.global_step, [batch.pop(POSITION) for batch in batches]
            state = self._stream_states[step]
            self._stream_states = {step: state, step + 1: self.train_dataset.state_dict_after(state, positions)}
            if self._random_states is not None:  # the loader has drawn from them since `Trainer` restored them
                self._load_rng_state(self._random_states)
                self._random_states = None
        return batches, num_items_in_batch

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)  # makes the folder, where no other process has
        if isinstance(self.train_dataset, CaptionStream):
            write_json(self._stream_file(output_dir), self._stream_states[self.state.global_step])
