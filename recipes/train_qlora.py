"""QLoRA: the language model in 4 bits (NF4), LoRA on its linear layers, the projector in full precision.

    # the main job: a small base on the embedded `scenes`, then QLoRA from short captions to alt text
    accelerate launch recipes/train_qlora.py
    # from a stage-1 checkpoint on photos
    accelerate launch recipes/train_qlora.py --config configs/train/flickr8k_llava_qlora.yaml

Without `--config` and `--model` it runs `configs/train/scenes_qlora.yaml`. Where the YAML names a `base_config`, that
base is first trained by `recipes/train.py`, and kept for later runs. The run folder gets `adapter/` (for
the 4-bit base) and `merged/` (merged into the base in its original precision, and evaluated in that form). Running the
same command again resumes, or prints the existing results.
"""

import hfcap.training_setup  # noqa: F401  (before torch)

# isort: split

import sys
from pathlib import Path

import datasets

from hfcap.baselines import WithoutPicture, most_frequent_caption
from hfcap.errors import run_main
from hfcap.evaluation import judge
from hfcap.recipes import train
from hfcap.shipped import find_config
from hfcap.training.arguments import CaptionTrainingArguments, QLoraArguments
from hfcap.training.checkpoints import last_complete_checkpoint
from hfcap.training.data_arguments import DataArguments
from hfcap.training.dry_run import describe_run
from hfcap.training.meta_run import describe_shapes
from hfcap.training.metric_choice import metric_options
from hfcap.training.parsing import parse_arguments
from hfcap.training.results import Result, evaluate_trained, finish_run, save_captioner
from hfcap.training.steps import caption_datasets, open_run, prepare_captioner
from hfcap.training.trainer import CaptionTrainer

BEFORE, AFTER = "before (4-bit base)", "after (4-bit base + adapter)"


def main(argv: list[str] | None = None) -> Path:
    """Adapt a base by QLoRA, merge, evaluate both; return the run folder."""
    argv = sys.argv[1:] if argv is None else argv
    names_model = any(argument.split("=")[0] == "--model" for argument in argv)
    default_config = None if names_model else find_config("configs/train/scenes_qlora.yaml")
    classes = (DataArguments, QLoraArguments, CaptionTrainingArguments)
    arguments = parse_arguments(*classes, argv=argv, default_config=default_config, recipe="train_qlora")
    with open_run(arguments, train_part=train.main) as run:
        if run.is_done:
            return run.folder
        if run.args.meta:
            print(describe_shapes(run))
            return run.folder
        model, processor = prepare_captioner(run)
        data = caption_datasets(run, model, processor)
        trainer = CaptionTrainer(model=model, args=run.args, processing_class=processor, **data)
        if run.args.dry_run:
            print(describe_run(trainer))
            return run.folder
        trainer.train(resume_from_checkpoint=last_complete_checkpoint(run.args.output_dir))
        merged = save_captioner(run, trainer)
        compared = compare_captioners(trainer, *run.rows)
        adapter_captions = [row["caption"] for row in compared[AFTER][1].rows]
        finish_run(run, trainer, merged, compared, before=BEFORE, caption_adapter=adapter_captions)
        return run.folder


def compare_captioners(
    trainer: CaptionTrainer, train_rows: datasets.Dataset, eval_rows: datasets.Dataset
) -> dict[str, Result]:
    """Evaluate the base, the adapter, and two blind baselines, which a captioner that sees must beat."""
    constant = most_frequent_caption(caption for captions in train_rows["captions"] for caption in captions)
    results: dict[str, Result] = {
        "most frequent caption": (
            None,
            judge([constant] * len(eval_rows), eval_rows, {}, **metric_options(trainer.args)),
        ),
        "LM without the picture": evaluate_trained(
            trainer, "without the picture", WithoutPicture(trainer.eval_dataset)
        ),
    }
    with trainer.accelerator.unwrap_model(trainer.model).disable_adapter():
        results[BEFORE] = evaluate_trained(trainer, "base")
    return results | {AFTER: evaluate_trained(trainer, "adapter")}


if __name__ == "__main__":
    run_main(main)
