"""Train an image encoder on the words of captions, from scratch or from a pretrained one, for any captioner to use.

    # the encoder of the main job, on the embedded data set
    accelerate launch recipes/train_encoder.py --config configs/train/scenes_encoder.yaml
    # then, as any pretrained encoder
    accelerate launch recipes/train.py --config … --encoder outputs/scenes-encoder/model

The run folder gets `model/`: the encoder, without the word classifier, and its image processor. Running the same
command again resumes, or reports that the run is finished.
"""

import hfcap.training_setup  # noqa: F401  (before torch)

# isort: split

from pathlib import Path

from transformers import set_seed

from hfcap import provenance, runs
from hfcap.atomic_files import write_json
from hfcap.data.caption_dataset import CaptionDataset
from hfcap.distributed import use_all_cores
from hfcap.errors import run_main
from hfcap.training.arguments import EncoderArguments, EncoderTrainingArguments
from hfcap.training.build import build_encoder
from hfcap.training.callbacks import run_callbacks
from hfcap.training.checkpoints import atomic_folder, last_complete_checkpoint
from hfcap.training.data_arguments import DataArguments
from hfcap.training.engine import current_backend
from hfcap.training.parsing import parse_arguments
from hfcap.training.part_checks import check_encoder
from hfcap.training.run_folder import run_lock, start_run
from hfcap.training.tagging import CaptionTagger, TagCollator, TaggingTrainer, choose_words, tag_scores


def main(argv: list[str] | None = None) -> Path:
    """Train one encoder; return its run folder."""
    parsed = parse_arguments(
        DataArguments, EncoderArguments, EncoderTrainingArguments, argv=argv, recipe="train_encoder"
    )
    with run_lock(parsed[-1]):
        return train_encoder(*parsed)


def train_encoder(data_args: DataArguments, encoder_args: EncoderArguments, args: EncoderTrainingArguments) -> Path:
    """Do what the settings say; no other process writes to the run folder."""
    parsed = (data_args, encoder_args, args)
    run = Path(args.output_dir)
    args.output_dir = str(run / runs.CHECKPOINTS)
    check_encoder(data_args, encoder_args, current_backend())
    use_all_cores()

    # ---- rows, words, encoder
    rows, is_finished = start_run(run, parsed)
    if is_finished:
        print(f"{run} is done: {run / runs.MODEL} holds the encoder. Delete the folder to retrain.")
        return run
    set_seed(args.seed)
    words = choose_words(rows[0]["captions"], args.tokenizer)
    encoder, image_processor = build_encoder(encoder_args)
    tagger = CaptionTagger(encoder, words.values(), encoder_args.image_size)
    augmentation = {name: getattr(data_args, name) for name in ("mirror", "crop", "color_jitter")}

    # ---- train and judge
    trainer = TaggingTrainer(
        model=tagger,
        args=args,
        train_dataset=CaptionDataset(rows[0], **augmentation, seed=args.seed),
        eval_dataset=CaptionDataset(rows[1]),
        data_collator=TagCollator(image_processor, words, args.tokenizer),
        compute_metrics=tag_scores,
        callbacks=run_callbacks(args),
    )
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(args.output_dir))
    trainer.check_weights()
    scores = trainer.evaluate()
    if trainer.is_world_process_zero():
        with atomic_folder(run / runs.MODEL, Path(args.output_dir)):
            image_processor.save_pretrained(run / runs.MODEL)
            encoder.save_pretrained(run / runs.MODEL)
        record = runs.read_run(run / runs.RUN_JSON)  # its scores say that the run is done: they are written last
        write_json(run / runs.RUN_JSON, record | {"words": len(words), "scores": provenance.to_json(scores)})
        print(f"{len(words)} words: precision {scores['eval_precision']:.3f}, recall {scores['eval_recall']:.3f}")
    trainer.accelerator.wait_for_everyone()
    return run


if __name__ == "__main__":
    run_main(main)
