"""Model card of a tagger, written from `run.json` and `metrics.json`; what a person has added is kept."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from hfcap import runs
from hfcap.atomic_files import write_atomic, write_json
from hfcap.hub.card import WORDS_END, WORDS_START, card_environment, read_words
from hfcap.hub.card_data import as_typed, count_parameters
from hfcap.hub.card_metadata import HFCAP_TAG
from hfcap.json_files import read_object
from hfcap.origins import PARTS, hub_ids, part_name, public_record
from hfcap.training.tag_calibration import CALIBRATION_JSON

TAGS = ("content-moderation", "multi-label-classification", HFCAP_TAG)
# Metadata that is not a person's.
WRITTEN = ("library_name", "pipeline_tag", "base_model", "model_name", "model-index")
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
    folder: str | os.PathLike,
    to: Path | None = None,
    repo_id: str | None = None,
    revision: str = "main",
    **given: Any,
) -> Path:
    """Write a tagger run's `README.md` atomically; the same files give the same card.

    Args:
        folder: the run.
        to: another folder to write it to.
        repo_id: where the tagger loads from; by default the run's own folder.
        revision: branch of that repository.
        given: metadata that only a person can say, `license` and `datasets`; by default what the card there says.

    Raises:
        ValueError: a file that cannot be read as what it should be, or no weights.
        FileNotFoundError: a file of the run is not there.
    """
    folder = Path(folder)
    run, metrics = runs.read_run(folder / runs.RUN_JSON), read_object(folder / runs.METRICS_JSON)
    words, said = "", {}
    if (folder / runs.CARD_README).is_file():
        words, data = read_words(folder / runs.CARD_README)
        said = {key: value for key, value in data.to_dict().items() if key not in WRITTEN}
    licence = said.get("license")
    if given.get("license", licence) != licence:  # name and link are those of the other licence
        said = {key: value for key, value in said.items() if not key.startswith("license_")}
    text = render_tagger_card(
        (repo_id or folder.name).split("/")[-1],
        run,
        metrics,
        read_object(folder / runs.MODEL / "config.json"),
        read_object(folder / runs.MODEL / CALIBRATION_JSON),
        count_parameters(folder / runs.MODEL),
        words,
        repo_id or as_typed(folder / runs.MODEL),
        None if revision == "main" else revision,
        said | given,
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
    revision: str | None = None,
    given: Mapping[str, Any] | None = None,
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
        revision: branch of a Hub id; None for `main`.
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
            metadata=tagger_metadata(name, run, metrics, given or {}).to_yaml().strip(),
            weights=weights,
            revision=revision,
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


def tagger_metadata(
    name: str, run: Mapping[str, Any], metrics: Mapping[str, Any], given: Mapping[str, Any]
) -> ModelCardData:
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
        tags=list(dict.fromkeys([*TAGS, *(given.get("tags") or ())])),
        base_model=hub_ids(run) or None,
        model_name=name,
        eval_results=results,
        **{key: value for key, value in given.items() if key != "tags"},
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
