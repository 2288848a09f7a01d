r"""CIDEr-optimised (self-critical) training of a captioner of either family, from a cross-entropy checkpoint.

    accelerate launch recipes/train_scst.py --config configs/train/flickr8k_scst.yaml --data FOLDER
    # any run folder or model of `recipes/train.py`
    accelerate launch recipes/train_scst.py --model outputs/scenes-base --data scenes --scenes_image_size 64 \
        --output_dir outputs/scenes-scst

Each step samples `num_samples` captions per image, scores them by CIDEr-D against the image's references, and raises
the probability of those that are better than the image's other samples (`hfcap.training.scst`). Start from a captioner
that works: all samples of a bad one get a reward near zero. The reward uses the training references only; CIDEr on the
evaluation split before and after shows the gain. Running the same command again resumes, or reports that the run is
finished. Defaults that differ from the HF Trainer's are listed at `hfcap.training.scst.ScstArguments`.
"""

import hfcap.training_setup  # noqa: F401  (before torch)

# isort: split

from pathlib import Path

from hfcap.errors import run_main
from hfcap.training.arguments import ModelArguments
from hfcap.training.checkpoints import last_complete_checkpoint
from hfcap.training.data_arguments import DataArguments
from hfcap.training.dry_run import describe_run
from hfcap.training.parsing import parse_arguments
from hfcap.training.results import evaluate_trained, finish_run, save_captioner
from hfcap.training.rewards import build_rewards
from hfcap.training.scst import ScstArguments, ScstTrainer
from hfcap.training.steps import caption_datasets, open_run, prepare_captioner


def main(argv: list[str] | None = None) -> Path:
    """Optimise the CIDEr-D of one captioner; return the run folder."""
    arguments = parse_arguments(DataArguments, ModelArguments, ScstArguments, argv=argv, recipe="train_scst")
    with open_run(arguments) as run:
        if run.is_done:
            return run.folder
        rewards = build_rewards(
            run.args.rewards,
            run.rows[0],
            weights=run.args.reward_weights,
            tokenizer=run.args.tokenizer,
            length_band=run.args.length_band,
            clip_model=run.args.clip_model,
        )
        model, processor = prepare_captioner(run)
        data = caption_datasets(run, model, processor)
        trainer = ScstTrainer(model=model, args=run.args, processing_class=processor, rewards=rewards, **data)
        if run.args.dry_run:
            print(describe_run(trainer))
            print("A step samples captions first: it takes longer than the one above, which learns from references")
            return run.folder
        before = evaluate_trained(trainer, "before")
        trainer.train(resume_from_checkpoint=last_complete_checkpoint(run.args.output_dir))
        finish_run(run, trainer, save_captioner(run, trainer), {"before": before}, before="before")
        return run.folder


if __name__ == "__main__":
    run_main(main)
