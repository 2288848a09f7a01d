r"""Preference training (DPO) of a captioner of any family: chosen captions above rejected ones.

    # a source with columns of pictures, chosen and rejected captions
    accelerate launch recipes/train_dpo.py --model RUN --data FOLDER --captions_column chosen --output_dir outputs/dpo
    # any captioned data set: rejected captions are references with one word exchanged
    accelerate launch recipes/train_dpo.py --model RUN --data FOLDER --rejected corrupted --output_dir outputs/dpo
    # the embedded data set, after configs/train/scenes_base.yaml
    accelerate launch recipes/train_dpo.py --config configs/train/scenes_dpo.yaml

Start from a captioner that works: preferences move what it says already (`hfcap.training.dpo`). `--strategy lora`
needs no copy of the starting model. Running the same command again resumes, or reports that the run is finished.
Defaults that differ from the HF Trainer's are listed at `hfcap.training.dpo.DpoArguments`; docs/preferences.md has the
rest.
"""

import hfcap.training_setup  # noqa: F401  (before torch)

# isort: split

from pathlib import Path

from hfcap.errors import run_main
from hfcap.training.arguments import ModelArguments
from hfcap.training.checkpoints import last_complete_checkpoint
from hfcap.training.data_arguments import DataArguments
from hfcap.training.dpo import DpoArguments, DpoTrainer
from hfcap.training.dry_run import describe_run
from hfcap.training.parsing import parse_arguments
from hfcap.training.results import evaluate_trained, finish_run, save_captioner
from hfcap.training.steps import caption_datasets, open_run, prepare_captioner


def main(argv: list[str] | None = None) -> Path:
    """Train one captioner by preferences; return the run folder."""
    arguments = parse_arguments(DataArguments, ModelArguments, DpoArguments, argv=argv, recipe="train_dpo")
    with open_run(arguments) as run:
        if run.is_done:
            return run.folder
        model, processor = prepare_captioner(run)
        data = caption_datasets(run, model, processor)
        trainer = DpoTrainer(model=model, args=run.args, processing_class=processor, **data)
        if run.args.dry_run:
            print(describe_run(trainer))
            print("References 1, 3, … are chosen, 2, 4, … rejected; a step runs the starting model as well")
            return run.folder
        before = evaluate_trained(trainer, "before")
        trainer.train(resume_from_checkpoint=last_complete_checkpoint(run.args.output_dir))
        saved = save_captioner(run, trainer)
        captions = [row["caption"] for row in before[1].rows]
        finish_run(run, trainer, saved, {"before": before}, before="before", caption_before=captions)
        return run.folder


if __name__ == "__main__":
    run_main(main)
