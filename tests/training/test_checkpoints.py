"""A checkpoint is whole or not there: what counts as whole, and what a full disk leaves."""

from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl, TrainerState

from hfcap.errors import WorkError
from hfcap.training.checkpoints import (
    BestCheckpointHere,
    atomic_folder,
    fill_optimizer_state,
    last_complete_checkpoint,
    remove_incomplete_checkpoints,
)
from hfcap.training.engine import checkpoint_engine
from refusals import refused


def make_checkpoint(folder, step, state='{"global_step": 3}'):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir()
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (checkpoint / name).write_bytes(b"weights")
    if state is not None:
        (checkpoint / "trainer_state.json").write_text(state)
    return checkpoint


def test_a_checkpoint_without_its_last_file_or_with_half_of_it_is_not_whole(tmp_path):
    whole = make_checkpoint(tmp_path, 3)
    make_checkpoint(tmp_path, 6, state=None)
    make_checkpoint(tmp_path, 9, state='{"global_st')
    assert last_complete_checkpoint(tmp_path) == str(whole)
    remove_incomplete_checkpoints(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3"]


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_that_lacks_a_part_is_not_gone_on_from(tmp_path, name):
    whole = make_checkpoint(tmp_path, 3)
    (make_checkpoint(tmp_path, 6) / name).unlink()
    assert last_complete_checkpoint(tmp_path) == str(whole)


def test_the_best_checkpoint_of_a_moved_run_is_found_where_the_run_is_now(tmp_path):
    best = make_checkpoint(tmp_path, 3)
    args = SimpleNamespace(output_dir=str(tmp_path))
    state = TrainerState(best_model_checkpoint="outputs/elsewhere/checkpoints/checkpoint-3")
    BestCheckpointHere().on_train_begin(args, state, TrainerControl())
    assert state.best_model_checkpoint == str(best)
    state = TrainerState(best_model_checkpoint=None, best_global_step=3)  # `Trainer` has looked for it before
    BestCheckpointHere().on_train_begin(args, state, TrainerControl())
    assert state.best_model_checkpoint == str(best)


def test_a_best_checkpoint_that_is_gone_is_forgotten_with_its_figure(tmp_path):
    args = SimpleNamespace(output_dir=str(tmp_path))
    state = TrainerState(best_model_checkpoint="outputs/elsewhere/checkpoint-3", best_global_step=3, best_metric=0.9)
    BestCheckpointHere().on_train_begin(args, state, TrainerControl())
    assert (state.best_model_checkpoint, state.best_metric, state.best_global_step) == (None, None, None)


def write_with_python(path):
    with open(path, "w") as file:
        file.write("state")


# Not safetensors: it renames a finished file into place, and would replace the device by that file.
WRITERS = {
    "python": write_with_python,
    "torch": lambda path: torch.save({"state": torch.ones(10)}, path),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, writer):
    whole = make_checkpoint(tmp_path, 3)
    fix = f"make room and run the same command again to resume from {whole}"
    error = refused(WorkError, option=str(tmp_path / "checkpoint-6"), fix=fix, says="could not be written")
    with error, atomic_folder(tmp_path / "checkpoint-6", tmp_path):
        make_checkpoint(tmp_path, 6, state=None)
        WRITERS[writer]("/dev/full")  # every write to it fails with "No space left on device"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3"]
    assert (whole / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("error", [ValueError, TypeError, WorkError, KeyboardInterrupt])
def test_no_error_leaves_half_a_checkpoint(tmp_path, error):
    make_checkpoint(tmp_path, 3)
    with pytest.raises(error, match="stops here"), atomic_folder(tmp_path / "checkpoint-6", tmp_path):
        make_checkpoint(tmp_path, 6, state=None)
        raise error("stops here")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3"]


def test_the_number_of_processes_matters_to_deepspeed_alone():
    assert checkpoint_engine("single", 1) == checkpoint_engine("ddp", 2)
    assert checkpoint_engine("zero2", 2) != checkpoint_engine("zero2", 4)
    assert checkpoint_engine("zero2", 2) != checkpoint_engine("ddp", 2)


def test_a_filled_optimizer_state_is_the_one_that_a_first_gradient_would_find():
    def weights_after_steps(fill):
        torch.manual_seed(0)
        early, late = torch.nn.Linear(3, 2, bias=False), torch.nn.Linear(2, 5, bias=False)
        optimizer = torch.optim.AdamW([*early.parameters(), *late.parameters()], lr=0.1)
        inputs = torch.rand(4, 3)
        early(inputs).sum().backward()
        optimizer.step()
        assert late.weight not in optimizer.state
        if fill:
            fill_optimizer_state(optimizer)
            assert late.weight in optimizer.state
        late(early(inputs)).sum().backward()
        optimizer.step()
        return torch.cat([early.weight.flatten(), late.weight.flatten()])

    assert torch.equal(weights_after_steps(fill=True), weights_after_steps(fill=False))
