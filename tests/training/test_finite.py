"""A run ends at the first loss or gradient norm that is not finite; no such weights are saved, merged or shipped."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, TrainerCallback, ViTImageProcessorPil

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.errors import VerificationError, WorkError
from hfcap.hub.export import export_run
from hfcap.models.finite import non_finite_weights
from hfcap.training.arguments import EncoderTrainingArguments
from hfcap.training.collators import CaptionCollator
from hfcap.training.merge import merge_adapter, read_adapter
from hfcap.training.rewards import build_rewards
from hfcap.training.scst import ScstArguments, ScstTrainer
from hfcap.training.strategies import apply_strategy
from hfcap.training.tagging import CaptionTagger, TagCollator, TaggingTrainer, choose_words
from refusals import refused
from tiny.captioners import TINY_ENCODER
from tiny.training import STEPS_ALONE, fill_lora, make_trainer

PROMPTS = {"llava": "caption", "encoder_decoder": None}
ONE_STEP = {"max_steps": 1, "per_device_train_batch_size": 4}


def trainable_values(model):
    return {name: parameter.clone() for name, parameter in model.named_parameters()}


class BrokenStep(TrainerCallback):
    """Make a weight NaN in an optimizer step, as an update does that overflows."""

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        with torch.no_grad():
            next(p for p in model.parameters() if p.requires_grad).fill_(float("nan"))


def breaks_in_step(trainer, step):
    """Let the loss be NaN from a step on, as a batch does that overflows."""
    computed = trainer.compute_loss_func

    def compute_loss(*args, **kwargs):
        loss = computed(*args, **kwargs)
        return loss * float("nan") if trainer.state.global_step + 1 >= step else loss

    trainer.compute_loss_func = compute_loss


@pytest.mark.parametrize("family", PROMPTS)
def test_a_run_ends_at_the_first_loss_that_is_not_finite(build_tiny, scene_rows, tmp_path, family):
    model, processor = build_tiny(family)
    collator = CaptionCollator(processor, model.config, PROMPTS[family])
    settings = {"max_steps": 3, "learning_rate": 0.01, "save_strategy": "steps", "save_steps": 1}
    settings |= {"lr_scheduler_type": "constant", "per_device_train_batch_size": 4}
    trainer = make_trainer(model, collator, scene_rows.select(range(8)), tmp_path, **settings)
    breaks_in_step(trainer, 2)
    with refused(WorkError, option="loss", says=("loss is nan", "in step 2", "--learning_rate 0.01")):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    saved = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in saved.values())
    assert not non_finite_weights(model)  # the step was not taken


def test_a_gradient_that_is_not_finite_ends_a_run_though_its_loss_is(build_tiny, scene_rows, tmp_path):
    model, processor = build_tiny("llava")
    collator = CaptionCollator(processor, model.config, "caption")
    trainer = make_trainer(model, collator, scene_rows.select(range(8)), tmp_path, **ONE_STEP)
    next(p for p in model.parameters() if p.requires_grad).register_hook(lambda gradient: gradient * float("inf"))
    before = trainable_values(model)
    with refused(WorkError, option="gradient norm", says="in step 1"):
        trainer.train()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_weights_that_a_last_step_broke_are_not_saved(build_tiny, scene_rows, tmp_path):
    model, processor = build_tiny("llava")
    collator = CaptionCollator(processor, model.config, "caption")
    settings = ONE_STEP | {"save_strategy": "steps", "save_steps": 1}
    trainer = make_trainer(model, collator, scene_rows.select(range(8)), tmp_path, **settings)
    trainer.add_callback(BrokenStep())
    with refused(VerificationError, option="the model after step 1", says="NaN or infinite (model"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))
    with refused(VerificationError, option="the model after step 1"):
        trainer.save_model(str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()
    with refused(VerificationError, option="the model after step 1"):
        trainer.evaluation_loss(trainer.eval_dataset)


def test_self_critical_training_ends_before_it_samples_from_broken_weights(build_tiny, scene_rows, tmp_path):
    model, processor = build_tiny("llava")
    data = CaptionDataset(scene_rows.select(range(8)))
    trainer = ScstTrainer(
        model=model,
        args=ScstArguments(
            output_dir=str(tmp_path),
            num_samples=2,
            max_steps=2,
            per_device_train_batch_size=4,
            **STEPS_ALONE,
        ),
        train_dataset=data,
        eval_dataset=data,
        data_collator=CaptionCollator(processor, model.config, "caption", max_caption_tokens=8),
        processing_class=processor,
        rewards=build_rewards(["cider_d"], data.rows),
        callbacks=[BrokenStep()],
    )
    with refused(VerificationError, option="the model after step 1"):
        trainer.train()


def test_an_encoder_that_diverges_ends_its_run(scene_rows, tmp_path):
    torch.manual_seed(0)
    words = choose_words(scene_rows["captions"])
    encoder = AutoModel.from_config(AutoConfig.for_model(**TINY_ENCODER))
    with torch.no_grad():
        next(encoder.parameters()).fill_(float("nan"))
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    trainer = TaggingTrainer(
        model=CaptionTagger(encoder, words.values(), image_size=32),
        args=EncoderTrainingArguments(output_dir=str(tmp_path), max_steps=1, **STEPS_ALONE),
        train_dataset=CaptionDataset(scene_rows),
        data_collator=TagCollator(processor, words),
    )
    with refused(WorkError, option="loss", says="in step 1"):
        trainer.train()
    with refused(VerificationError, says="NaN or infinite (encoder"):
        trainer.check_weights()


def with_nan(file):
    """Make one value of a safetensors file NaN; return the name of its tensor."""
    tensors = load_file(file)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.any())
    tensors[name].flatten()[0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    return name


def test_broken_weights_are_neither_merged_nor_exported(build_tiny, tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    model, processor = build_tiny("llava")
    for part in (model, processor):
        part.save_pretrained(base)
    model = apply_strategy(model, "lora", lora_r=4)
    fill_lora(model)
    for part in (model, processor):
        part.save_pretrained(adapter)
    merge_adapter(str(base), adapter)  # whole, it is taken

    with_nan(adapter / "adapter_model.safetensors")
    with refused(VerificationError, option=f"the adapter {adapter}", says="NaN or infinite"):
        read_adapter(adapter)
    with_nan(base / "model.safetensors")
    with refused(VerificationError, option=str(base), says="NaN or infinite"):
        export_run(base, tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()


def test_a_saved_buffer_is_looked_at_and_a_mask_of_infinities_is_not():
    model = torch.nn.BatchNorm1d(2)
    model.register_buffer("mask", torch.tensor([float("-inf")]))
    model.register_buffer("scratch", torch.tensor([float("nan")]), persistent=False)
    assert non_finite_weights(model) == []
    model.running_mean[0] = float("nan")
    assert non_finite_weights(model) == ["running_mean"]
