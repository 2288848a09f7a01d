"""`hfcap card check`: comparison of a card with the records of its run."""

import difflib
from pathlib import Path

from huggingface_hub import ModelCard

from hfcap import runs
from hfcap.counts import counted
from hfcap.hub.card import read_given, refuse_tagger, render_card
from hfcap.hub.card_claims import captions_match
from hfcap.hub.card_data import CARD_JSON, read_card_data
from hfcap.hub.card_metadata import figures

SHOWN = 5
WANTED = {
    "license": "without a licence nobody may use the weights: set `license` in the card's metadata",
    "datasets": "the Hub id of the training data: set `datasets` in the card's metadata",
}


def check_card(card: Path) -> tuple[list[str], list[str]]:
    """Compare a card with the records beside it (`metrics.json`, `run.json`, and `card.json` or the weights).

    Args:
        card: its `README.md`, or the folder of it.

    Returns:
        What is stale, or was edited by hand where hfcap writes: one line each. What is missing and only a person can
        say: one line each.

    Raises:
        ValueError: a card or a record that cannot be read as what it should be.
        FileNotFoundError: the card or a record is not there.
    """
    card = card / runs.CARD_README if card.is_dir() else card
    folder = card.parent
    refuse_tagger(folder)
    try:
        text = card.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{card} is no UTF-8 text (byte {error.start}); write it again") from None
    metrics, run = runs.read_metrics(folder / runs.METRICS_JSON), runs.read_run(folder / runs.RUN_JSON)
    card_data = read_card_data(folder, recorded=(folder / CARD_JSON).is_file())
    expected = render_card(read_given(card, metrics, run, card_data), metrics, run, card_data)
    data = ModelCard(text).data
    stale = _stale_figures(data.eval_results or [], metrics)
    stale += [f"not what hfcap writes: {line}" for line in _other_lines(text, expected)]
    missing = [f"{name} is missing: {why}" for name, why in WANTED.items() if not getattr(data, name, None)]
    if not captions_match(metrics, card_data):
        missing.append(f"samples and failures are missing: {runs.METRICS_JSON} is of other captions; evaluate again")
    return stale, missing


def _stale_figures(results: list, metrics: dict) -> list[str]:
    said = {result.metric_type: result.metric_value for result in results}
    measured = {key: value for key, _, value, _ in figures(metrics)}
    problems = [
        f"{key}: the card says {said[key]}, {runs.METRICS_JSON} says {value}"
        for key, value in measured.items()
        if key in said and said[key] != value
    ]
    problems += [
        f"{key}: missing in the card, {runs.METRICS_JSON} says {measured[key]}" for key in measured.keys() - said
    ]
    problems += [
        f"{key}: the card says {said[key]}, {runs.METRICS_JSON} has no such metric" for key in said.keys() - measured
    ]
    return sorted(problems)


def _other_lines(text: str, expected: str) -> list[str]:
    differing = [
        line
        for line in difflib.ndiff(expected.splitlines(), text.splitlines())
        if line.startswith(("+ ", "- ")) and line[2:].strip()
    ]
    shown = [f"{'has' if line[0] == '+' else 'lacks'} {line[2:].strip()!r}" for line in differing[:SHOWN]]
    return shown + ([f"and {counted(len(differing) - SHOWN, 'line')} more"] if len(differing) > SHOWN else [])
