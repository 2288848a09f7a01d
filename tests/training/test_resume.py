"""A run that was killed goes on as if nothing had happened."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hfcap.training.checkpoints import last_complete_checkpoint
from hfcap.training.collators import CaptionCollator
from tiny.training import make_trainer

SCRIPT = str(Path(__file__).with_name("tiny_run.py"))


def run(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=300
    )


def result_of(process):
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "family", ["llava", "encoder_decoder", pytest.param("llava-stream-workers", marks=pytest.mark.slow)]
)
def test_a_killed_run_continues_the_same_loss_curve(tmp_path, family):
    whole = result_of(run(family, tmp_path / "whole"))
    killed = run(family, tmp_path / "killed", 8)
    assert killed.returncode == -signal.SIGKILL
    # A later checkpoint whose writing was cut off must not be taken.
    (tmp_path / "killed" / "checkpoint-7").mkdir()
    assert last_complete_checkpoint(tmp_path / "killed").endswith("checkpoint-6")
    resumed = result_of(run(family, tmp_path / "killed"))
    assert len(whole["losses"]) == 10
    assert resumed["losses"] == whole["losses"]
    assert resumed["grad_norms"] == whole["grad_norms"]
    assert resumed["captions"] == whole["captions"]


def test_a_full_disk_ends_the_run_with_one_line_and_the_next_one_goes_on(tmp_path):
    whole = result_of(run("llava", tmp_path / "whole"))
    full = run("llava", tmp_path / "full", -1, 4)
    assert full.returncode == 1
    *_, last_line = full.stderr.splitlines()
    kept = tmp_path / "full" / "checkpoint-3"
    assert last_line.startswith(f"error: {tmp_path / 'full' / 'checkpoint-6'}: could not be written (")
    assert last_line.endswith(f"; make room and run the same command again to resume from {kept}")
    assert list((tmp_path / "full").iterdir()) == [kept]
    resumed = result_of(run("llava", tmp_path / "full"))
    assert resumed["losses"] == whole["losses"]
    assert resumed["captions"] == whole["captions"]


def test_a_run_that_died_after_its_last_step_takes_none(build_tiny, scene_rows, tmp_path):
    settings = {"max_steps": 3, "per_device_train_batch_size": 4, "save_strategy": "steps", "learning_rate": 1e-2}
    settings |= {"lr_scheduler_type": "constant"}
    assert len(scene_rows) > 3 * 4  # at the end of an epoch `Trainer` stops by itself
    weights = []
    for _ in range(2):
        model, processor = build_tiny("encoder_decoder")
        trainer = make_trainer(model, CaptionCollator(processor, model.config), scene_rows, tmp_path, **settings)
        trainer.train(resume_from_checkpoint=last_complete_checkpoint(tmp_path))
        weights.append(model.state_dict())
    assert trainer.state.global_step == 3
    assert all(tensor.equal(weights[1][name]) for name, tensor in weights[0].items())
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


EARLY = {"max_steps": 20, "per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 2}
EARLY |= {"eval_strategy": "steps", "eval_steps": 2, "eval_caption_images": 2, "metrics": "bleu"}
EARLY |= {"learning_rate": 0.0, "metric_for_best_model": "loss", "early_stopping_patience": 1}


def go_on(build_tiny, rows, folder, **settings):
    """Train, or go on from the last checkpoint; return the step that training ends with."""
    model, processor = build_tiny("encoder_decoder")
    trainer = make_trainer(model, CaptionCollator(processor, model.config), rows, folder, **settings)
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(folder))
    return trainer.state.global_step


def test_a_run_that_died_after_it_stopped_early_takes_no_step(build_tiny, scene_rows, tmp_path, caplog):
    assert go_on(build_tiny, scene_rows, tmp_path, **EARLY) == 4  # the second evaluation is not better than the first
    with caplog.at_level(logging.INFO, logger="hfcap"):
        assert go_on(build_tiny, scene_rows, tmp_path, **EARLY) == 4
    assert "training stopped early there, no further step is taken" in caplog.text


def test_more_patience_goes_on_from_an_early_stop(build_tiny, scene_rows, tmp_path):
    assert go_on(build_tiny, scene_rows, tmp_path, **EARLY) == 4
    assert go_on(build_tiny, scene_rows, tmp_path, **EARLY | {"early_stopping_patience": 3}) == 8


def test_patience_may_begin_with_a_later_epoch(build_tiny, scene_rows, tmp_path):
    without = EARLY | {"max_steps": 2, "early_stopping_patience": None}
    assert go_on(build_tiny, scene_rows, tmp_path, **without) == 2
    assert go_on(build_tiny, scene_rows, tmp_path, **EARLY) == 4


def test_no_checkpoint_is_no_error(tmp_path):
    assert last_complete_checkpoint(tmp_path / "nowhere") is None
