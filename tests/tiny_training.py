"""A trainer for tests of a few steps: it evaluates nothing, saves nothing and draws no progress bars."""

from dataclasses import fields

from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.dataset import CaptionDataset
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
    """Trainer of `model` on `rows`; `settings` are those of `CaptionTrainingArguments`."""
    data = CaptionDataset(rows)
    return CaptionTrainer(
        model=model,
        args=CaptionTrainingArguments(output_dir=str(output_dir), **STEPS_ALONE | settings),
        train_dataset=data,
        eval_dataset=data,
        data_collator=collator,
        processing_class=collator.processor,
    )
