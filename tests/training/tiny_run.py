"""A tiny training run in a process of its own: `python tiny_run.py FAMILY FOLDER [KILL_AT_STEP [FULL_AT_STEP]]`.

FAMILY may end in "-stream": the same rows are then read as a stream; or in "-stream-workers": and by two loader
processes, which share its four shards. Prints one JSON line: the logged losses by step, gradient norms, the
evaluation, and which engine ran. With KILL_AT_STEP the process kills itself (SIGKILL) after that step, as a power cut
would. With FULL_AT_STEP no file can become larger than a few KB after that step, as if the disk were nearly full.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from transformers import TrainerCallback, set_seed

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.data.caption_stream import CaptionStream
from hfcap.data.scenes import load_scenes
from hfcap.errors import run_main
from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.checkpoints import last_complete_checkpoint
from hfcap.training.collators import CaptionCollator
from hfcap.training.trainer import CaptionTrainer
from tiny.captioners import TINY_DECODERS, build_joined, captions_of


class PowerCut(TrainerCallback):
    """Kill the process after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class FullDisk(TrainerCallback):
    """Let writing fail after a step, once a file has some KB."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))


def main(family: str, folder: str, kill_at_step: int = -1, full_at_step: int = -1) -> None:
    family, *source = family.split("-")
    streaming, workers = "stream" in source, 2 if "workers" in source else 0
    set_seed(0)
    rows = load_scenes("train", 20, "caption", image_size=32)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    args = CaptionTrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=4 // world_size,
        gradient_accumulation_steps=1,
        num_train_epochs=2,
        max_steps=10 if streaming else -1,
        learning_rate=1e-2,
        dataloader_num_workers=workers,
        logging_steps=1,
        eval_strategy="no",
        save_strategy="steps",
        save_steps=3,
        load_best_model_at_end=False,
        disable_tqdm=True,
        use_cpu=True,
    )
    # Dropout draws from the process's generator, so that a resumed run shows whether its state came back.
    dropout = 0.0 if "WORLD_SIZE" in os.environ else 0.1
    name = "attention_dropout" if family == "llava" else "resid_pdrop"
    decoder = TINY_DECODERS[family] | {name: dropout}
    model, processor = build_joined(family, captions_of(rows), args, decoder_config=decoder)
    data = CaptionDataset(rows, references=2, mirror=True)
    shards = rows.to_iterable_dataset(num_shards=4 if workers else 1)
    stream = CaptionStream(shards, references=2, mirror=True) if streaming else None
    trainer = CaptionTrainer(
        model=model,
        args=args,
        train_dataset=stream or data,
        eval_dataset=data,
        data_collator=CaptionCollator(processor, model.config, "caption" if family == "llava" else None),
        processing_class=processor,
        callbacks=[PowerCut(kill_at_step), FullDisk(full_at_step)],
    )
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(folder))
    result = {
        "losses": {log["step"]: log["loss"] for log in trainer.state.log_history if "loss" in log},
        "grad_norms": {log["step"]: log["grad_norm"] for log in trainer.state.log_history if "loss" in log},
        "eval": trainer.evaluate(),
        "captions": trainer.sample_captions,
        "wrapped": type(trainer.model_wrapped).__name__,
        "processes": trainer.args.world_size,
    }
    if trainer.is_world_process_zero():
        print(json.dumps(result))


if __name__ == "__main__":
    run_main(lambda: main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
