import gzip
import json
import os

import pytest

from hfcap.atomic_files import write_atomic, write_json
from hfcap.image_matching import pair
from hfcap.predictions import Row, read_predictions, read_references, write_predictions

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


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"cocoid": None, "filename": None}, "neither cocoid nor filename .it is None"),
        ({"filename": 7}, "neither cocoid nor filename .it is 7"),
        ({"cocoid": True, "filename": "a.jpg"}, "cocoid is True; wanted a string"),
        ({"cocoid": 1.0, "filename": "a.jpg"}, "cocoid is 1.0; wanted a string"),
    ],
)
def test_karpathy_ids_are_ids(tmp_path, names, message):
    image = {"split": "val", "sentences": [{"raw": "A dog ."}]}
    path = _write(tmp_path / "dataset.json", json.dumps({"images": [image | names]}))
    with pytest.raises(ValueError, match=rf"images\[0\]: {message}"):
        read_references(path)
    path = _write(tmp_path / "dataset.json", json.dumps({"images": [image | {"cocoid": None, "filename": "a.jpg"}]}))
    assert _content(read_references(path)) == [("a", ["A dog ."])]


def test_splits_of_karpathy_are_named_as_those_of_data_sources(tmp_path):
    image = {"filename": "a.jpg", "split": "Dev", "sentences": [{"raw": "A dog ."}]}
    path = _write(tmp_path / "dataset.json", json.dumps({"images": [image]}))
    for split in ("val", "validation", "dev"):
        assert _content(read_references(path, split)) == [("a", ["A dog ."])]


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
        ('[{"image_id": 1, "caption": "a"}]', "a JSON list holds no references"),
    ],
)
def test_bad_references_are_one_line_with_place_and_fix(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as error:
        read_references(_write(tmp_path / "r.json", content))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "form"), [("p.jsonl", "%s"), ("p.json", "[%s]")])
def test_empty_predictions_are_read(tmp_path, name, form):
    path = _write(tmp_path / name, form % '{"image_id": "1", "caption": ""}')
    assert _content(read_predictions(path)) == [("1", [""])]


def test_references_of_one_caption_per_line_are_grouped(tmp_path):
    lines = [(7, "a"), ("8", "b"), ("7", "c")]
    text = "\n".join(json.dumps({"image_id": image_id, "caption": caption}) for image_id, caption in lines)
    rows = read_references(_write(tmp_path / "r.JSONL", text))
    assert _content(rows) == [("7", ["a", "c"]), ("8", ["b"])]


@pytest.mark.parametrize("second", ['{"image_id": 1, "captions": ["b"]}', '{"image_id": 1, "caption": "b"}'])
def test_a_list_of_captions_is_all_that_an_image_has(tmp_path, second):
    path = _write(tmp_path / "r.jsonl", '{"image_id": 1, "captions": ["a"]}\n' + second)
    with pytest.raises(ValueError, match=r"line 2: image_id '1' stands already in .*line 1"):
        read_references(path)


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
    with pytest.raises(ValueError, match=r"No image id is in both files.*'139'.*'img_139'"):
        pair(_rows(("139", "c")), _rows(("img_139", "r")), allow_missing=True)


COCO = {
    "images": [{"id": 397133, "file_name": "000000397133.jpg"}, {"id": 5, "file_name": "val/0042.png"}],
    "annotations": [{"image_id": 397133, "caption": "a"}, {"image_id": 5, "caption": "b"}],
}


@pytest.mark.parametrize("first", ["397133", "000000397133", "000000397133.jpg"])
@pytest.mark.parametrize("second", ["5", "0042", "0042.png", "val/0042", "val/0042.png"])
def test_predictions_may_name_an_image_by_its_file(tmp_path, first, second):
    references = read_references(_write(tmp_path / "coco.json", json.dumps(COCO)))
    pairs = pair(_rows((second, "cb"), (first, "ca")), references)
    assert (pairs.image_ids, pairs.candidates) == (["397133", "5"], ["ca", "cb"])


def test_karpathy_and_jsonl_know_file_names_too(tmp_path):
    references = read_references(_write(tmp_path / "dataset.json", json.dumps(KARPATHY)))
    assert pair(_rows(("COCO_val_000042", "c")), references, True).image_ids == ["42"]
    line = {"image_id": "x", "captions": ["a"], "file_name": "photos/1.jpg"}
    references = read_references(_write(tmp_path / "r.jsonl", json.dumps(line)))
    assert pair(_rows(("photos/1", "c")), references).image_ids == ["x"]


def test_a_file_name_of_two_images_is_refused():
    references = [Row(image_id, ["r"], "r", names=(name, "0")) for image_id, name in (("a", "cat/0"), ("b", "dog/0"))]
    assert pair(_rows(("cat/0", "c1"), ("dog/0", "c2")), references).candidates == ["c1", "c2"]
    with pytest.raises(ValueError, match=r"line 0: '0' is the file name of several images: 'a' and 'b'; write"):
        pair(_rows(("0", "c")), references, allow_missing=True)


def test_an_image_by_id_and_by_file_name_is_refused():
    references = [Row("1", ["r"], "r", names=("0",)), Row("2", ["r"], "r", names=("1",))]
    with pytest.raises(ValueError, match=r"line 1: a second caption of image '1', whose first is file, line 0"):
        pair(_rows(("0", "c"), ("1", "d")), references)


def test_an_id_that_is_the_file_name_of_another_image_is_said(caplog):
    references = [Row("1", ["r"], "r", names=("2.jpg", "2")), Row("2", ["r"], "r", names=("1.jpg", "1"))]
    assert pair(_rows(("1.jpg", "c"), ("2.jpg", "d")), references).candidates == ["d", "c"]
    assert "taken as ids" not in caplog.text
    assert pair(_rows(("1", "c"), ("2", "d")), references).candidates == ["c", "d"]
    assert "2 predictions with an image id that is the file name of another image too, first '1'" in caplog.text


@pytest.mark.parametrize("names", [("397133", "37777"), ("000000397133", "000000037777")])
@pytest.mark.parametrize(
    "written", ["397133", "000000397133", "COCO_val2014_000000397133", "000000397133.jpg", "val/000000397133"]
)
def test_numbers_match_with_and_without_leading_zeros_where_one_image_has_them(caplog, names, written):
    references = [Row(name, ["r"], "r", names=(f"val/{int(name):012d}", f"{int(name):012d}.jpg")) for name in names]
    with caplog.at_level("INFO"):
        assert pair(_rows((written, "c")), references, allow_missing=True).image_ids == [names[0]]
    said = f"1 of 1 predictions are matched by the file name or the number of their image, first '{written}': image "
    assert (said in caplog.text) == (written != names[0])


def test_a_number_of_two_images_or_after_another_name_is_no_match():
    references = [Row(name, ["r"], "r") for name in ("0012", "12")]
    assert pair(_rows(("12", "c"), ("0012", "d")), references).candidates == ["d", "c"]
    for written in ("00012", "img_12", "x0012"):
        with pytest.raises(ValueError, match="No image id is in both files"):
            pair(_rows((written, "c")), references, allow_missing=True)
    with pytest.raises(ValueError, match="a second caption of image '12'"):
        pair(_rows(("12", "c"), ("012", "d")), references[1:])


def test_files_of_other_kinds_are_named_with_what_is_read(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "p.csv").write_text("image_id,caption\n1,a dog\n")
    (tmp_path / "p.json").write_bytes(gzip.compress(b'[{"image_id": 1, "caption": "a"}]'))
    for name, message in (
        ("run", "run is a folder; pass the file with the captions, of a run its captions.jsonl"),
        ("p.csv", "captions are not read from .csv files; wanted JSONL with image_id and caption"),
        ("p.json", r"p.json: compressed with gzip; unpack it first \(gunzip\)"),
    ):
        with pytest.raises(ValueError, match=message):
            read_predictions(tmp_path / name)


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
