"""What a recipe does after the last step: the model in its place, judged, with figures, report and card beside it."""

from pathlib import Path

import datasets

from hfcap import runs
from hfcap.evaluation import Evaluation, evaluate_captioner, results_table, show_captions, write_evaluation
from hfcap.files import write_json
from hfcap.hub.card import write_card
from hfcap.hub.publish import publish_if_asked
from hfcap.training.preparation import print_next_command
from hfcap.training.throughput import evaluating
from hfcap.training.trainer import CaptionTrainer


def evaluate_trained(trainer: CaptionTrainer, progress: str = "captioning") -> tuple[float, Evaluation]:
    """Loss in nats a token and captions of the whole evaluation split, by the model as it is now."""
    data = trainer.eval_dataset
    with evaluating(trainer.args):
        evaluation = evaluate_captioner(
            trainer.accelerator.unwrap_model(trainer.model),
            trainer.processing_class,
            data,
            trainer.data_collator.prompt,
            trainer.args.per_device_eval_batch_size,
            progress,
        )
        return trainer.evaluation_loss(data), evaluation


def keep_throughput(run: Path, trainer: CaptionTrainer) -> None:
    """Add to `run.json` how fast the training was (its last part, where it was resumed)."""
    if trainer.is_world_process_zero():
        write_json(run / runs.RUN, runs.read_run(run / runs.RUN) | {"throughput": trainer.throughput_summary})


def finish_run(
    run: Path, trainer: CaptionTrainer, rows: datasets.Dataset, before: tuple[float, Evaluation] | None = None
) -> None:
    """Save the model, judge it, leave captions, figures, report and card in the run folder; publish it if asked.

    All processes call it and caption; the main one writes.

    Args:
        run: the run folder.
        trainer: after training.
        rows: the evaluation split with its pictures, in the order of `trainer.eval_dataset`.
        before: what `evaluate_trained` gave before training, to be shown beside.
    """
    trainer.save_model(str(run / runs.MODEL))
    keep_throughput(run, trainer)
    loss, evaluation = evaluate_trained(trainer)
    if not trainer.is_world_process_zero():
        return
    results = {} if before is None else {"before": before}
    write_evaluation(run, evaluation, rows, run.name, runs.MODEL, None if before is None else before[1])
    print(results_table({**results, run.name: (loss, evaluation)}), show_captions(evaluation), sep="\n\n")
    write_card(run)
    publish_if_asked(run, trainer.args)
    print_next_command(run)
