"""Names that a spreadsheet would run as formulas, on their way through a sample of labels."""

import pytest

from hfcap.applications.tag_labels import labels_csv, read_labels
from hfcap.applications.tag_rows import Tags


@pytest.mark.parametrize("image_id", ["=1+2", "-3", "@a", "x"])
def test_names_like_formulas_come_back_from_a_spreadsheet(tmp_path, image_id):
    row = {"image_id": image_id, "path": "", "scores": {"star": 0.5}}
    tags = Tags("tags.jsonl", {image_id: row}, ("star",), {}, {})
    line = {"image_id": image_id, "path": "", "tag": "star", "score": 0.5, "label": "yes"}
    text = labels_csv([line])
    assert ("\n'" in text) is (image_id[0] != "x")
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    assert [label.image_id for label in read_labels(tmp_path / "labels.csv", tags).labels] == [image_id]
