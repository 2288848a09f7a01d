"""What a recipe does after the last step: the model in its place, judged, with figures, report and card beside it."""

from pathlib import Path

import datasets
from peft import PeftModel
from transformers import PreTrainedModel

from hfcap import runs
from hfcap.distributed import whole_weights
from hfcap.evaluation import (
    Evaluation,
    Measured,
    evaluate_captioner,
    results_table,
    show_captions,
    write_evaluation,
)
from hfcap.files import write_json
from hfcap.hub.card import write_card
from hfcap.hub.publish import publish_if_asked
from hfcap.models.vision_features import take_features
from hfcap.training.build import load_captioner
from hfcap.training.checkpoints import whole_or_removed
from hfcap.training.merge import merge_adapter
from hfcap.training.metric_choice import metric_options
from hfcap.training.run_folder import print_next_command
from hfcap.training.throughput import evaluating
from hfcap.training.trainer import CaptionTrainer


def evaluate_trained(
    trainer: CaptionTrainer, progress: str = "captioning", merged: PreTrainedModel | None = None
) -> tuple[float, Evaluation]:
    """Loss in nats a token and captions of the whole evaluation split, by the model as it is now.

    The captions are those of `merged`, where it is given.
    """
    data = trainer.eval_dataset
    with evaluating(trainer.args):
        evaluation = evaluate_captioner(
            trainer.accelerator.unwrap_model(trainer.model) if merged is None else merged,
            trainer.processing_class,
            data,
            trainer.data_collator.prompt,
            trainer.args.per_device_eval_batch_size,
            progress,
            **metric_options(trainer.args),
        )
        return trainer.evaluation_loss(data), evaluation


def keep_throughput(run: Path, trainer: CaptionTrainer) -> None:
    """Add to `run.json` how fast the training was (its last part, where it was resumed)."""
    if trainer.is_world_process_zero():
        write_json(run / runs.RUN, runs.read_run(run / runs.RUN) | {"throughput": trainer.throughput_summary})


def save_merged(run: Path, trainer: CaptionTrainer, base: str) -> PreTrainedModel:
    """Save the adapter, and what comes of it merged onto its base in original precision; return that.

    All processes call it; the main one writes.

    Args:
        run: the run folder.
        trainer: after training a `PeftModel`.
        base: folder or Hub id of the base.
    """
    checkpoints = Path(trainer.args.output_dir)
    with whole_or_removed(run / runs.ADAPTER, checkpoints):
        trainer.save_model(str(run / runs.ADAPTER))
    with whole_weights(trainer.args):
        if trainer.is_world_process_zero():
            with whole_or_removed(run / runs.MERGED, checkpoints):
                merge_adapter(base, run / runs.ADAPTER, run / runs.MERGED)
        trainer.accelerator.wait_for_everyone()
        merged = load_captioner(str(run / runs.MERGED))[0].to(trainer.args.device)
    if trainer.eval_dataset.features is not None:
        take_features(merged)
    return merged


def finish_run(
    run: Path,
    trainer: CaptionTrainer,
    rows: datasets.Dataset,
    base: str | None,
    before: tuple[float, Evaluation] | None = None,
) -> None:
    """Save the model, judge it, leave captions, figures, report and card in the run folder; publish it if asked.

    LoRA leaves `adapter/`, and `merged/`, which is judged. All processes call it and caption; the main one writes.

    Args:
        run: the run folder.
        trainer: after training.
        rows: the evaluation split with its pictures, in the order of `trainer.eval_dataset`.
        base: what an adapter was trained on.
        before: what `evaluate_trained` gave before training, to be shown beside.
    """
    keep_throughput(run, trainer)
    if isinstance(trainer.model, PeftModel):
        artifact, merged = runs.MERGED, save_merged(run, trainer, base)
    else:
        artifact, merged = runs.MODEL, None
        with whole_or_removed(run / runs.MODEL, Path(trainer.args.output_dir)):
            trainer.save_model(str(run / runs.MODEL))
    loss, evaluation = evaluate_trained(trainer, merged=merged)
    if not trainer.is_world_process_zero():
        return
    results = {} if before is None else {"before": before}
    measured = Measured.in_run(run, artifact, trainer.data_collator.prompt)
    write_evaluation(run, evaluation, rows, run.name, measured, None if before is None else before[1])
    print(results_table({**results, run.name: (loss, evaluation)}), show_captions(evaluation), sep="\n\n")
    write_card(run)
    publish_if_asked(run, trainer.args)
    print_next_command(run)
