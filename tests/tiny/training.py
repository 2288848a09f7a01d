"""Training in tests: a trainer of a few steps, and what several tests look at."""

from dataclasses import fields

import torch
from transformers import TrainerCallback

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.checkpoints import load_weights
from hfcap.training.trainer import CaptionTrainer

# Renamed in transformers 5.23.
CHECKPOINTING = next(
    field.name
    for field in fields(CaptionTrainingArguments)
    if field.name in ("activation_checkpointing", "gradient_checkpointing")
)
STEPS_ALONE = {
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "disable_tqdm": True,
    "use_cpu": True,
}


def make_trainer(model, collator, rows, output_dir, **settings):
    """Trainer of `model` on `rows` that does nothing but steps; `settings` are those of `CaptionTrainingArguments`."""
    data = CaptionDataset(rows)
    return CaptionTrainer(
        model=model,
        args=CaptionTrainingArguments(output_dir=str(output_dir), **STEPS_ALONE | settings),
        train_dataset=data,
        eval_dataset=data,
        data_collator=collator,
        processing_class=collator.processor,
    )


class KeepGradients(TrainerCallback):
    """Remember every gradient of the last optimizer step."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = gradients_of(model)


def gradients_of(model):
    """Copy the gradients of a model."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found, expected):
    """Compare gradients by name, to 1e-5 of the largest and 1e-4 of each."""
    assert found.keys() == expected.keys()
    scale = max(gradient.abs().max() for gradient in expected.values())
    assert scale > 1e-3
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * scale.item(), msg=name)


def fill_lora(model):
    """Give every B of LoRA values: it is zero at the start, and A would get no gradient."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)


def loads_whole(model, folder):
    """Whether `load_weights` brings a changed model back to what was saved in `folder`, tensor by tensor."""
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    load_weights(model, folder)
    return all(tensor.equal(kept[name]) for name, tensor in model.state_dict().items())
