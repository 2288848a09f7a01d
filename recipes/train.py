"""Train a captioner: any family, from scratch, with a frozen encoder, in stages, whole, or with LoRA.

    # the embedded data set, a small LLaVA-style captioner from scratch
    accelerate launch recipes/train.py --config configs/train/scenes_base.yaml
    # a frozen CNN and a decoder from scratch on photos (edit the paths, or give --data, --encoder)
    accelerate launch recipes/train.py --config configs/train/flickr8k_encoder_decoder.yaml
    # LLaVA-style in stages: the projector first, then projector and language model
    accelerate launch recipes/train.py --config configs/train/flickr8k_llava_stage1.yaml
    accelerate launch recipes/train.py --config configs/train/flickr8k_llava_full.yaml

Every key of the YAML file is an option as well, and the command line wins. `--dry_run` shows a batch, the trainable
parameters and an estimate without training. The same command again resumes from the last checkpoint, or says that the
run is done. Defaults that differ from the HF Trainer's are listed at `hfcap.training.arguments.CaptionTrainingArguments`.
"""

from pathlib import Path

from transformers import EarlyStoppingCallback, set_seed

from hfcap import runs
from hfcap.errors import run_main
from hfcap.evaluation import evaluate_captioner, write_evaluation
from hfcap.generation.inputs import caption_prompt
from hfcap.training.arguments import CaptionTrainingArguments, DataArguments, ModelArguments, parse_arguments
from hfcap.training.build import build_captioner, load_captioner
from hfcap.training.collators import CaptionCollator
from hfcap.training.compatibility import check_supported
from hfcap.training.dry_run import describe_run
from hfcap.training.preparation import (
    caption_datasets,
    finished_run,
    last_complete_checkpoint,
    load_splits,
    use_all_cores,
)
from hfcap.training.strategies import apply_strategy
from hfcap.training.trainer import CaptionTrainer


def main(argv: list[str] | None = None) -> Path:
    """Train and evaluate one captioner; return its run folder."""
    data_args, model_args, args = parse_arguments(
        DataArguments, ModelArguments, CaptionTrainingArguments, argv=argv
    )
    run = Path(args.output_dir)
    args.output_dir = str(run / runs.CHECKPOINTS)
    check_supported(model_args, args)
    if finished_run(run):
        return run
    use_all_cores()
    set_seed(args.seed)

    # ---- data and model
    train_rows, eval_rows = load_splits(data_args)
    if model_args.model is not None:
        model, processor = load_captioner(runs.resolve_model(model_args.model).path)
    else:
        captions = (caption for captions in train_rows["captions"] for caption in captions)
        model, processor = build_captioner(model_args, args, captions)
    if data_args.prompt is not None:
        processor.caption_prompt = data_args.prompt
    model = apply_strategy(model, model_args.strategy, model_args.lora_r, model_args.lora_alpha, model_args.lora_dropout)
    train_data, eval_data = caption_datasets(
        model, processor, (train_rows, eval_rows), data_args, model_args, args
    )
    collator = CaptionCollator(
        processor, caption_prompt(processor), packing=args.packing, max_caption_tokens=data_args.max_caption_tokens
    )
    if args.dry_run:
        print(describe_run(model, collator, train_data, args))
        return run

    # ---- train
    callbacks = []
    if args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
    trainer = CaptionTrainer(
        model=model,
        args=args,
        train_dataset=train_data,
        eval_dataset=eval_data,
        data_collator=collator,
        processing_class=processor,
        callbacks=callbacks,
    )
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(args.output_dir))

    # ---- keep and judge
    trainer.save_model(str(run / runs.MODEL))
    evaluation = evaluate_captioner(
        model, processor, eval_data, collator.prompt, args.per_device_eval_batch_size
    )
    write_evaluation(run, evaluation, eval_rows, title=run.name, artifact=runs.MODEL)
    return run


if __name__ == "__main__":
    run_main(main)
