"""Card metadata: the YAML header with `model-index`, and `.eval_results/*.yaml`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from hfcap.hub.card_claims import evaluated_data
from hfcap.hub.card_data import CardData
from hfcap.metrics import display_name, display_order, for_people
from hfcap.models.model_types import MODEL_TYPES
from hfcap.origins import hub_ids

HFCAP_TAG = "hfcap"
TAGS = ("image-captioning", HFCAP_TAG)
# The metadata that `card_metadata` writes itself; what else a card has is a person's.
WRITTEN = ("language", "license", "library_name", "pipeline_tag", "tags", "datasets", "base_model")
WRITTEN += ("base_model_relation", "model_name", "model-index")
LANGUAGES = {"ptb": "en", "zh": "zh"}  # of tokenizers of metrics; "ptb" is used for others too
EVAL_RESULTS = Path(".eval_results/image-captioning.yaml")


@dataclass(frozen=True)
class Given:
    """What only a person can say; kept when a card is written again (see `hfcap.hub.card.read_given`).

    Attributes:
        words: Markdown of one's own, shown below the title.
        license: licence id, as the Hub spells it.
        language: language code of the captions; by default that of the metrics' tokenizer, if it is for one language
            (English: if the captions look like it).
        datasets: Hub ids of the training data.
        base_model: Hub ids of the pretrained parts; by default those that the run was started from.
        tags: more tags.
        more: metadata that hfcap does not write itself, such as `license_name` and `license_link`.
    """

    words: str = ""
    license: str | None = None
    language: str | None = None
    datasets: tuple[str, ...] = ()
    base_model: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)


def card_metadata(
    given: Given, metrics: Mapping[str, Any], run: Mapping[str, Any], card_data: CardData
) -> ModelCardData:
    """Build the metadata, `model-index` included, as `huggingface_hub` checks it.

    Args:
        given: what a person says.
        metrics: the record of `metrics.json`.
        run: the record of `run.json`.
        card_data: what weights and captions say.
    """
    arguments = run["arguments"]
    strategy = arguments.get("strategy")
    bases = list(given.base_model) or ([card_data.base] if card_data.base else hub_ids(run))
    relation = {"base_model_relation": "adapter" if card_data.form == "adapter" else "finetune"} if bases else {}
    data = evaluated_data(metrics, run)
    data_name = data.name or "not recorded"
    return ModelCardData(
        language=given.language or _language(metrics.get("tokenizer", "ptb"), card_data),
        license=given.license,
        library_name=library_name(card_data),
        # A checkpoint without a prompt is no image-text-to-text model: there is no text to give it.
        pipeline_tag="image-text-to-text" if has_text(card_data) else "image-to-text",
        tags=list(dict.fromkeys([*TAGS, *([strategy] if strategy in ("lora", "qlora") else []), *given.tags])),
        datasets=list(given.datasets) or None,
        base_model=bases or None,
        model_name=card_data.name,
        eval_results=[
            EvalResult(
                task_type="image-to-text",
                task_name="Image captioning",
                dataset_type=given.datasets[0] if given.datasets and data.is_of_run else data_name,
                dataset_name=data_name,
                dataset_split=data.split,
                metric_type=key,
                metric_name=name,
                metric_value=value,
                metric_args={"ci95": interval, "num_images": metrics["num_images"]},
            )
            for key, name, value, interval in figures(metrics)
        ],
        **relation,
        **given.more,
    )


def _language(tokenizer: str, card_data: CardData) -> str | None:
    return None if tokenizer == "ptb" and not card_data.habits.english else LANGUAGES.get(tokenizer)


def eval_results(given: Given, metrics: Mapping[str, Any], run: Mapping[str, Any]) -> str | None:
    """The same figures in the format of https://huggingface.co/docs/hub/eval-results, or None.

    There they belong to a data set of the Hub: without one in `given.datasets`, or where another data set than the
    run's own was evaluated, there is nothing to write.
    """
    data = evaluated_data(metrics, run)
    if not given.datasets or not data.is_of_run:
        return None
    split, decoding = data.split, metrics["decoding"]
    settings = ", ".join(f"{key}={value}" for key, value in decoding.items()) or "decoding not recorded"
    entries = [
        {
            "dataset": {"id": given.datasets[0], "task_id": key},
            "value": value,
            "date": metrics.get("date", run["created"]),
            "notes": f"{name} x 100 of {metrics['num_images']} images, {split} split, 95 % interval {interval[0]} to "
            f"{interval[1]}; {settings}; tokenizer {metrics['tokenizer']}, idf from {metrics['idf']}",
        }
        for key, name, value, interval in figures(metrics)
    ]
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=1000)


def figures(metrics: Mapping[str, Any], decimals: int = 2) -> Iterator[tuple[str, str, float, list[float]]]:
    """Yield key, name, value and interval of each metric as people read it, rounded once."""
    for key in display_order(metrics["metrics"]):
        figure = metrics["metrics"][key]
        interval = [round(for_people(key, bound), decimals) for bound in figure["ci95"]]
        yield key, display_name(key), round(for_people(key, figure["value"]), decimals), interval


def library_name(card_data: CardData) -> str:
    """The library that loads the checkpoint, as the Hub spells it."""
    return {
        "adapter": "peft",
        "onnx": "transformers.js",
        "hfcap": "hfcap" if needs_hfcap(card_data) else "transformers",
    }.get(card_data.form, "transformers")


def needs_hfcap(card_data: CardData) -> bool:
    """Whether the weights load with `pip install "hfcap[train]"` only."""
    return card_data.form in ("hfcap", "adapter") and card_data.model_type.startswith("hfcap_")


def has_text(card_data: CardData) -> bool:
    """Whether a caption follows a text: a prompt, or what the type always writes around the picture."""
    known = MODEL_TYPES.get(card_data.model_type)
    return card_data.prompt is not None or (
        known is not None and (known.prompt == "chat" or known.image_token_in_text)
    )
