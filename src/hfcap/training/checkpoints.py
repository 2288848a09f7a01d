"""Complete checkpoints: the newest one to resume from, atomic saving, loading of weights."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, TrainerCallback

from hfcap.errors import WorkError

logger = logging.getLogger(__name__)


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """Newest `checkpoint-N` that was written to its end, or `None`.

    `transformers.trainer_utils.get_last_checkpoint` takes the highest number, complete or not.
    """
    complete = complete_checkpoints(folder)
    return str(complete[-1]) if complete else None


def complete_checkpoints(folder: str | Path) -> list[Path]:
    """All `checkpoint-N` that were written to their end, oldest first."""
    complete = [path for path in Path(folder).glob("checkpoint-*") if is_complete(path)]
    return sorted(complete, key=checkpoint_step)


def checkpoint_step(checkpoint: Path) -> int:
    """Step after which a `checkpoint-N` was saved."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def is_complete(checkpoint: Path) -> bool:
    """Whether training can go on from a checkpoint: all parts are there, and `trainer_state.json`, the last, is whole.

    Without them `Trainer` would go on with an empty optimizer, another learning rate or other random numbers, unsaid.
    """
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False

    def holds(pattern: str) -> bool:
        return next(checkpoint.glob(pattern), None) is not None

    # DeepSpeed keeps optimizer and scheduler in a folder of its own; FSDP keeps the optimizer in a folder optimizer_0.
    return holds("rng_state*.pth") and (holds("global_step*") or (holds("optimizer*") and holds("scheduler.pt")))


class BestCheckpointHere(TrainerCallback):
    """Look for the best checkpoint in the run's own folder: the recorded path is of where the run was started.

    `Trainer` takes a best checkpoint that is not at that path for none (transformers 5.24) or fails at it, and ships
    the last weights in its place.
    """

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Rebase `best_model_checkpoint` of a resumed run, or forget one that is gone."""
        if state.best_model_checkpoint is not None:
            name = Path(state.best_model_checkpoint).name
        elif state.best_global_step is not None:
            name = f"checkpoint-{state.best_global_step}"
        else:
            return
        here = Path(args.output_dir, name)
        if here.is_dir():
            state.best_model_checkpoint = str(here)
        elif state.best_model_checkpoint is None or not Path(state.best_model_checkpoint).is_dir():
            logger.warning("%s, the best checkpoint so far, is gone: the best of the later ones is taken", here)
            state.best_model_checkpoint = state.best_metric = state.best_global_step = None


def remove_incomplete_checkpoints(folder: str | Path) -> None:
    """Remove what a killed run left half-written: the next one would write into the same folder."""
    for path in Path(folder).glob("checkpoint-*"):
        if not is_complete(path):
            logger.info("%s is not whole: removed", path)
            shutil.rmtree(path)


def load_weights(model: PreTrainedModel, checkpoint: str | Path) -> None:
    """Load the weights of a checkpoint into the model that it was saved from.

    `Trainer` takes the names in a checkpoint for those of the model's parameters. But `save_pretrained` writes the
    names of the Hub's files, and for LLaVA, Qwen-VL and all with a ViT inside these differ: `Trainer` would warn of
    missing keys, keep the weights it has, and go on (transformers 5.21;
    https://github.com/QwenLM/Qwen3-VL/issues/1763).

    Raises:
        WorkError: the checkpoint lacks a tensor of the model, or has it in another shape.
    """
    loaded, info = type(model).from_pretrained(
        checkpoint, dtype=model.dtype, use_safetensors=True, output_loading_info=True
    )
    wrong = sorted(map(str, {*info["missing_keys"], *info["mismatched_keys"]}))
    if wrong:
        raise WorkError(
            f"not a checkpoint of this model: tensors missing or of another shape: {len(wrong)}, first {wrong[0]}",
            option=str(checkpoint),
            fix="remove it to resume from the one before",
        )
    model.load_state_dict(loaded.state_dict())


@torch.no_grad()
def load_mean(model: torch.nn.Module, checkpoints: Sequence[Path], load: Callable[[str], None]) -> None:
    """Give a model the mean of several checkpoints: the same training, less the noise of its last steps.

    Vaswani et al. 2017, section 6.1 (https://arxiv.org/abs/1706.03762), average the last 5 or 20. Parameters that
    train and buffers of floating-point numbers are averaged, of an adapter its two matrices; the rest is as the last
    checkpoint has it.

    Args:
        model: what trained.
        checkpoints: folders of one training, oldest first.
        load: loads a checkpoint, given by its path, into `model`.
    """
    tensors = [tensor for tensor in model.parameters() if tensor.requires_grad]
    tensors += [tensor for tensor in model.buffers() if tensor.is_floating_point()]
    means = [torch.zeros_like(tensor, dtype=torch.float32) for tensor in tensors]
    for count, checkpoint in enumerate(checkpoints, start=1):
        load(str(checkpoint))
        for mean, tensor in zip(means, tensors, strict=True):
            mean.lerp_(tensor.float(), 1 / count)
    for mean, tensor in zip(means, tensors, strict=True):
        tensor.copy_(mean)


def fill_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Give parameters that had no gradient yet the state that their first one would find: zeros.

    FSDP loads an optimizer only where every parameter that may train has a state ("Missing optimizer state for
    parameter", torch 2.13), and some never get a gradient: LLaVA reads the last layer but one of its encoder.

    Args:
        optimizer: after a step; each value of its state is a scalar or has the shape of its parameter, as AdamW's.
    """
    known, state = next(iter(optimizer.state.items()))
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        if parameter not in optimizer.state:
            optimizer.state[parameter] = {
                name: torch.zeros_like(parameter if value.shape == known.shape else value)
                for name, value in state.items()
            }


@contextmanager
def atomic_folder(folder: Path, checkpoints: Path) -> Iterator[None]:
    """Within this context `folder` is written; where that fails, by whatever error, it is removed.

    Args:
        folder: a checkpoint, or a model.
        checkpoints: folder of the run's checkpoints.

    Raises:
        WorkError: it could not be written (a full disk, a quota); names the checkpoint that is whole.
    """
    try:
        yield
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        # A full disk is an OSError in Python, a RuntimeError in torch.save, and an error of its own in safetensors.
        if isinstance(error, WorkError) or not isinstance(error, (OSError, RuntimeError, SafetensorError)):
            raise
        last = last_complete_checkpoint(checkpoints)
        free = shutil.disk_usage(folder.parent).free / 2**20
        reason = " ".join(str(error).split())[:200]
        raise WorkError(
            f"could not be written ({reason}; {free:,.0f} MiB are free there now)",
            option=str(folder),
            fix="make room and run the same command again"
            + (f" to resume from {last}" if last else "; there is no checkpoint to resume from yet"),
        ) from error
