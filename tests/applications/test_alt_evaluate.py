"""`hfcap alt evaluate`: the figures of proposals."""

import json
from pathlib import Path

import pytest

from hfcap import cli
from hfcap.applications.evaluation import alt_figures
from hfcap.applications.wording import worded
from hfcap.metrics import compute_metrics
from hfcap.predictions import read_predictions
from hfcap.runs import read_metrics

pytestmark = pytest.mark.filterwarnings("ignore:CIDEr:UserWarning")

CAPTIONS = ["a photo of a man on a horse .", "a red ball", "img_0123.jpg", "a woman and a man walk in the snow"]
REFERENCES = [["a man rides a horse", "a rider"], ["a ball"], ["two dogs"], ["a couple walks in the snow"]]


def test_figures_are_counts_shares_and_cider():
    figures = alt_figures(CAPTIONS, REFERENCES)
    counts = ("num_images", "proposals", "no_proposal", "made_neutral", "longer_than_125")
    assert [figures[key] for key in counts] == [4, 3, 1, 2, 0]
    assert figures["raw"] == {"error": 0.25, "warning": 0.25, "rules": {"file-name": 1, "redundant": 1}}
    assert figures["worded"] == {"error": 0, "warning": 0, "rules": {}}
    assert figures["cider"]["raw"]["value"] == pytest.approx(compute_metrics(CAPTIONS, REFERENCES)["cider"])
    said = ["a photo of a person on a horse .", CAPTIONS[1], CAPTIONS[2], "two people walk in the snow"]
    neutral_references = [["a person rides a horse", "a rider"], *REFERENCES[1:]]
    wanted = compute_metrics(said, neutral_references)["cider"]
    assert figures["cider"]["neutral"]["value"] == pytest.approx(wanted)


def test_a_captioner_is_evaluated_from_the_command_line(tmp_path, monkeypatch, build_tiny, capsys):
    monkeypatch.chdir(tmp_path)
    model, processor = build_tiny("llava")
    model.save_pretrained("model")
    processor.save_pretrained("model")
    cli.main(["alt", "evaluate", "--model", "model", "--data", "scenes", "--num_images", "3", "--output", "alt"])
    assert "CIDEr, neutral on neutral" in capsys.readouterr().out
    record = read_metrics("alt/metrics.json")
    rows = read_predictions("alt/captions.jsonl")
    captions, references = [row.captions[0] for row in rows], [row.extra["captions"] for row in rows]
    assert record["alt_text"] == json.loads(json.dumps(alt_figures(captions, references)))
    assert record["metrics"]["cider"]["value"] == pytest.approx(record["alt_text"]["cider"]["raw"]["value"])
    assert record["num_images"] == 3 and len(record["weights_hash"]) == 64
    assert all(row.extra["alt"] == (worded(row.captions[0]).alt if worded(row.captions[0]) else "") for row in rows)
    assert "CIDEr, neutral on neutral" in Path("alt/report.html").read_text()
    Path("model/metrics.json").write_text(json.dumps(record | {"tokenizer": "char"}))
    cli.main(["alt", "evaluate", "--model", "model", "--data", "scenes", "--num_images", "3", "--output", "char"])
    record = read_metrics("char/metrics.json")
    assert record["tokenizer"] == "char"
    assert record["alt_text"]["cider"]["raw"]["value"] == pytest.approx(record["metrics"]["cider"]["value"])
    assert record["alt_text"] == json.loads(json.dumps(alt_figures(captions, references, "char")))
