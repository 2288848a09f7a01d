"""QLoRA: the language model in 4 bits (NF4), LoRA on its linear layers, the projector in full precision.

    # the main job: a small base on the embedded `scenes`, then QLoRA from short captions to alt text
    accelerate launch recipes/train_qlora.py
    # from a stage-1 checkpoint on photos
    accelerate launch recipes/train_qlora.py --config configs/train/flickr8k_llava_qlora.yaml

Without `--config` and `--model` it runs `configs/train/scenes_qlora.yaml`. Where the YAML names a `base_config`, that
base is trained first by `recipes/train.py`, kept, and used again by the next run. The run folder gets `adapter/` (for
the 4-bit base) and `merged/` (onto the base in its original precision, evaluated as what it is). The same command
again resumes, or says what is there.
"""

import sys
from pathlib import Path

import train
from transformers import set_seed

from hfcap import runs
from hfcap.baselines import WithoutPicture, most_frequent_caption
from hfcap.distributed import whole_weights
from hfcap.errors import run_main
from hfcap.evaluation import Measured, evaluate_captioner, judge, results_table, show_captions, write_evaluation
from hfcap.generation.inputs import caption_prompt
from hfcap.hub.card import write_card
from hfcap.hub.publish import publish_if_asked
from hfcap.training.arguments import CaptionTrainingArguments, DataArguments, QLoraArguments
from hfcap.training.build import captioner_type, choose_kernels, load_captioner
from hfcap.training.callbacks import SampleCaptions
from hfcap.training.checkpoints import last_complete_checkpoint
from hfcap.training.collators import CaptionCollator, check_positions
from hfcap.training.compatibility import (
    check_model,
    check_settings,
    choose_packing,
)
from hfcap.training.dry_run import describe_run
from hfcap.training.finish import keep_throughput, save_merged
from hfcap.training.lengths import follow_references
from hfcap.training.metric_choice import metric_options
from hfcap.training.parsing import parse_arguments
from hfcap.training.preparation import (
    caption_datasets,
    run_callbacks,
    train_part_first,
    use_all_cores,
)
from hfcap.training.prompts import keep_trained_prompt
from hfcap.training.run_folder import print_next_command, run_lock, start_run
from hfcap.training.strategies import apply_strategy
from hfcap.training.throughput import evaluating
from hfcap.training.trainer import CaptionTrainer

ROOT = Path(__file__).parents[1]


def main(argv: list[str] | None = None) -> Path:
    """Adapt a base by QLoRA, merge, evaluate both; return the run folder."""
    argv = sys.argv[1:] if argv is None else argv
    names_model = any(argument.split("=")[0] == "--model" for argument in argv)
    parsed = parse_arguments(
        DataArguments,
        QLoraArguments,
        CaptionTrainingArguments,
        argv=argv,
        default_config=None if names_model else ROOT / "configs" / "train" / "scenes_qlora.yaml",
    )
    with run_lock(parsed[-1]):
        return adapt_base(*parsed)


def adapt_base(data_args: DataArguments, model_args: QLoraArguments, args: CaptionTrainingArguments) -> Path:
    """Do what the settings say; no other process writes to the run folder."""
    parsed = (data_args, model_args, args)
    run = Path(args.output_dir)
    args.output_dir = str(run / runs.CHECKPOINTS)
    check_model(model_args)
    use_all_cores()

    # ---- the base, and the rows it is adapted to
    if model_args.base_config is not None:
        check_settings(data_args, model_args, args, "hfcap_llava")
        base_argv = ["--config", str(ROOT / model_args.base_config), "--output_dir", model_args.model]
        train_part_first(train.main, base_argv, Path(model_args.model), args)
    base = runs.resolve_model(model_args.model).path
    check_settings(data_args, model_args, args, captioner_type(base))
    rows, is_finished = start_run(run, parsed)
    if is_finished:
        publish_if_asked(run, args)
        print_next_command(run)
        return run
    set_seed(args.seed)
    with whole_weights(args):
        model, processor = load_captioner(
            base, load_in_4bit=True, image_processor_config=model_args.image_processor_config
        )
    keep_trained_prompt(processor, rows, data_args.prompt)
    model = apply_strategy(model, "qlora", model_args.lora_r, model_args.lora_alpha, model_args.lora_dropout)
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

    # ---- train
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
    keep_throughput(run, trainer)
    merged = save_merged(run, trainer, base)

    # ---- judge: before, after, merged, and two captioners that do not look
    options = {"prompt": collator.prompt, "batch_size": args.per_device_eval_batch_size, **metric_options(args)}
    with evaluating(args):
        with model.disable_adapter():
            before = evaluate_captioner(model, processor, eval_data, **options, progress="base")
            before_loss = trainer.evaluation_loss(eval_data)
        adapted = evaluate_captioner(model, processor, eval_data, **options, progress="adapter")
        blind_data = WithoutPicture(eval_data)
        blind = evaluate_captioner(model, processor, blind_data, **options, progress="without the picture")
        constant = most_frequent_caption(caption for captions in rows[0]["captions"] for caption in captions)
        shipped = evaluate_captioner(merged, processor, eval_data, **options, progress="merged")
        results = {
            "most frequent caption": (None, judge([constant] * len(eval_data), rows[1], {}, **metric_options(args))),
            "LM without the picture": (trainer.evaluation_loss(blind_data), blind),
            "before (4-bit base)": (before_loss, before),
            "after (4-bit base + adapter)": (trainer.evaluation_loss(eval_data), adapted),
            "after (merged)": (None, shipped),
        }
    if trainer.is_world_process_zero():
        adapter_captions = [row["caption"] for row in adapted.rows]
        measured = Measured.in_run(run, runs.MERGED, collator.prompt)
        write_evaluation(run, shipped, rows[1], run.name, measured, before, caption_adapter=adapter_captions)
        print(results_table(results), show_captions(shipped), sep="\n\n")
        write_card(run)
        publish_if_asked(run, args)
        print_next_command(run)
    return run


if __name__ == "__main__":
    run_main(main)
