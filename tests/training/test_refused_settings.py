"""Settings that nobody would read, or that fail in the first step, are refused with the reason, or made to work."""

import logging

import pytest
import torch

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.generation.inputs import encode_prefix
from hfcap.training.arguments import CaptionTrainingArguments, EncoderTrainingArguments, ModelArguments
from hfcap.training.collators import CaptionCollator
from hfcap.training.part_checks import check_model
from hfcap.training.settings_checks import check_learning_rates
from hfcap.training.strategies import TRAINED_PARTS, apply_strategy
from hfcap.training.tagging import CaptionTagger, TagCollator, TaggingTrainer, choose_words
from refusals import refused
from tiny.native import PROMPT, build_native
from tiny.training import CHECKPOINTING, STEPS_ALONE, make_trainer


@pytest.mark.parametrize(("model_type", "strategy"), [("git", "lora"), ("blip", "lora"), ("git", "projector")])
def test_activation_checkpointing_gives_the_same_steps(model_type, strategy, rows, tmp_path):
    captions = [c for captions in rows["captions"] for c in captions] + [PROMPT] * 9
    logs = []
    for checkpointing in (False, True):
        model, processor = build_native(model_type, captions)
        torch.manual_seed(0)
        model = apply_strategy(model, strategy, lora_r=4)
        settings = {"max_steps": 2, "learning_rate": 0.01, "logging_steps": 1, CHECKPOINTING: checkpointing}
        trainer = make_trainer(model, CaptionCollator(processor, model.config, PROMPT), rows, tmp_path, **settings)
        trainer.train()
        logs.append([(log["loss"], log["grad_norm"]) for log in trainer.state.log_history if "loss" in log])
    assert len(logs[0]) == 2 and logs[0][0][1] > 0
    for without, with_it in zip(*logs, strict=True):
        assert with_it == pytest.approx(without, rel=1e-5)


@pytest.mark.parametrize("given", [{"use_reentrant": True}, '{"use_reentrant": true}'])
def test_reentrant_checkpoints_are_refused(given, tmp_path):
    name = f"{CHECKPOINTING}_kwargs"
    with refused(option=f"{name}.use_reentrant", got=True, fix="remove it"):
        CaptionTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{CHECKPOINTING: True, name: given})
    CaptionTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{name: {"use_reentrant": False}})


def test_dropping_the_only_batch_is_refused(build_tiny, scene_rows, tmp_path):
    model, processor = build_tiny("llava")
    collator, rows = CaptionCollator(processor, model.config, "caption"), scene_rows.select(range(3))
    settings = {"dataloader_drop_last": True, "max_steps": 1, "per_device_train_batch_size": 4}
    with refused(option="dataloader_drop_last", says=("3 rows", "all processes 4")):
        make_trainer(model, collator, rows, tmp_path, **settings)
    make_trainer(model, collator, rows, tmp_path, **settings | {"per_device_train_batch_size": 3}).train()


def test_an_encoder_run_that_would_drop_its_only_batch_is_refused(build_tiny, scene_rows, tmp_path):
    model, processor = build_tiny("llava")
    words = choose_words(scene_rows["captions"])
    settings = {"dataloader_drop_last": True, "max_steps": 1, "per_device_train_batch_size": 25}
    trainer = TaggingTrainer(
        model=CaptionTagger(model.model.vision_tower, words.values(), image_size=32),
        args=EncoderTrainingArguments(output_dir=str(tmp_path), **STEPS_ALONE | settings),
        train_dataset=CaptionDataset(scene_rows),
        data_collator=TagCollator(processor.image_processor, words),
    )
    with refused(option="dataloader_drop_last", says=("24 rows", "all processes 25")):
        trainer.train()


@pytest.mark.parametrize("strategy", TRAINED_PARTS)
def test_a_learning_rate_of_a_frozen_part_is_refused(strategy):
    model_args = ModelArguments(model="base", strategy=strategy)
    for part in ("encoder", "projector"):
        args = CaptionTrainingArguments(use_cpu=True, **{f"{part}_learning_rate": 0.001})
        if part in TRAINED_PARTS[strategy]:
            check_learning_rates(model_args, args, "llava")
            continue
        with refused(option=f"{part}_learning_rate", got=0.001, says=f"strategy '{strategy}'"):
            check_learning_rates(model_args, args, "llava")


def test_a_learning_rate_of_a_part_that_a_type_lacks_is_refused():
    args = CaptionTrainingArguments(use_cpu=True, projector_learning_rate=0.001)
    with refused(option="projector_learning_rate", got=0.001, fix="remove it", says="blip has no projector"):
        check_learning_rates(ModelArguments(model="base", strategy="full"), args, "blip")


def test_paligemma_is_asked_in_its_own_way_and_warns_of_no_picture(rows, caplog):
    model, processor = build_native("paligemma", rows["captions"][0] + [PROMPT] * 9)
    row = rows[0]
    old = processor(images=[row["image"]], text=[PROMPT], return_tensors="pt")["input_ids"][0].tolist()
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)  # it does not propagate
    try:
        caplog.clear()
        new = encode_prefix(processor, model.config, row, PROMPT)
    finally:
        logger.removeHandler(caplog.handler)
    assert new.input_ids == old
    assert not caplog.records


def test_training_from_an_adapter_is_refused_with_the_reason(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    adapter = str(tmp_path / "adapter")
    with refused(option="model", got=adapter, wanted="whole weights", says=f"hfcap export {adapter} --merge --to"):
        check_model(ModelArguments(model=adapter))


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({"seed": -1}, {"option": "seed", "got": -1, "wanted": "0 or more"}),
        ({"num_train_epochs": -1}, {"option": "num_train_epochs", "got": -1, "wanted": "0 or more"}),
        ({"report_to": "nothing"}, {"option": "report_to", "got": ["nothing"], "says": "nothing is not supported"}),
        ({"report_to": "wandb"}, {"option": "report_to", "got": ["wandb"], "reason": "wandb is not installed"}),
        (
            {"lr_scheduler_kwargs": {"a": 1}},
            {"option": "lr_scheduler_kwargs", "got": {"a": 1}, "says": ("lr_scheduler_type is 'cosine'", "'a'")},
        ),
        (
            {"lr_scheduler_type": "cosine_with_min_lr"},
            {"option": "lr_scheduler_kwargs", "got": {}, "says": "lr_scheduler_type is 'cosine_with_min_lr'"},
        ),
    ],
)
@pytest.mark.parametrize("arguments", [CaptionTrainingArguments, EncoderTrainingArguments])
def test_settings_that_fail_when_the_trainer_starts_are_refused_before_the_run_folder(
    arguments, settings, fields, monkeypatch
):
    monkeypatch.setattr("hfcap.training.argument_checks.get_available_reporting_integrations", list)
    with refused(**fields):
        arguments(use_cpu=True, **settings)


@pytest.mark.parametrize("arguments", [CaptionTrainingArguments, EncoderTrainingArguments])
@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({"use_liger_kernel": True}, {"option": "use_liger_kernel", "got": True, "says": "pip install liger-kernel"}),
        ({"optim": "galore_adamw"}, {"option": "optim", "got": "galore_adamw", "says": "galore_torch"}),
        ({"optim": "schedule_free_adamw"}, {"option": "optim", "got": "schedule_free_adamw", "says": "schedulefree"}),
        ({"optim": "adamw_anyprecision"}, {"option": "optim", "got": "adamw_anyprecision", "says": "torchdistx"}),
        ({"optim_args": "nonsense"}, {"option": "optim", "says": "optim_args is 'nonsense'; wanted NAME=VALUE"}),
        ({"torch_compile_backend": "fast"}, {"option": "torch_compile_backend", "got": "fast", "says": "inductor"}),
        ({"torch_compile": True}, {"option": "torch_compile", "got": True, "says": "no none-g++ or clang++"}),
        ({"accelerator_config": {"even": True}}, {"option": "accelerator_config.even", "says": "even_batches"}),
        ({"accelerator_config": '{"even": true}'}, {"option": "accelerator_config.even", "says": "even_batches"}),
        ({"dataloader_num_workers": -1}, {"option": "dataloader_num_workers", "got": -1, "wanted": "0 or more"}),
    ],
)
def test_what_is_not_installed_or_unknown_is_refused_in_one_line(arguments, settings, fields, monkeypatch):
    monkeypatch.setattr("hfcap.training.argument_checks.is_liger_kernel_available", lambda: False)
    monkeypatch.setenv("CXX", "none-g++")
    monkeypatch.setattr("hfcap.training.argument_checks.shutil.which", lambda name: None)
    with refused(**fields):
        arguments(use_cpu=True, **settings)


def test_every_optimizer_that_is_installed_is_taken():
    for name in ("adamw_torch", "adafactor", "sgd", "adagrad", "rmsprop"):
        assert CaptionTrainingArguments(use_cpu=True, optim=name).optim == name
