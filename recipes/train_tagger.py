r"""Train a moderation tagger: a multi-label head on any image encoder, by the tags of a policy file.

    # the embedded data set, whose labels are exact
    accelerate launch recipes/train_tagger.py --config configs/train/scenes_tagger.yaml
    # photos, labeled by the words of their captions (edit the paths, or give --data, --encoder)
    accelerate launch recipes/train_tagger.py --config configs/train/flickr8k_tagger.yaml
    # on a captioner's own encoder, with the features that it was trained on
    accelerate launch recipes/train_tagger.py --model outputs/flickr8k-encoder-decoder --data FOLDER \
        --policy configs/policy/flickr8k.yaml --feature_cache true --output_dir outputs/flickr8k-tagger

A picture has a tag where its column `tags` says so, or where two captions name it; where one does it is left out of
the loss (`docs/moderation.md`). The run folder gets `model/`, a stock checkpoint for
`pipeline("image-classification")` with its calibration and policy. The same command again resumes, or says that the
run is done. Defaults that differ from the HF Trainer's are listed at
`hfcap.training.tagger_arguments.TaggerTrainingArguments`.

A tagger puts pictures into an order for a person to look at. What it does not tag may be there all the same.
"""

import hfcap.training_setup  # noqa: F401  (before torch)

# isort: split

from pathlib import Path

from hfcap.applications.policy import read_policy
from hfcap.errors import run_main
from hfcap.hub.tagger_card import write_tagger_card
from hfcap.shipped import find_config
from hfcap.training.checkpoints import last_complete_checkpoint
from hfcap.training.data_arguments import DataArguments
from hfcap.training.parsing import parse_arguments
from hfcap.training.tagger_arguments import TaggerArguments, TaggerTrainingArguments
from hfcap.training.tagger_results import close_tagger_run, figures_table, finish_tagger_run, save_tagger
from hfcap.training.tagger_steps import keep_policy, label_parts, make_trainer, open_tagger_run, prepare_tagger


def main(argv: list[str] | None = None) -> Path:
    """Train, calibrate and measure one tagger; return its run folder."""
    arguments = parse_arguments(
        DataArguments, TaggerArguments, TaggerTrainingArguments, argv=argv, recipe="train_tagger"
    )
    with open_tagger_run(arguments) as run:
        if run.is_done:
            print(f"{run.folder} is done. Delete the folder to retrain.")
            return run.folder

        # ---- tags, labels, classifier
        policy_file = find_config(run.tagger.policy)
        policy = read_policy(policy_file)
        tags = [tag.name for tag in policy.tags.values() if tag.scorer is None]
        origin = {"path": policy_file.name, "sha256": policy.sha256}
        parts = label_parts(run, tags, policy.labels_from_captions, origin)
        keep_policy(run, policy_file)
        model, image_processor, data = prepare_tagger(run, tags, parts)

        # ---- train, calibrate, judge
        trainer = make_trainer(run, model, image_processor, data, parts)
        trainer.train(resume_from_checkpoint=last_complete_checkpoint(run.args.output_dir))
        calibration = save_tagger(run, trainer, image_processor, data, parts)
        record = finish_tagger_run(run, trainer, data, parts, calibration, origin)
        if record is not None:
            write_tagger_card(run.folder)
            close_tagger_run(run, record)
            print(figures_table(record))
            print(f"\nTag your own pictures:\nhfcap moderate tag FOLDER --tagger {run.folder} --output tags.jsonl")
        trainer.accelerator.wait_for_everyone()
        return run.folder


if __name__ == "__main__":
    run_main(main)
