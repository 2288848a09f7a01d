"""Model card of a tagger, written from `run.json` and `metrics.json`; a person's own words are kept."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from hfcap import runs
from hfcap.atomic_files import write_atomic, write_json
from hfcap.hub.card import WORDS_END, WORDS_START, card_environment
from hfcap.hub.card_data import as_typed, count_parameters
from hfcap.hub.card_metadata import HFCAP_TAG
from hfcap.json_files import read_object
from hfcap.origins import PARTS, hub_ids, part_name, public_record
from hfcap.training.tag_calibration import CALIBRATION_JSON

# Settings that decide a training: their name in `run.json`, and what the card calls them.
PROCEDURE = {
    "strategy": "strategy",
    "model": "encoder of the captioner",
    "encoder": "encoder",
    "tag_loss": "loss",
    "learning_rate": "learning rate",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "images per device and step",
    "weight_decay": "weight decay",
    "calibration_share": "share kept for calibration",
    "seed": "seed",
}


def write_tagger_card(
    folder: str | os.PathLike, to: Path | None = None, repo_id: str | None = None, **given: Any
) -> Path:
    """Write a tagger run's `README.md` atomically; the same files give the same card.

    Args:
        folder: the run.
        to: another folder to write it to.
        repo_id: where the tagger loads from; by default the run's own folder.
        given: metadata that only a person can say, `license` and `datasets`.

    Raises:
        ValueError: a file that cannot be read as what it should be, or no weights.
        FileNotFoundError: a file of the run is not there.
    """
    folder = Path(folder)
    run, metrics = runs.read_run(folder / runs.RUN_JSON), read_object(folder / runs.METRICS_JSON)
    text = render_tagger_card(
        (repo_id or folder.name).split("/")[-1],
        run,
        metrics,
        read_object(folder / runs.MODEL / "config.json"),
        read_object(folder / runs.MODEL / CALIBRATION_JSON),
        count_parameters(folder / runs.MODEL),
        _own_words(folder / runs.CARD_README),
        repo_id or as_typed(folder / runs.MODEL),
        **given,
    )
    return write_atomic((to or folder) / runs.CARD_README, text)


def render_tagger_card(
    name: str,
    run: Mapping[str, Any],
    metrics: Mapping[str, Any],
    config: Mapping[str, Any],
    calibration: Mapping[str, Any],
    num_parameters: int,
    words: str = "",
    weights: str = "",
    **given: Any,
) -> str:
    """Fill the template: YAML metadata with `model-index` for the Hub, then Markdown.

    Args:
        name: of the tagger.
        run: the record of `run.json`.
        metrics: that of `metrics.json`.
        config: that of the model.
        calibration: that of `calibration.json`.
        num_parameters: values in the weight files.
        words: Markdown of a person's own.
        weights: what the usage example loads: a folder or a Hub id.
        given: metadata that only a person can say.
    """
    arguments = run["arguments"]
    procedure = [
        (text, part_name(run, key) if key in PARTS else arguments[key])
        for key, text in PROCEDURE.items()
        if arguments.get(key) is not None
    ]
    return (
        card_environment()
        .get_template("tagger_card.md.jinja")
        .render(
            metadata=tagger_metadata(name, run, metrics, **given).to_yaml().strip(),
            weights=weights,
            name=name,
            words=words,
            words_start=WORDS_START,
            words_end=WORDS_END,
            run=run,
            metrics=metrics,
            architecture=config["architectures"][0],
            calibration=calibration,
            num_parameters=num_parameters,
            procedure=procedure,
            data=runs.data_name(arguments.get("data", "unknown")),
        )
    )


def tagger_metadata(name: str, run: Mapping[str, Any], metrics: Mapping[str, Any], **given: Any) -> ModelCardData:
    """Build the metadata, `model-index` included, as `huggingface_hub` checks it."""
    data = metrics["data"]
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Multi-label image classification",
            dataset_type=data["name"],
            dataset_name=data["name"],
            dataset_split=data["split"],
            metric_type="average_precision",
            metric_name="mean average precision" if key == "map" else key.replace("_", " "),
            metric_value=round(figure["value"], 4),
            metric_args={"ci95": [round(b, 4) for b in figure["ci95"]], "num_images": metrics["num_images"]},
        )
        for key, figure in metrics["metrics"].items()
        if not key.startswith("prevalence_")
    ]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["content-moderation", "multi-label-classification", HFCAP_TAG],
        base_model=hub_ids(run) or None,
        model_name=name,
        eval_results=results,
        **given,
    )


def copy_tagger_records(run: Path, folder: Path) -> None:
    """Copy card, figures and settings into an export; what only this machine knows stays behind.

    A run that was stopped before its card was written gets one here.
    """
    if not (run / runs.METRICS_JSON).is_file():
        return
    write_atomic(folder / runs.METRICS_JSON, (run / runs.METRICS_JSON).read_bytes())
    write_json(folder / runs.RUN_JSON, public_record(runs.read_run(run / runs.RUN_JSON)))
    if (run / runs.CARD_README).is_file():
        write_atomic(folder / runs.CARD_README, (run / runs.CARD_README).read_bytes())
    else:
        write_tagger_card(run, folder)


def _own_words(card: Path) -> str:
    if not card.is_file():
        return ""
    found = re.search(
        f"{re.escape(WORDS_START)}\n(.*?){re.escape(WORDS_END)}", card.read_text(encoding="utf-8"), re.DOTALL
    )
    if found is None:
        raise ValueError(f"{card} has no {WORDS_START!r}: move what is yours out of it, and remove it")
    return found[1].strip("\n")
