"""The steps that recipes share after training: save the captioner, evaluate it, write the results."""

from collections.abc import Mapping
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel

from hfcap import runs
from hfcap.atomic_files import write_json
from hfcap.baselines import WithoutPicture
from hfcap.data.caption_dataset import CaptionDataset
from hfcap.distributed import whole_weights
from hfcap.evaluation import (
    Evaluation,
    Measured,
    evaluate_captioner,
    results_table,
    show_captions,
    write_evaluation,
)
from hfcap.generation.loading import load_captioner
from hfcap.hub.card import write_card
from hfcap.hub.publish import publish_if_asked
from hfcap.models.vision_features import accept_cached_features
from hfcap.training.checkpoints import atomic_folder
from hfcap.training.merge import merge_adapter
from hfcap.training.metric_choice import metric_options
from hfcap.training.run_folder import print_next_command
from hfcap.training.steps import Run
from hfcap.training.throughput import evaluating
from hfcap.training.trainer import CaptionTrainer

Result = tuple[float | None, Evaluation]  # loss in nats per token, None where it is not measured; captions and metrics


def save_captioner(run: Run, trainer: CaptionTrainer) -> PreTrainedModel:
    """Save what was trained, and return the captioner that ships: the one of the trainer, or with LoRA the merged one.

    LoRA leaves `adapter/`, and `merged/`, what it gives merged onto its base in original precision. All processes call
    it; the main one writes.
    """
    folder, checkpoints = run.folder, Path(trainer.args.output_dir)
    if not isinstance(trainer.model, PeftModel):
        with atomic_folder(folder / runs.MODEL, checkpoints):
            trainer.save_model(str(folder / runs.MODEL))
        return trainer.accelerator.unwrap_model(trainer.model)
    with atomic_folder(folder / runs.ADAPTER, checkpoints):
        trainer.save_model(str(folder / runs.ADAPTER))
    with whole_weights(trainer.args):
        if trainer.is_world_process_zero():
            with atomic_folder(folder / runs.MERGED, checkpoints):
                merge_adapter(run.base, folder / runs.ADAPTER, folder / runs.MERGED)
        trainer.accelerator.wait_for_everyone()
        merged = load_captioner(str(folder / runs.MERGED))[0].to(trainer.args.device)
    if trainer.eval_dataset.features is not None:
        accept_cached_features(merged)
    return merged


def evaluate_trained(
    trainer: CaptionTrainer,
    progress: str = "captioning",
    data: CaptionDataset | WithoutPicture | None = None,
    captioner: PreTrainedModel | None = None,
) -> Result:
    """Loss and captions of the evaluation split, by the captioner as it is now; all processes call it.

    Args:
        trainer: its settings, processor and prompt are used.
        progress: label of the progress bar.
        data: other rows than `trainer.eval_dataset`.
        captioner: writes the captions in place of the trainer's model; where that is in 4 bits there is no loss then,
            as it would be of another model.
    """
    data = trainer.eval_dataset if data is None else data
    model = trainer.accelerator.unwrap_model(trainer.model)
    captioner = model if captioner is None else captioner
    with evaluating(trainer.args):
        evaluation = evaluate_captioner(
            captioner,
            trainer.processing_class,
            data,
            trainer.data_collator.prompt,
            trainer.args.per_device_eval_batch_size,
            progress,
            **metric_options(trainer.args),
        )
        has_loss = captioner is model or not getattr(model, "is_quantized", False)
        return (trainer.evaluation_loss(data) if has_loss else None), evaluation


def finish_run(
    run: Run,
    trainer: CaptionTrainer,
    shipped: PreTrainedModel,
    compared: Mapping[str, Result] | None = None,
    before: str | None = None,
    **columns: list[str],
) -> None:
    """Evaluate what ships, write captions, metrics, report and card, and publish the run if asked.

    All processes call it and caption; the main one writes.

    Args:
        run: the run.
        trainer: after training.
        shipped: of `save_captioner`.
        compared: results of other captioners on the evaluation split, for the printed table.
        before: the one of `compared` whose captions the report shows beside the new ones.
        columns: further captions of the same images, kept in `captions.jsonl` under these names.
    """
    folder, compared = run.folder, compared or {}
    artifact = runs.MERGED if isinstance(trainer.model, PeftModel) else runs.MODEL
    result = evaluate_trained(trainer, artifact, captioner=shipped)
    if not trainer.is_world_process_zero():
        return
    record = runs.read_run(folder / runs.RUN_JSON) | {"throughput": trainer.throughput_summary}
    write_json(folder / runs.RUN_JSON, record)
    earlier = None if before is None else compared[before][1]
    measured = Measured.in_run(folder, artifact, trainer.data_collator.prompt)
    write_evaluation(folder, result[1], run.rows[1], folder.name, measured, earlier, **columns)
    name = "after (merged)" if artifact == runs.MERGED else folder.name
    print(results_table({**compared, name: result}), show_captions(result[1]), sep="\n\n")
    write_card(folder)
    publish_if_asked(folder, trainer.args, run.publish_to)
    print_next_command(folder)
