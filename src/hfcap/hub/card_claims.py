"""Consistency of a run's records: what a card may state of data, captions and weights.

`metrics.json` says by hash what its figures are of. One of an earlier hfcap has no hashes: then the run's settings are
taken for what was evaluated where the number of images agrees, and the card says that no hashes were kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hfcap import runs
from hfcap.hub.card_data import CardData

NOT_JUDGED = "which these figures do not judge"


@dataclass(frozen=True)
class EvaluatedData:
    """The data that the figures of `metrics.json` were measured on.

    Attributes:
        name: of the data set, on `scenes` with the style of its captions; None if unknown.
        split: its split; None where it has none, or unknown.
        is_of_run: whether the run was trained on the same data set (on its training split).
        is_recorded: whether `metrics.json` says so itself, with a hash.
    """

    name: str | None
    split: str | None
    is_of_run: bool
    is_recorded: bool

    def __str__(self) -> str:
        if self.name is None:
            return "Data that were not recorded"
        return f"All of {self.name}" if self.split is None else f"Split “{self.split}” of {self.name}"


def evaluated_data(metrics: Mapping[str, Any], run: Mapping[str, Any]) -> EvaluatedData:
    """Find the data that was evaluated.

    Args:
        metrics: the record of `metrics.json`.
        run: the record of `run.json`.
    """
    arguments, own = run["arguments"], run["data"].get("eval", {})
    name, split = runs.data_name(arguments.get("data", "unknown")), arguments.get("eval_split")
    data = metrics.get("data")
    if data is None:
        is_likely = metrics["num_images"] + metrics.get("num_missing", 0) == own.get("num_images")
        return EvaluatedData(name if is_likely else None, split if is_likely else None, is_likely, False)
    # Another split has another hash, so of it the name alone can say whether it is of the same data set.
    is_of_run = data["name"] == name and (data["split"] != split or data["sha256"] == own.get("sha256"))
    shown = f"{data['name']} ({data['style']})" if "style" in data else data["name"]
    return EvaluatedData(shown, data["split"], is_of_run, True)


def captions_match(metrics: Mapping[str, Any], card_data: CardData) -> bool:
    """Whether sample captions and failures are of the captions that the figures rest on."""
    if "captions_hash" in metrics:
        return metrics["captions_hash"] == card_data.captions_hash
    return metrics["num_images"] == card_data.habits.num_captions


def describe_weights(metrics: Mapping[str, Any], card_data: CardData) -> str:
    """Say which weights the figures were measured with, beside those that the card is of."""
    measured, here = metrics["model_artifact"], card_data.artifact
    weights, in_4bit = metrics.get("weights_hash"), metrics.get("load_in_4bit")
    if measured is None or ("weights_hash" in metrics and weights is None):
        return "Which weights wrote the captions is not recorded."
    if measured == here and weights not in (None, card_data.weights_hash):
        return (
            f"Measured with other weights than those here (SHA-256 `{weights[:12]}`, here "
            f"`{(card_data.weights_hash or 'unknown')[:12]}`), {NOT_JUDGED}."
        )
    if measured == here and metrics.get("settings_hash") not in (None, card_data.settings_hash):
        return (
            "Measured with these weights under another configuration, processor or tokenizer than the ones here, "
            f"{NOT_JUDGED}."
        )
    if measured == here:
        return _of_these_weights(card_data, bool(in_4bit))
    if measured == runs.ADAPTER:
        base = "its base" if in_4bit is False else "its 4-bit base" if in_4bit else "its base (perhaps in 4 bits)"
        return (
            f"Measured with the adapter on {base}. The weights here are a merge onto the base in its original "
            f"precision: another model, {NOT_JUDGED}."
        )
    return f"Measured with another form of these weights (`{measured}`; here: `{here}`), {NOT_JUDGED}."


def describe_prompt(metrics: Mapping[str, Any], card_data: CardData) -> str | None:
    """The prompt that the figures were measured with, where it is not the one that the captioner has."""
    if "prompt" not in metrics or metrics["prompt"] == card_data.prompt:
        return None
    return metrics["prompt"] or "(none)"


def _of_these_weights(card_data: CardData, in_4bit: bool) -> str:
    form = (
        ": a merge of the adapter onto the base in its original precision" if card_data.artifact == runs.MERGED else ""
    )
    change = card_data.dtype_change
    if in_4bit:
        return (
            "Measured with the weights here while the language model was in 4 bits (NF4). In the precision that they "
            f"load in they are another model, {NOT_JUDGED}."
        )
    if change is None:
        return f"Measured with the weights here{form}."
    return (
        f"Measured with these weights in {change['before']}{form}. Here they are in {change['after']}, {NOT_JUDGED}: "
        f"on {change['num_images']} pictures CIDEr × 100 was {100 * change['cider_before']:.1f} before and "
        f"{100 * change['cider_after']:.1f} after that change."
    )
