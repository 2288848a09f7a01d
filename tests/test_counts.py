"""Numbers with their nouns: one is no plural, in the report of `hfcap moderate` as well."""

import pytest

from hfcap.applications.moderation_page import report_lines
from hfcap.applications.moderation_texts import proportion
from hfcap.applications.review import review
from hfcap.applications.rows import empty_row, write_rows
from hfcap.applications.suggest import summary
from hfcap.counts import counted


@pytest.mark.parametrize(("number", "text"), [(0, "0 labels"), (1, "1 label"), (1200, "1,200 labels")])
def test_a_number_has_its_noun(number, text):
    assert counted(number, "label") == text


def test_one_row_has_no_plural(tmp_path):
    row = empty_row() | {"id": "1", "file": "a.html", "line": 1, "column": 1, "suggestion": "A dog."}
    assert summary([row]) == "1 proposal"
    write_rows(tmp_path / "alts.jsonl", [row])
    said = []
    review(str(tmp_path / "alts.jsonl"), ask=lambda _: "q", say=said.append)
    assert "1 of 1 row pending" in said[0]


def test_a_report_of_one_picture_and_one_label_has_no_plural():
    known = {"value": 1.0, "lower_95": 0.05, "num_labels": 1}
    entry = {
        "means": "a dog",
        "threshold": 0.5,
        "queue": {"length": 1, "share": 1.0},
        "labels": {"yes": 1, "no": 0, "cannot_tell": 0},
        "positives": {"value": 1.0, "ci95": [1.0, 1.0]},
        "precision": known,
        "curve": [{"queue": 1.0, "length": 1, "recall": known}],
        "slices": {},
    }
    text = "\n".join(report_lines({"num_pictures": 1, "thresholds": "thresholds.json", "tags": {"dog": entry}}))
    assert text.count("1 picture") == 4 and "1 pictures" not in text and "1 labels" not in text
    assert proportion("recall", known).endswith("; 1 label)")
