"""Train on the tar shards of a folder: `python stream_run.py SHARDS RUN STEPS`.

Each process writes what it has seen to `rank-N.json` in RUN: `{"seen": [image ids of each batch], "opened": [shards],
"losses"}`. A checkpoint is saved every two steps, and a run goes on from the last one.
"""

import json
import sys
import tarfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from transformers import set_seed

from hfcap.data.sources import load_captions
from hfcap.training.arguments import CaptionTrainingArguments
from hfcap.training.checkpoints import last_complete_checkpoint
from hfcap.training.trainer import CaptionTrainer
from tiny.captioners import build_joined


def main(shards: str, run: str, steps: int) -> None:
    args = CaptionTrainingArguments(
        output_dir=run,
        per_device_train_batch_size=1,
        max_steps=steps,
        logging_steps=1,
        eval_strategy="no",
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=False,
        disable_tqdm=True,
        use_cpu=True,
    )
    set_seed(0)
    opened, seen = [], []
    plain_open = tarfile.open

    def open_and_note(path, *rest):
        opened.append(Path(path).name)
        return plain_open(path, *rest)

    tarfile.open = open_and_note
    rows = load_captions(shards, "train", streaming=True)
    assert not opened
    model, processor = build_joined("llava", ["a red circle"], args, vocab_size=300)
    trainer = CaptionTrainer(model, args, rows, processing_class=processor)
    collate = trainer.data_collator

    def note(items):
        seen.append([item["image_id"] for item in items])
        return collate(items)

    trainer.data_collator = note
    opened.clear()  # every process looks at the first captions, for their length
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(Path(run)))
    losses = {log["step"]: log["loss"] for log in trainer.state.log_history if "loss" in log}
    result = {"seen": seen, "opened": opened, "losses": losses}
    Path(run, f"rank-{args.process_index}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
