"""Train a captioner: any family, from scratch, with a frozen encoder, in stages, whole, or with LoRA.

    # the embedded data set, a small LLaVA-style captioner from scratch
    accelerate launch recipes/train.py --config configs/train/scenes_base.yaml
    # a frozen CNN and a decoder from scratch on photos (edit the paths, or give --data, --encoder)
    accelerate launch recipes/train.py --config configs/train/flickr8k_encoder_decoder.yaml
    # LLaVA-style in stages: the projector first, then projector and language model
    accelerate launch recipes/train.py --config configs/train/flickr8k_llava_stage1.yaml
    accelerate launch recipes/train.py --config configs/train/flickr8k_llava_full.yaml
    # a native captioner from the Hub (docs/models.md lists the types)
    accelerate launch recipes/train.py --config configs/train/flickr30k_blip_base_full.yaml

Every key of the YAML file is an option as well, and the command line wins. `--dry_run` shows a batch, the trainable
parameters and an estimate without training. The same command again resumes from the last checkpoint, or says that the
run is done. Defaults that differ from the HF Trainer's are listed at
`hfcap.training.arguments.CaptionTrainingArguments`.
"""

from pathlib import Path

import train_encoder
from transformers import set_seed

from hfcap import runs
from hfcap.distributed import whole_weights
from hfcap.errors import run_main
from hfcap.generation.inputs import caption_prompt
from hfcap.hub.publish import publish_if_asked
from hfcap.training.arguments import CaptionTrainingArguments, DataArguments, ModelArguments
from hfcap.training.build import build_captioner, captioner_type, choose_kernels, load_captioner, set_decoding
from hfcap.training.callbacks import SampleCaptions
from hfcap.training.checkpoints import last_complete_checkpoint
from hfcap.training.collators import CaptionCollator, check_positions
from hfcap.training.compatibility import (
    check_parts,
    check_settings,
    choose_packing,
)
from hfcap.training.dry_run import describe_run
from hfcap.training.finish import finish_run
from hfcap.training.lengths import follow_references
from hfcap.training.parsing import parse_arguments
from hfcap.training.preparation import (
    caption_datasets,
    run_callbacks,
    tokenizer_texts,
    train_part_first,
    use_all_cores,
)
from hfcap.training.prompts import keep_trained_prompt
from hfcap.training.run_folder import keep_part_hashes, run_lock, start_run
from hfcap.training.strategies import apply_strategy
from hfcap.training.trainer import CaptionTrainer

ROOT = Path(__file__).parents[1]


def main(argv: list[str] | None = None) -> Path:
    """Train and evaluate one captioner; return its run folder."""
    parsed = parse_arguments(DataArguments, ModelArguments, CaptionTrainingArguments, argv=argv)
    with run_lock(parsed[-1]):
        return train_captioner(*parsed)


def train_captioner(data_args: DataArguments, model_args: ModelArguments, args: CaptionTrainingArguments) -> Path:
    """Do what the settings say; no other process writes to the run folder."""
    parsed = (data_args, model_args, args)
    run = Path(args.output_dir)
    args.output_dir = str(run / runs.CHECKPOINTS)
    check_parts(model_args)
    base = None if model_args.model is None else runs.resolve_model(model_args.model).path
    model_type = f"hfcap_{model_args.family}" if base is None else captioner_type(base)
    check_settings(data_args, model_args, args, model_type)
    use_all_cores()

    # ---- rows, model, processor
    rows, is_finished = start_run(run, parsed)
    if is_finished:
        publish_if_asked(run, args)
        return run
    if model_args.encoder_training is not None:
        config = str(ROOT / model_args.encoder_training)
        train_part_first(train_encoder.main, ["--config", config], Path(model_args.encoder), args)
        keep_part_hashes(run, parsed)
    set_seed(args.seed)
    with whole_weights(args):
        if base is not None:
            model, processor = load_captioner(base, image_processor_config=model_args.image_processor_config)
            set_decoding(model, args)
        else:
            model, processor = build_captioner(model_args, args, tokenizer_texts(data_args, rows[0]))
    keep_trained_prompt(processor, rows, data_args.prompt)
    model = apply_strategy(
        model, model_args.strategy, model_args.lora_r, model_args.lora_alpha, model_args.lora_dropout
    )
    train_data, eval_data = caption_datasets(model, processor, rows, data_args, model_args, args)
    packing = choose_packing(args.packing, model.config)
    choose_kernels(model, model_args)
    collator = CaptionCollator(
        processor,
        model.config,
        caption_prompt(processor),
        packing,
        data_args.max_caption_tokens,
        args.pad_to_multiple_of,
    )
    follow_references(model, collator, train_data, args)
    check_positions(model, collator)
    if args.dry_run:
        print(describe_run(model, collator, train_data, args))
        return run

    # ---- train and judge
    trainer = CaptionTrainer(
        model=model,
        args=args,
        train_dataset=train_data,
        eval_dataset=eval_data,
        data_collator=collator,
        processing_class=processor,
        callbacks=run_callbacks(args),
    )
    trainer.add_callback(SampleCaptions(trainer))
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(args.output_dir))
    finish_run(run, trainer, rows[1], base)
    return run


if __name__ == "__main__":
    run_main(main)
