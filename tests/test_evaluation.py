"""Judging the captions of a data set."""

import pytest

from hfcap.evaluation import judge, show_captions
from hfcap.metrics import DEFAULT_METRICS, compute_metrics, confidence_intervals, metric


@pytest.mark.filterwarnings("ignore:CIDEr:UserWarning")
def test_figures_are_those_of_the_metrics_and_captions_are_counted_once(scene_rows, monkeypatch):
    rows = scene_rows.select(range(6))
    captions = [texts[0] for texts in rows["captions"][:5]] + [""]
    counted, build_corpus = [], metric.build_corpus
    monkeypatch.setattr(metric, "build_corpus", lambda *texts: counted.append(1) or build_corpus(*texts))
    evaluation = judge(captions, rows, {"num_beams": 1})
    assert len(counted) == 1
    texts = list(rows["captions"])
    assert evaluation.metrics == confidence_intervals(captions, texts, DEFAULT_METRICS)
    expected = compute_metrics(captions, texts, DEFAULT_METRICS)
    assert evaluation.per_image == {key: expected[f"{key}_per_image"] for key in evaluation.metrics}


@pytest.mark.filterwarnings("ignore:CIDEr:UserWarning")
def test_empty_captions_are_counted_and_shown(scene_rows):
    rows = scene_rows.select(range(3))
    captions = ["a red square", "", " ".join(rows[2]["captions"][0].split())]
    shown = show_captions(judge(captions, rows, {}))
    assert f"1 of 3 captions are empty (first: {rows[1]['image_id']})" in shown
    assert "empty" not in show_captions(judge(["a red square"] * 3, rows, {}))


@pytest.mark.filterwarnings("ignore:CIDEr:UserWarning")
def test_each_caption_is_shown_on_one_line(scene_rows):
    rows = scene_rows.select(range(1)).remove_columns("captions").add_column("captions", [["one\nreference"]])
    shown = show_captions(judge(["a red\n\n square\t"], rows, {})).splitlines()
    assert shown[1:3] == ["    caption    a red square", "    reference  one reference"]
