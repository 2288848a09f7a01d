"""`hfcap data check` finds what was put there, and `hfcap data split` makes splits without leaks."""

import hashlib
import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from hfcap.cli import main
from hfcap.data import image_info
from hfcap.data.check import check_record, check_source
from hfcap.data.image_info import ImageInfo, near_duplicates
from hfcap.data.scenes import load_scenes
from hfcap.data.sources import load_captions
from hfcap.data.split import assign_splits, split_source

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


def write(folder, splits):
    for name, entries in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return str(folder)


@pytest.fixture
def clean(tmp_path):
    """Eight pictures for training and four for validation."""
    folder = tmp_path / "data"
    folder.mkdir()
    splits = {"train": [], "validation": []}
    for number, row in enumerate(load_scenes("test", 12, "caption", image_size=48)):
        row["image"].save(folder / f"{number}.png")
        entry = {"image": f"{number}.png", "image_id": str(number), "captions": row["captions"]}
        splits["train" if number < 8 else "validation"].append(entry)
    return folder, splits


def test_clean_data_has_nothing_to_mend(clean, capsys):
    source = write(*clean)
    main(["data", "check", source])
    printed = capsys.readouterr().out
    assert "No problems found." in printed and "train       8       40        5, 5, 5" in printed


def test_each_fault_is_found_once_and_named(clean, tmp_path, capsys):
    folder, splits = clean
    train, validation = splits["train"], splits["validation"]
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:100])
    shutil.copy(folder / "1.png", folder / "copy.png")
    shutil.copy(folder / "2.png", folder / "twin.png")
    for source, target in (("3.png", "near.jpg"), ("4.png", "near too.jpg")):
        Image.open(folder / source).resize((96, 96)).save(folder / target, quality=80)
    train += [
        {"image": "broken.png", "image_id": "broken", "captions": ["a"]},
        {"image": "twin.png", "image_id": "twin", "captions": ["", "twice", "twice"]},
        {"image": "near too.jpg", "image_id": "near too", "captions": []},
    ]
    validation += [
        {"image": "copy.png", "image_id": "copy", "captions": ["word " * 51]},
        {"image": "near.jpg", "image_id": "near", "captions": ["a"]},
        {**train[5], "captions": ["again"]},
    ]
    source = write(folder, splits)
    with pytest.raises(SystemExit) as stopped:
        main(["data", "check", source, "--output", str(tmp_path / "out")])
    assert stopped.value.code == 1
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "check.json").read_text())
    found = {
        kind: [tuple(map(tuple, one["images"])) for one in group["examples"]]
        for kind, group in record["findings"].items()
    }
    T, V = "train", "validation"
    assert found == {
        "unreadable_picture": [((T, "broken"),)],
        "no_captions": [],
        "id_per_split": [],
        "passed_over": [],
        "shared_id": [((T, "5"), (V, "5"))],
        "shared_picture": [((T, "1"), (V, "copy")), ((T, "5"), (V, "5"))],
        "image_without_caption": [((T, "near too"),)],
        "empty_caption": [((T, "twin"),)],
        "repeated_caption": [((T, "twin"),)],
        "long_caption": [((V, "copy"),)],
        "special_text": [],
        "same_picture": [((T, "2"), (T, "twin"))],
        "alike_across_splits": [((T, "3"), (V, "near"))],
        "alike": [((T, "4"), (T, "near too"))],
    }
    assert record["has_errors"] and record["splits"]["train"]["num_images"] == 11
    assert (
        f"train/broken: OSError: image file is truncated ({source}/train.jsonl, line 9, picture {source}/broken.png)"
        in printed
    )
    page = (tmp_path / "out" / "check.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 12 + 2 * 5  # the grids, and five pairs
    assert "http" not in page.replace("http-equiv", "")  # self-contained
    HTMLParser().feed(page)


def test_tokens_are_counted_as_the_collator_does(clean, build_tiny, tmp_path, capsys):
    model, processor = build_tiny("llava")
    processor.save_pretrained(tmp_path / "processor")
    from hfcap.training.collators import CaptionCollator

    source = write(*clean)
    options = [
        "--processor",
        str(tmp_path / "processor"),
        "--max_caption_tokens",
        "8",
        "--output",
        str(tmp_path / "o"),
    ]
    main(["data", "check", source, *options])
    record = json.loads((tmp_path / "o" / "check.json").read_text())
    captions = load_captions(source, "train")["captions"]
    collator = CaptionCollator(processor, model.config, max_caption_tokens=1000)  # cuts none
    lengths = [len(ids) for texts in captions for ids in collator.targets(texts)]
    assert record["splits"]["train"]["tokens_per_caption"]["max"] == max(lengths)
    validation = load_captions(source, "validation")["captions"]
    more = [len(ids) for texts in validation for ids in collator.targets(texts)]
    assert record["findings"]["long_caption"]["count"] == sum(length > 8 for length in lengths + more) > 0
    assert "tokens per caption" in capsys.readouterr().out


def test_rows_for_two_prompts_share_their_picture_rightly(clean):
    folder, splits = clean
    train = [{**entry, "prompt": prompt} for entry in splits["train"] for prompt in ("short", "long")]
    check = check_source(write(folder, {"train": train}))
    assert check.splits[0].ids[:2] == ["0#1", "0#2"]
    assert [kind for kind, found in check.findings.items() if found] == ["passed_over"]  # the pictures of validation
    assert check_record(check)["splits"]["train"]["num_images"] == 16


def hashes(rows):
    return {hashlib.sha256(row["image"].tobytes()).hexdigest() for row in rows}


def test_splits_are_seeded_by_image_and_keep_equal_pictures_together(clean, tmp_path, capsys):
    folder, splits = clean
    shutil.copy(folder / "1.png", folder / "copy.png")
    splits["validation"] += [{"image": "copy.png", "image_id": "copy", "captions": ["a copy"]}, splits["train"][5]]
    source, output = write(folder, splits), tmp_path / "split"
    command = ["data", "split", source, "--output", str(output), "--test", "0.25", "--validation", "0.25"]
    main(command)
    first = capsys.readouterr().out
    rows = {name: load_captions(str(output), name) for name in ("train", "validation", "test")}
    assert sum(map(len, rows.values())) == 13  # 12 pictures, one of them under two ids
    assert not hashes(rows["train"]) & hashes(rows["test"]) and not hashes(rows["train"]) & hashes(rows["validation"])
    assert sorted(i for part in rows.values() for i in part["image_id"]) == sorted([*map(str, range(12)), "copy"])
    assert all(len(set(texts)) == len(texts) for part in rows.values() for texts in part["captions"])
    check_source(str(output))
    before = {path.name: path.read_bytes() for path in output.glob("*.json*")}
    main(command)  # says what is there
    assert capsys.readouterr().out == first.replace(": ", " is there already: ")
    assert {path.name: path.read_bytes() for path in output.glob("*.json*")} == before
    for changed in (["--seed", "1"], ["--test", "0.1"]):
        with pytest.raises(SystemExit) as stopped:
            main([*command, *changed])
        assert stopped.value.code == 2
        assert "holds another split" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_names_that_two_splits_share_are_no_leak(tmp_path, capsys):
    """Sidecar files have no ids: train/0000.png and validation/0000.png are two pictures."""
    source = tmp_path / "source"
    pictures = [row["image"] for row in load_scenes("test", 4, "caption", image_size=48)]
    for name, images in {"train": pictures[:3], "validation": [pictures[3], pictures[1]]}.items():
        (source / name).mkdir(parents=True)
        for number, image in enumerate(images):
            image.save(source / name / f"{number:04}.png")
            (source / name / f"{number:04}.txt").write_text(f"a picture for {name}")
    found = check_source(str(source)).findings
    # The second pictures are the same file under the same name.
    assert [one.images for one in found["shared_id"]] == [[("train", "0001"), ("validation", "0001")]]
    assert [one.images for one in found["shared_picture"]] == [[("train", "0001"), ("validation", "0001")]]
    main(["data", "split", str(source), "--output", str(tmp_path / "out"), "--validation", "0.25"])
    capsys.readouterr()
    rows = [load_captions(str(tmp_path / "out"), name) for name in ("train", "validation")]
    captions = sorted(texts for part in rows for texts in part["captions"])
    assert captions == [["a picture for train"]] * 2 + [["a picture for train", "a picture for validation"]] + [
        ["a picture for validation"]
    ]
    assert len({image_id for part in rows for image_id in part["image_id"]}) == 4


def test_a_split_of_other_rows_is_refused(clean, tmp_path, capsys):
    folder, splits = clean
    source = write(folder, splits)
    command = ["data", "split", source, "--output", str(tmp_path / "split")]
    main(command)
    splits["train"][0]["captions"] = splits["train"][0]["captions"][:4]
    write(folder, splits)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(command)
    error = capsys.readouterr().err
    assert "holds another split: rows was {'images': 12, 'captions': 60" in error
    assert "is {'images': 12, 'captions': 59" in error


def test_a_split_that_an_earlier_version_wrote_is_known(clean, tmp_path, capsys):
    folder, splits = clean
    command = ["data", "split", write(folder, splits), "--output", str(tmp_path / "split")]
    main(command)
    record = json.loads((tmp_path / "split" / "split.json").read_text())
    del record["rows"]
    (tmp_path / "split" / "split.json").write_text(json.dumps(record))
    capsys.readouterr()
    main(command)
    assert "is there already" in capsys.readouterr().out


def test_further_pictures_are_left_out_of_a_split(tmp_path):
    image = Features({"image": ImageFeature(), "mask": ImageFeature(), "captions": List(Value("string"))})
    pictures = [row["image"] for row in load_scenes("test", 4, "caption", image_size=32)]
    columns = {"image": pictures, "mask": pictures, "captions": [["a"]] * 4}
    Dataset.from_dict(columns, features=image).to_parquet(tmp_path / "train.parquet")
    with pytest.warns(UserWarning, match="left out mask: JSONL holds no pictures"):
        split_source(str(tmp_path / "train.parquet"), tmp_path / "out", {"train": 0.5, "validation": 0.5})
    assert load_captions(str(tmp_path / "out"), "train").column_names == ["image_id", "image", "captions"]


def test_unreadable_pictures_are_not_compared(monkeypatch):
    compared = []
    monkeypatch.setattr(image_info, "_look_alike", lambda *pair: compared.append(pair))
    blank = np.zeros((16, 16, 3), np.uint8)
    bad = [ImageInfo("broken", "", 0, 0, 0, blank)] * 3
    good = [ImageInfo(None, str(number), 1, 1, 0, blank) for number in range(2)]
    assert near_duplicates([*bad, good[0], *bad, good[1]]) == []
    assert compared == [tuple(good)]
    monkeypatch.undo()
    assert near_duplicates([*bad, good[0], *bad, good[1]]) == [(3, 7)]


def test_the_splits_of_a_picture_do_not_depend_on_the_order_of_rows():
    pictures = [f"{number:03d}" for number in range(100)]
    split_of = dict(zip(pictures, assign_splits(pictures, SHARES, seed=1), strict=True))
    backwards = pictures[::-1]
    assert dict(zip(backwards, assign_splits(backwards, SHARES, seed=1), strict=True)) == split_of
    assert [list(split_of.values()).count(name) for name in SHARES] == [60, 20, 20]
    assert dict(zip(pictures, assign_splits(pictures, SHARES, seed=2), strict=True)) != split_of


def test_splits_that_a_source_has_are_not_dissolved_unsaid(clean, tmp_path, caplog):
    with caplog.at_level("INFO"):
        split_source(write(*clean), tmp_path / "out", SHARES)
    assert "the rows of its splits (train, validation) are combined and split again" in caplog.text


def test_bad_shares_and_bad_folders_are_named(clean, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"wanted positive numbers that add up to 1"):
        assign_splits(["a", "b"], {"train": 0.5, "test": 0.4}, 0)
    for pictures, shares, message in (
        ("ab", {"train": 0.9, "test": 0.1}, r"split 'test' would be empty: 0.1 of 2 pictures .*; pass --test 0.5$"),
        ("abc", {"train": 0.9, "validation": 0.1}, r"of 3 pictures is less than one; pass --validation 0.34$"),
        ("abc", {"train": 0.1, "validation": 0.9}, r"'train' would be empty: .*; lower the shares of the others$"),
        ("ab", SHARES, r"3 splits need as many pictures$"),
    ):
        with pytest.raises(ValueError, match=message):
            assign_splits(list(pictures), shares, 0)
    (tmp_path / "taken").mkdir()
    with pytest.raises(SystemExit) as stopped:
        main(["data", "split", write(*clean), "--output", str(tmp_path / "taken")])
    assert stopped.value.code == 2 and "holds no split.json" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["data", "check", str(tmp_path / "nowhere.jsonl")])
    assert stopped.value.code == 2 and "there is no file or folder" in capsys.readouterr().err
