r"""CIDEr-optimised (self-critical) training of a captioner of either family, from a cross-entropy checkpoint.

    accelerate launch recipes/train_scst.py --config configs/train/flickr8k_scst.yaml --data FOLDER
    # any run folder or model of `recipes/train.py`
    accelerate launch recipes/train_scst.py --model outputs/scenes-base --data scenes --scenes_image_size 64 \
        --output_dir outputs/scenes-scst

Each step samples `num_samples` captions an image, scores them by CIDEr-D against the image's references, and raises
the probability of those that are better than the image's other samples (`hfcap.training.scst`). Start from a captioner
that works: samples of a bad one are all worth nothing. The reward knows the training references only; CIDEr on the
evaluation split, before and after, says what it was worth. The same command again resumes, or says that the run is
done. Defaults that differ from the HF Trainer's are listed at `hfcap.training.scst.ScstArguments`.
"""

from pathlib import Path

from transformers import set_seed

from hfcap import runs
from hfcap.errors import run_main
from hfcap.generation.inputs import caption_prompt
from hfcap.hub.publish import publish_if_asked
from hfcap.training.arguments import DataArguments, ModelArguments
from hfcap.training.build import captioner_type, choose_kernels, load_captioner, set_decoding
from hfcap.training.callbacks import SampleCaptions
from hfcap.training.checkpoints import last_complete_checkpoint
from hfcap.training.collators import CaptionCollator, check_positions
from hfcap.training.compatibility import (
    check_model,
    check_parts,
    check_settings,
    choose_packing,
)
from hfcap.training.dry_run import describe_run
from hfcap.training.finish import evaluate_trained, finish_run
from hfcap.training.parsing import parse_arguments
from hfcap.training.preparation import (
    caption_datasets,
    run_callbacks,
    use_all_cores,
)
from hfcap.training.prompts import keep_trained_prompt
from hfcap.training.run_folder import run_lock, start_run
from hfcap.training.scst import ScstArguments, ScstTrainer, caption_reward, check_scst
from hfcap.training.strategies import apply_strategy


def main(argv: list[str] | None = None) -> Path:
    """Optimise the CIDEr-D of one captioner; return the run folder."""
    parsed = parse_arguments(DataArguments, ModelArguments, ScstArguments, argv=argv)
    with run_lock(parsed[-1]):
        return optimise_captioner(*parsed)


def optimise_captioner(data_args: DataArguments, model_args: ModelArguments, args: ScstArguments) -> Path:
    """Do what the settings say; no other process writes to the run folder."""
    parsed = (data_args, model_args, args)
    run = Path(args.output_dir)
    args.output_dir = str(run / runs.CHECKPOINTS)
    check_model(model_args)
    check_parts(model_args)
    base = runs.resolve_model(model_args.model).path
    check_settings(data_args, model_args, args, captioner_type(base))
    check_scst(data_args, args)
    use_all_cores()

    # ---- rows, model, reward
    rows, is_finished = start_run(run, parsed)
    if is_finished:
        publish_if_asked(run, args)
        return run
    reward = caption_reward(dict(zip(rows[0]["image_id"], rows[0]["captions"], strict=True)), args.tokenizer)
    set_seed(args.seed)
    model, processor = load_captioner(base, image_processor_config=model_args.image_processor_config)
    set_decoding(model, args)
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
    check_positions(model, collator)
    if args.dry_run:
        print(describe_run(model, collator, train_data, args))
        print("A step samples its captions first: that takes longer than the step above, which learns from references")
        return run

    # ---- train and judge
    trainer = ScstTrainer(
        model=model,
        args=args,
        train_dataset=train_data,
        eval_dataset=eval_data,
        data_collator=collator,
        processing_class=processor,
        callbacks=run_callbacks(args),
        reward=reward,
    )
    trainer.add_callback(SampleCaptions(trainer))
    before = evaluate_trained(trainer, "before")
    trainer.train(resume_from_checkpoint=last_complete_checkpoint(args.output_dir))
    finish_run(run, trainer, rows[1], base, before)
    return run


if __name__ == "__main__":
    run_main(main)
