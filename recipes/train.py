"""Train a captioner of any family: from scratch, with a frozen encoder, in stages, in full, or with LoRA.

    # the embedded data set, a small LLaVA-style captioner from scratch
    accelerate launch recipes/train.py --config configs/train/scenes_base.yaml
    # a frozen CNN and a decoder from scratch on photos (edit the paths, or pass --data and --encoder)
    accelerate launch recipes/train.py --config configs/train/flickr8k_encoder_decoder.yaml
    # LLaVA-style in stages: the projector first, then projector and language model
    accelerate launch recipes/train.py --config configs/train/flickr8k_llava_stage1.yaml
    accelerate launch recipes/train.py --config configs/train/flickr8k_llava_full.yaml
    # a native captioner from the Hub (docs/models.md lists the types)
    accelerate launch recipes/train.py --config configs/train/flickr30k_blip_base_full.yaml

Every key of the YAML file is an option as well, and the command line wins. `--dry_run` shows a batch, the trainable
parameters and an estimate without training; with `--meta` as well it reads no weights of a native captioner, only
its configuration and processor files. Running the same command again resumes from the last checkpoint, or
reports that the run is finished. Defaults that differ from the HF Trainer's are listed at
`hfcap.training.arguments.CaptionTrainingArguments`.
"""

import hfcap.training_setup  # noqa: F401  (before torch)

# isort: split

from pathlib import Path

from hfcap.errors import run_main
from hfcap.recipes import train_encoder
from hfcap.training.arguments import CaptionTrainingArguments, ModelArguments
from hfcap.training.checkpoints import last_complete_checkpoint
from hfcap.training.data_arguments import DataArguments
from hfcap.training.dry_run import describe_run
from hfcap.training.meta_run import describe_shapes
from hfcap.training.parsing import parse_arguments
from hfcap.training.results import finish_run, save_captioner
from hfcap.training.steps import caption_datasets, open_run, prepare_captioner
from hfcap.training.trainer import CaptionTrainer


def main(argv: list[str] | None = None) -> Path:
    """Train and evaluate one captioner; return its run folder."""
    arguments = parse_arguments(DataArguments, ModelArguments, CaptionTrainingArguments, argv=argv, recipe="train")
    with open_run(arguments, train_part=train_encoder.main) as run:
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
        finish_run(run, trainer, save_captioner(run, trainer))
        return run.folder


if __name__ == "__main__":
    run_main(main)
