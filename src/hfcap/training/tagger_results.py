"""The steps of `recipes/train_tagger.py` after training: save, calibrate, measure, write the results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers.image_processing_utils import BaseImageProcessor

from hfcap import provenance, runs
from hfcap.atomic_files import write_json
from hfcap.content_hashes import captioner_hashes
from hfcap.metrics.ranking import over_tags, reliability, tag_figures
from hfcap.models.model_utils import full_precision
from hfcap.training.checkpoints import atomic_folder
from hfcap.training.tag_calibration import calibrate, sigmoid, write_calibration
from hfcap.training.tagger import LabeledImages, TaggerTrainer
from hfcap.training.tagger_steps import LabeledPart, TaggerRun

TAGGER_TASK = "image-classification"  # key `task` of a tagger's metrics.json


def save_tagger(
    run: TaggerRun,
    trainer: TaggerTrainer,
    image_processor: BaseImageProcessor,
    data: Mapping[str, LabeledImages],
    parts: Mapping[str, LabeledPart],
) -> dict[str, Any]:
    """Calibrate the trained classifier and save it as a stock one; all processes call it, the main one writes.

    The folder `model/` holds what `pipeline("image-classification")` reads, `calibration.json` and `policy.yaml`.

    Returns:
        The record of the calibration.
    """
    tags = list(trainer.model.config.id2label.values())
    held = parts["calibration"]
    logits = tag_logits(trainer, data["calibration"]) if len(held.rows) else np.zeros((0, len(tags)))
    record = calibrate(logits, held.labels, tags)
    folder = run.folder / runs.MODEL
    with atomic_folder(folder, Path(trainer.args.output_dir)):
        trainer.save_model(str(folder))
        if trainer.is_world_process_zero():
            image_processor.save_pretrained(folder)
            write_calibration(folder, record)
            (folder / runs.POLICY_YAML).write_bytes((run.folder / runs.POLICY_YAML).read_bytes())
    trainer.accelerator.wait_for_everyone()
    return record


def tag_logits(trainer: TaggerTrainer, data: LabeledImages) -> np.ndarray:
    """Return the logits (N, T) of a data set in the precision that the model is saved in; all processes call it."""
    trainer.model.eval()
    with full_precision(trainer.model):
        return trainer.predict(data).predictions


def finish_tagger_run(
    run: TaggerRun,
    trainer: TaggerTrainer,
    data: Mapping[str, LabeledImages],
    parts: Mapping[str, LabeledPart],
    calibration: Mapping[str, Any],
    policy: Mapping[str, Any],
) -> dict[str, Any] | None:
    """Measure the tagger on the evaluation split and write `metrics.json`; all processes call it, the main one writes.

    Returns:
        What `metrics.json` holds; None in other processes than the main one.
    """
    tags = list(trainer.model.config.id2label.values())
    logits, labels = tag_logits(trainer, data["evaluation"]), parts["evaluation"].labels
    if not trainer.is_world_process_zero():
        return None
    judged = [column for column, truth in enumerate(labels.T) if {0, 1} <= set(truth.tolist())]
    probabilities = sigmoid(logits / np.array([calibration["temperature"][tag] for tag in tags]))

    def error(values: np.ndarray, truth: np.ndarray) -> float:
        return reliability(values, truth)[0]

    record = {
        "schema_version": runs.SCHEMA_VERSION,
        "task": TAGGER_TASK,
        "metrics": tag_figures(logits, labels, tags),
        "calibration_error": {
            "before": over_tags(error, sigmoid(logits)[:, judged], labels[:, judged]),
            "after": over_tags(error, probabilities[:, judged], labels[:, judged]),
        },
        "tags": runs.read_run(run.folder / runs.RUN_JSON)["labels"]["evaluation"]["tags"],
        "num_images": len(labels),
        "policy": dict(policy),
        "data": {"name": runs.data_name(run.data.data), "split": run.data.eval_split},
        "model_artifact": runs.MODEL,
        **captioner_hashes(run.folder / runs.MODEL),
    }
    write_json(run.folder / runs.METRICS_JSON, record)
    return record


def close_tagger_run(run: TaggerRun, record: Mapping[str, Any]) -> None:
    """Say in `run.json`, last of all, that the run is done."""
    scores = {key: figure["value"] for key, figure in record["metrics"].items()}
    earlier = runs.read_run(run.folder / runs.RUN_JSON)
    write_json(run.folder / runs.RUN_JSON, earlier | {"scores": provenance.to_json(scores)})


def figures_table(record: Mapping[str, Any]) -> str:
    """Average precision of each tag beside chance, one per line."""
    metrics = record["metrics"]

    def shown(key: str) -> str:
        low, high = metrics[key]["ci95"]
        return f"{metrics[key]['value']:.3f} ({low:.3f} to {high:.3f})"

    lines = [f"{'tag':<20} {'average precision (95 %)':<28} {'chance':<8} pictures with it"]
    for tag, counts in record["tags"].items():
        if f"average_precision_{tag}" in metrics:
            chance = metrics[f"prevalence_{tag}"]["value"]
            lines.append(f"{tag:<20} {shown(f'average_precision_{tag}'):<28} {chance:<8.3f} {counts['with']}")
        else:
            lines.append(f"{tag:<20} not measured")
    return "\n".join([*lines, f"{'mean':<20} {shown('map')}"])


def measured_tags(record: Mapping[str, Any]) -> Sequence[str]:
    """Names of the tags that have figures."""
    return [tag for tag in record["tags"] if f"average_precision_{tag}" in record["metrics"]]
