"""A tiny run that looks for its batch size: `torchrun memory_run.py FOLDER RANK…`.

The processes of these ranks run out of memory with more than two rows a batch. Prints one JSON line: batch size and
accumulation that the run ends with, and its losses.
"""

import json
import sys
from datetime import timedelta
from functools import wraps
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from transformers import set_seed

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.data.scenes import load_scenes
from hfcap.errors import run_main
from hfcap.training import trainer as trainer_module
from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.collators import CaptionCollator
from hfcap.training.trainer import CaptionTrainer
from tiny.captioners import build_joined, captions_of


def main(folder: str, ranks: set[int]) -> None:
    set_seed(0)
    rows = load_scenes("train", 24, "caption", image_size=32)
    args = CaptionTrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=4,
        auto_find_batch_size=True,
        num_train_epochs=1,
        logging_steps=1,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        disable_tqdm=True,
        use_cpu=True,
    )
    model, processor = build_joined("llava", captions_of(rows), args)
    forward = model.forward

    @wraps(forward)
    def limited(*args_, **kwargs):
        if args.process_index in ranks and len(kwargs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(*args_, **kwargs)

    model.forward = limited
    trainer_module.JOIN_TIME = timedelta(seconds=10)
    data = CaptionDataset(rows)
    trainer = CaptionTrainer(
        model=model,
        args=args,
        train_dataset=data,
        eval_dataset=data,
        data_collator=CaptionCollator(processor, model.config, "caption"),
        processing_class=processor,
    )
    trainer.train()
    if trainer.is_world_process_zero():
        losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
        sizes = [trainer._train_batch_size, args.gradient_accumulation_steps]
        print(json.dumps({"sizes": sizes, "losses": losses}))


if __name__ == "__main__":
    run_main(lambda: main(sys.argv[1], {int(rank) for rank in sys.argv[2:]}))
