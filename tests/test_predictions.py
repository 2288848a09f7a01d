import json
import os

import pytest

from hfcap.files import write_atomic, write_json
from hfcap.predictions import Row, pair, read_predictions, read_references, write_predictions

KARPATHY = {
    "images": [
        {"filename": "12_ab.jpg", "split": "train", "sentences": [{"raw": "A dog ."}, {"raw": "One dog ."}]},
        {"filename": "34_cd.jpg", "split": "restval", "sentences": [{"raw": "A cat ."}]},
        {"filename": "COCO_val_000042.jpg", "cocoid": 42, "split": "val", "sentences": [{"raw": "A bird ."}]},
    ]
}


def _write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _rows(*items):
    return [
        Row(image_id, list(captions), f"file, line {number}") for number, (image_id, *captions) in enumerate(items)
    ]


def _content(rows):
    return [(row.image_id, row.captions) for row in rows]


# Reading


@pytest.mark.parametrize("name", ["p.jsonl", "p.json"])
def test_predictions_jsonl_is_recognised_by_name_or_content(tmp_path, name):
    path = _write(
        tmp_path / name, '{"image_id": "7", "caption": "a dog", "cider": 0.5}\n\n{"image_id": 8, "caption": "b"}\n'
    )
    rows = read_predictions(path)
    assert _content(rows) == [("7", ["a dog"]), ("8", ["b"])]
    assert rows[0].extra["cider"] == 0.5
    assert rows[1].where == f"{path}, line 3"


def test_coco_results_are_predictions(tmp_path):
    path = _write(tmp_path / "results.json", '[{"image_id": 139, "caption": "a room"}]')
    assert _content(read_predictions(path)) == [("139", ["a room"])]


def test_coco_annotations_are_grouped_by_image_in_file_order(tmp_path):
    annotations = [{"image_id": i, "id": n, "caption": c} for n, (i, c) in enumerate([(9, "a"), (3, "b"), (9, "c")])]
    path = _write(tmp_path / "captions.json", json.dumps({"images": [{"id": 9}], "annotations": annotations}))
    assert _content(read_references(path)) == [("9", ["a", "c"]), ("3", ["b"])]


def test_karpathy_splits_and_ids(tmp_path):
    path = _write(tmp_path / "dataset.json", json.dumps(KARPATHY))
    assert _content(read_references(path, "train")) == [("12_ab", ["A dog .", "One dog ."]), ("34_cd", ["A cat ."])]
    assert _content(read_references(path, "validation")) == [("42", ["A bird ."])]
    assert len(read_references(path)) == 3
    with pytest.raises(ValueError, match="no image in split 'test'; the file has restval, train, val"):
        read_references(path, "test")


def test_captions_of_a_run_are_predictions_and_references(tmp_path):
    row = {"image_id": "1", "caption": "a dog", "captions": ["the dog", "one dog"]}
    path = write_predictions(tmp_path / "captions.jsonl", [row])
    assert _content(read_predictions(path)) == [("1", ["a dog"])]
    assert _content(read_references(path)) == [("1", ["the dog", "one dog"])]


def test_text_survives_byte_order_mark_line_separators_and_any_script(tmp_path):
    captions = ["a\u2028b\x85c", "ein Hund \U0001f415", "狗"]
    text = "\ufeff" + "".join(
        json.dumps({"image_id": str(i), "caption": caption}, ensure_ascii=False) + "\r\n"
        for i, caption in enumerate(captions)
    )
    rows = read_predictions(_write(tmp_path / "p.jsonl", text))
    assert [row.captions[0] for row in rows] == captions


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "p.jsonl",
            '{"image_id": "1", "caption": "a"}\n{"image_id": ',
            r"p\.jsonl, line 2: malformed JSON \(.* column 14",
        ),
        (
            "p.jsonl",
            b'{"image_id": "1", "caption": "a"}\n{"image_id": "2", "caption": "caf\xe9"}',
            "line 2: byte 0xe9 .*UTF-8",
        ),
        ("p.jsonl", '{"image_id": "1", "caption": "a"}'.encode("utf-16"), "line 1: byte 0xff is not UTF-8"),
        (
            "p.jsonl",
            '{"image_id": "1", "caption": "a"}\n{"image_id": "1", "caption": "b"}',
            "line 2: image_id '1'.*line 1",
        ),
        ("p.jsonl", '{"caption": "a"}', "line 1: no image_id among 'caption'"),
        ("p.jsonl", '{"image_id": true, "caption": "a"}', "line 1: image_id is True; wanted a string"),
        ("p.jsonl", '{"image_id": 1.5, "caption": "a"}', "line 1: image_id is 1.5"),
        ("p.jsonl", '{"image_id": "1", "text": "a"}', "line 1: no caption among 'image_id', 'text'"),
        ("p.jsonl", '{"image_id": "1", "caption": null}', "line 1: caption is a JSON null; wanted a string"),
        ("p.jsonl", '{"image_id": "1", "caption": " "}', "line 1: caption is empty"),
        ("p.jsonl", '{"image_id": "1", "caption": "\\ud83d"}', "line 1: caption holds half of a surrogate pair"),
        ("p.jsonl", '["a"]', "line 1: a JSON list; wanted an object"),
        ("p.jsonl", "", r"p\.jsonl: no captions in it"),
        (
            "p.json",
            '[{"image_id": 1, "caption": "a"},\n{"image_id": 2, "caption": "b"',
            r"p\.json, line 2: malformed JSON",
        ),
        (
            "p.json",
            '[{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}]',
            r"\[1\]: image_id '1' .*\[0\]",
        ),
        ("p.json", '{"annotations": []}', "a JSON object is no predictions file"),
        ("p.json", b'[{"image_id": 1,\n "caption": "\xff"}]', "line 2: byte 0xff is not UTF-8"),
    ],
)
def test_bad_predictions_are_one_line_with_place_and_fix(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message) as error:
        read_predictions(_write(tmp_path / name, content))
    assert type(error.value) is ValueError  # not a subclass with a message of its own
    assert "\n" not in str(error.value)
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"image_id": "1", "captions": "a"}', "captions is 'a'; wanted a list"),
        ('{"image_id": "1", "captions": []}', r"captions is \[\]; wanted a list of one or more"),
        ('{"image_id": "1"}', "captions is missing"),
        ('{"image_id": "1", "captions": ["a", ""]}', r"captions\[1\] is empty"),
        ('{"annotations": [{"image_id": 1}]}', r"annotations\[0\]: no caption"),
        ('{"annotations": 3}', "annotations: a JSON number; wanted a list"),
        ('{"images": [{"filename": "a.jpg", "sentences": []}]}', r"images\[0\]: image 'a' has no sentences"),
        ('{"images": [{"sentences": [{"raw": "a"}]}]}', r"images\[0\]: neither cocoid nor filename"),
        ('{"images": [{"filename": "a.jpg", "sentences": [{"tokens": []}]}]}', r"images\[0\]\.sentences\[0\]: no raw"),
        ('[{"image_id": 1, "caption": "a"}]', "a JSON list is no references file"),
    ],
)
def test_bad_references_are_one_line_with_place_and_fix(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as error:
        read_references(_write(tmp_path / "r.json", content))
    assert "\n" not in str(error.value)


def test_empty_captions_are_read_where_allowed(tmp_path):
    path = _write(tmp_path / "p.jsonl", '{"image_id": "1", "caption": ""}')
    assert _content(read_predictions(path, allow_empty=True)) == [("1", [""])]


# Pairing


def test_pair_follows_the_order_of_the_references():
    pairs = pair(_rows(("b", "cb"), ("a", "ca")), _rows(("a", "r1", "r2"), ("b", "r3")))
    assert pairs.image_ids == ["a", "b"]
    assert pairs.candidates == ["ca", "cb"]
    assert pairs.references == [["r1", "r2"], ["r3"]]
    assert pairs.num_missing == 0


def test_missing_predictions_are_an_error_or_counted():
    predictions, references = _rows(("b", "cb")), _rows(("a", "r"), ("b", "r"), ("c", "r"))
    with pytest.raises(
        ValueError, match=r"2 of 3 images have no prediction, first 'a' \(file, line 0\).*--allow-missing"
    ):
        pair(predictions, references)
    pairs = pair(predictions, references, allow_missing=True)
    assert (pairs.image_ids, pairs.num_missing) == (["b"], 2)


def test_unknown_predictions_are_an_error_even_when_missing_is_allowed():
    with pytest.raises(ValueError, match=r"1 of 2 predictions have no references, first 'z' \(file, line 1\)"):
        pair(_rows(("a", "c"), ("z", "c")), _rows(("a", "r")), allow_missing=True)


def test_no_common_id_shows_both_spellings():
    with pytest.raises(ValueError, match=r"No image id is in both files.*'139'.*'000139'"):
        pair(_rows(("139", "c")), _rows(("000139", "r")), allow_missing=True)


# Writing


def test_a_crash_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = write_atomic(tmp_path / "deep" / "f.txt", "old")

    def crash(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["f.txt"]


def test_json_is_never_written_with_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "m.json", {"value": float("nan")})
    assert not (tmp_path / "m.json").exists()


def test_predictions_without_an_id_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="row 2: no image_id"):
        write_predictions(tmp_path / "p.jsonl", [{"image_id": "1", "caption": "a"}, {"caption": "b"}])
    assert not (tmp_path / "p.jsonl").exists()
