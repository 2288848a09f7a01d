"""A few steps of preference training: `python dpo_run.py FAMILY FOLDER`, by one process or under `torchrun`.

Pictures have one to three pairs, so that processes and micro-batches have different numbers of them. Prints one JSON
line: losses, gradient norms and rewards by step, a sum over the weights, and how many processes trained.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from transformers import set_seed

from hfcap.data.scenes import load_scenes
from hfcap.errors import run_main
from hfcap.training.collators import CaptionCollator
from hfcap.training.dpo import DpoArguments, DpoTrainer
from hfcap.training.strategies import apply_strategy
from tiny.captioners import build_joined, captions_of
from tiny.training import STEPS_ALONE, fill_lora

LOGGED = ("loss", "grad_norm", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins")


def main(family: str, folder: str) -> None:
    family, _, strategy = family.partition("-")
    set_seed(0)
    rows = load_scenes("train", 16, "caption", image_size=32)
    captions = [own[: 1 + index % 3] for index, own in enumerate(rows["captions"])]
    rows = rows.add_column("chosen", captions).add_column("rejected", [[f"No {t}" for t in own] for own in captions])
    model, processor = build_joined(family, captions_of(rows))
    if strategy == "lora":
        model = apply_strategy(model, "lora", lora_r=4)
        fill_lora(model)
    args = DpoArguments(
        output_dir=folder,
        per_device_train_batch_size=4 // int(os.environ.get("WORLD_SIZE", "1")),
        gradient_accumulation_steps=2,
        num_train_epochs=2,
        learning_rate=1e-3,
        beta=0.5,
        logging_steps=1,
        **STEPS_ALONE,
    )
    collator = CaptionCollator(processor, model.config, "caption" if family == "llava" else None)
    trainer = DpoTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=collator,
        processing_class=processor,
    )
    trainer.train()
    steps = [log for log in trainer.state.log_history if "loss" in log]
    evaluated = list(trainer.preference_metrics(trainer.eval_pairs).values())
    if trainer.is_world_process_zero():
        weights = sum(parameter.double().square().sum().item() for parameter in trainer.model.parameters())
        figures = {name: [step[name] for step in steps] for name in LOGGED}
        print(json.dumps(figures | {"evaluated": evaluated, "weights": weights, "processes": args.world_size}))


if __name__ == "__main__":
    run_main(lambda: main(*sys.argv[1:]))
