"""A run with `average_checkpoints` ends with the mean of its last checkpoints."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.checkpoints import last_complete_checkpoint, load_mean
from hfcap.training.collators import CaptionCollator
from hfcap.training.strategies import apply_strategy
from refusals import refused
from tiny.training import make_trainer


def averaging(model, processor, rows, folder, **settings):
    """A trainer of five steps that keeps a checkpoint of each, and averages the last three."""
    every_step = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": None, "average_checkpoints": 3}
    rates = {"learning_rate": 1e-2, "lr_scheduler_type": "constant"}
    settings = {"max_steps": 5, "per_device_train_batch_size": 4} | rates | every_step | settings
    return make_trainer(model, CaptionCollator(processor, model.config), rows, folder, **settings)


@pytest.mark.parametrize("family, strategy", [("encoder_decoder", "full"), ("llava", "full"), ("llava", "lora")])
def test_what_is_saved_is_the_mean_of_the_last_checkpoints(build_tiny, scene_rows, tmp_path, family, strategy):
    model, processor = build_tiny(family)
    model = apply_strategy(model, strategy, lora_r=4)
    trainer = averaging(model, processor, scene_rows, tmp_path)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    name = "adapter_model.safetensors" if strategy == "lora" else "model.safetensors"
    kept = [load_file(tmp_path / f"checkpoint-{step}" / name) for step in (3, 4, 5)]
    saved = load_file(tmp_path / "saved" / name)
    moved = 0
    assert saved.keys() == kept[0].keys()
    for key, tensor in saved.items():
        torch.testing.assert_close(tensor, torch.stack([weights[key] for weights in kept]).mean(0), rtol=0, atol=1e-6)
        moved += not torch.equal(tensor, kept[-1][key])
    assert moved  # else the last checkpoint alone would do


def test_a_run_that_died_after_its_last_checkpoint_ends_with_the_same_mean(build_tiny, scene_rows, tmp_path):
    weights = []
    for _ in range(2):
        model, processor = build_tiny("encoder_decoder")
        trainer = averaging(model, processor, scene_rows, tmp_path)
        trainer.train(resume_from_checkpoint=last_complete_checkpoint(tmp_path))
        weights.append(trainer.model.state_dict())
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_fewer_checkpoints_than_asked_for_are_said(build_tiny, scene_rows, tmp_path, caplog):
    trainer = averaging(*build_tiny("encoder_decoder"), scene_rows, tmp_path, max_steps=2)
    with caplog.at_level(logging.INFO, logger="hfcap"):
        trainer.train()
    assert "the mean of checkpoint-1, checkpoint-2" in caplog.text
    assert "2 checkpoints, fewer than average_checkpoints asks for (3)" in caplog.text


def test_checkpoints_of_an_earlier_training_in_the_folder_are_not_averaged(build_tiny, scene_rows, tmp_path, caplog):
    averaging(*build_tiny("encoder_decoder"), scene_rows, tmp_path, max_steps=8).train()
    with caplog.at_level(logging.INFO, logger="hfcap"):
        averaging(*build_tiny("encoder_decoder"), scene_rows, tmp_path).train()
    assert "the mean of checkpoint-3, checkpoint-4, checkpoint-5" in caplog.text


EVALUATING = {
    "eval_strategy": "steps",
    "eval_steps": 1,
    "eval_caption_images": 2,
    "metric_for_best_model": "loss",
    "greater_is_better": True,  # the first evaluation, with the largest loss, is the best
}


def test_the_best_checkpoint_is_not_kept_in_place_of_one_of_the_last(build_tiny, scene_rows, tmp_path, caplog):
    settings = EVALUATING | {"save_total_limit": 3, "learning_rate": 1e-3}
    trainer = averaging(*build_tiny("encoder_decoder"), scene_rows, tmp_path, **settings)
    with caplog.at_level(logging.INFO, logger="hfcap"):
        trainer.train()
    assert trainer.state.best_metric == trainer.state.log_history[0]["eval_loss"]  # of step 1
    assert "the mean of checkpoint-3, checkpoint-4, checkpoint-5" in caplog.text


def test_a_run_that_stops_before_its_first_checkpoint_keeps_its_weights(build_tiny, scene_rows, tmp_path, caplog):
    settings = EVALUATING | {"save_steps": 100, "early_stopping_patience": 1}
    trainer = averaging(*build_tiny("encoder_decoder"), scene_rows, tmp_path, **settings)
    trainer.train()
    assert trainer.state.global_step == 2
    assert "no checkpoint was saved: weights are those of step 2" in caplog.text
    assert all(parameter.any() for name, parameter in trainer.model.named_parameters() if name.endswith("weight"))


def test_what_does_not_change_keeps_its_bits():
    model = torch.nn.BatchNorm1d(3)
    model.running_var.copy_(torch.tensor([0.1, 0.7, 1 / 3]))
    before = model.running_var.clone()

    def load(checkpoint):
        torch.nn.init.constant_(model.weight, float(checkpoint))

    load_mean(model, [Path(str(number)) for number in (1, 2, 6)], load)
    assert torch.equal(model.running_var, before)
    assert torch.equal(model.weight.detach(), torch.full((3,), 3.0))


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"load_best_model_at_end": True, "eval_strategy": "epoch"}, "load_best_model_at_end"),
        ({"save_strategy": "no"}, "save_strategy is 'no'"),
        ({"save_total_limit": 2}, "only 2 checkpoints are kept"),
    ],
)
def test_checkpoints_that_are_not_there_at_the_end_are_refused(tmp_path, arguments, says):
    with refused(option="average_checkpoints", got=3, says=says):
        CaptionTrainingArguments(
            **{"output_dir": str(tmp_path), "load_best_model_at_end": False, "average_checkpoints": 3} | arguments
        )


def test_weights_in_shards_of_an_engine_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with refused(option="average_checkpoints", got=3, says="not supported on zero2"):
        CaptionTrainingArguments(
            output_dir=str(tmp_path), load_best_model_at_end=False, save_total_limit=3, average_checkpoints=3
        )
