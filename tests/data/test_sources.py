import io
import json
import warnings
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from hfcap.data import datasets_source
from hfcap.data.scenes import load_scenes
from hfcap.data.sources import load_captions


def png(color):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), color).save(file, "PNG")
    return file.getvalue()


def write_parquet(folder, columns, split="train"):
    """Write a folder that `load_dataset` reads, from columns where `image` holds bytes or {bytes, path}."""
    folder.mkdir(exist_ok=True)
    dataset = Dataset.from_dict(columns)
    for name in ("image", "picture"):
        if name in columns:
            images = [one if isinstance(one, dict) else {"bytes": one, "path": None} for one in columns[name]]
            values = {**columns, name: images}
            features = Features({**dataset.features, name: ImageFeature()})
            dataset = Dataset.from_dict(values, features=features)
    dataset.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return str(folder)


def write_image_folder(folder, lines, split="validation"):
    (folder / split).mkdir(parents=True)
    for number, line in enumerate(lines):
        (folder / split / line["file_name"]).parent.mkdir(exist_ok=True)
        (folder / split / line["file_name"]).write_bytes(line.pop("file", None) or png((number, 0, 0)))
    (folder / split / "metadata.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return str(folder)


def ids_and_captions(dataset):
    return dict(zip(dataset["image_id"][:], dataset["captions"][:], strict=True))


def test_scenes_with_options():
    got = load_captions("scenes", "test", num_images=4, style="alt_text", image_size=64, seed=3)
    assert got[:]["captions"] == load_scenes("test", 4, "alt_text", image_size=64, seed=3)[:]["captions"]
    assert got[0]["image"].size == (64, 64)
    with pytest.raises(ValueError, match="train, validation, test"):
        load_captions("scenes", "dev")
    with pytest.raises(ValueError, match="image_size: known to the source 'scenes' only"):
        load_captions("./elsewhere", "test", image_size=64)


def test_parquet_rows_pass_through(tmp_path):
    columns = {
        "image_id": ["a", "b"],
        "image": [png("red"), png("blue")],
        "captions": [["x", "y"], ["z"]],
        "n": [1, 2],
    }
    dataset = load_captions(write_parquet(tmp_path / "data", columns), "train")
    assert dataset.column_names == ["image_id", "image", "captions", "n"]
    assert dataset.features["image_id"] == Value("string")
    assert dataset.features["captions"] == List(Value("string"))
    assert ids_and_captions(dataset) == {"a": ["x", "y"], "b": ["z"]}
    assert dataset[1]["image"].getpixel((0, 0)) == (0, 0, 255) and dataset[1]["n"] == 2


def test_image_folder_takes_ids_from_file_names(tmp_path):
    lines = [{"file_name": "dog.png", "captions": ["a dog"]}, {"file_name": "cat.png", "captions": ["a cat", "cat"]}]
    dataset = load_captions(write_image_folder(tmp_path / "data", lines), "validation")
    assert ids_and_captions(dataset) == {"dog": ["a dog"], "cat": ["a cat", "cat"]}


def test_string_captions_of_another_name_become_lists(tmp_path):
    lines = [{"file_name": "dog.png", "text": " a dog "}, {"file_name": "cat.png", "text": "a cat"}]
    dataset = load_captions(write_image_folder(tmp_path / "data", lines), "validation")
    assert ids_and_captions(dataset) == {"dog": ["a dog"], "cat": ["a cat"]}


def test_equal_names_of_different_pictures_stay_apart(tmp_path):
    lines = [{"file_name": f"{folder}/1.png", "text": folder} for folder in "ab"]
    dataset = load_captions(write_image_folder(tmp_path / "data", lines), "validation")
    assert len(set(dataset["image_id"][:])) == 2
    assert all(image_id.startswith("1-") for image_id in dataset["image_id"][:])


def test_rows_of_the_same_id_are_grouped_in_order(tmp_path):
    red, blue = png("red"), png("blue")
    columns = {
        "image_id": [7, 8, 7, 7],
        "image": [red, blue, red, red],
        "caption": ["one", "two", "three", ""],
        "source": ["first", "second", "third", "fourth"],
    }
    with pytest.warns(UserWarning, match="dropped 1 empty caption and 0 images"):
        dataset = load_captions(write_parquet(tmp_path / "data", columns), "train")
    assert ids_and_captions(dataset) == {"7": ["one", "three"], "8": ["two"]}
    assert dataset["source"][:] == ["first", "second"]
    assert dataset[0]["image"].getpixel((0, 0)) == (255, 0, 0)


def test_rows_without_id_are_grouped_by_content(tmp_path):
    red, blue = png("red"), png("blue")
    columns = {"image": [red, blue, red], "caption": ["one", "two", "three"]}
    dataset = load_captions(write_parquet(tmp_path / "data", columns), "train")
    assert dataset["captions"][:] == [["one", "three"], ["two"]]
    assert len(set(dataset["image_id"][:])) == 2


def test_one_id_for_two_pictures_is_an_error(tmp_path):
    columns = {"image_id": ["a", "a"], "image": [png("red"), png("blue")], "caption": ["one", "two"]}
    with pytest.raises(ValueError, match="1 image_ids stand for different pictures, the first is 'a'"):
        load_captions(write_parquet(tmp_path / "data", columns), "train")


def test_empty_captions_and_images_without_any_are_dropped_with_a_count(tmp_path):
    columns = {
        "image_id": ["a", "b", "c"],
        "image": [png("red"), png("blue"), png("green")],
        "captions": [["x", " ", ""], [], ["y"]],
    }
    with pytest.warns(UserWarning, match=r"dropped 2 empty captions and 1 image .*of 3 images"):
        dataset = load_captions(write_parquet(tmp_path / "data", columns), "train")
    assert ids_and_captions(dataset) == {"a": ["x"], "c": ["y"]}


def test_nothing_is_warned_about_clean_data(tmp_path):
    columns = {"image_id": ["a"], "image": [png("red")], "captions": [["x"]]}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load_captions(write_parquet(tmp_path / "data", columns), "train")


def test_bad_images_are_listed_in_one_error_or_skipped(tmp_path):
    columns = {"image_id": ["a", "b", "c"], "image": [png("red"), b"junk", b"more"], "captions": [["x"]] * 3}
    folder = write_parquet(tmp_path / "data", columns)
    with pytest.raises(
        ValueError, match=r"(?s)2 of 3 .*row 1 \(image_id b\).*row 2 \(image_id c\).*--on_bad_image skip"
    ):
        load_captions(folder, "train")
    with pytest.warns(UserWarning, match="skipped 2 of 3"):
        assert load_captions(folder, "train", on_bad_image="skip")["image_id"][:] == ["a"]
    with pytest.raises(ValueError, match="error, skip"):
        load_captions(folder, "train", on_bad_image="ignore")


def test_num_images_counts_images_not_rows(tmp_path):
    red, blue = png("red"), png("blue")
    columns = {"image_id": ["a", "a", "b"], "image": [red, red, blue], "caption": ["one", "two", "three"]}
    dataset = load_captions(write_parquet(tmp_path / "data", columns), "train", num_images=1)
    assert ids_and_captions(dataset) == {"a": ["one", "two"]}


def test_a_cell_may_hold_a_list_of_captions(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.png").write_bytes(png((ord(name), 0, 0)))
    (tmp_path / "flickr.csv").write_text(
        'raw,filename,n\n"[""a dog 0"", ""one dog""]",a.png,"[1]"\n[sic] a dog,b.png,2\n[1],c.png,3\n"[",d.png,4\n'
    )
    rows = load_captions(str(tmp_path / "flickr.csv"), "train")
    assert rows["captions"][:] == [["a dog 0", "one dog"], ["[sic] a dog"], ["[1]"], ["["]]
    assert rows["n"][0] == "[1]"


def test_a_number_that_arrow_cannot_hold_is_left_out(tmp_path):
    (tmp_path / "a.png").write_bytes(png("red"))
    line = {"image": "a.png", "caption": "a dog", "photo": 2**70, "note": "\ud800", "n": 1}
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    with pytest.warns(UserWarning, match="'photo' is left out, Arrow cannot hold its values"):
        rows = load_captions(str(tmp_path), "train")
    assert rows.column_names == ["image_id", "image", "captions", "n"]


def test_missing_things_are_named_beside_what_is_there(tmp_path):
    columns = {"image_id": ["a"], "image": [png("red")], "label": ["x"]}
    folder = write_parquet(tmp_path / "data", columns)
    with pytest.raises(ValueError, match="no split 'test'; it has: train"):
        load_captions(folder, "test")
    with pytest.raises(ValueError, match=r"no column of captions .*label \(string\)"):
        load_captions(folder, "train")
    with pytest.raises(ValueError, match=r"no column 'words'.*label"):
        load_captions(folder, "train", captions_column="words")
    with pytest.raises(ValueError, match=r"no column 'label' of type Image"):
        load_captions(folder, "train", image_column="label")
    assert load_captions(folder, "train", captions_column="label")["captions"][:] == [["x"]]
    with pytest.raises(ValueError, match="no column of type Image; it has: caption"):
        load_captions(write_parquet(tmp_path / "text", {"caption": ["x"]}), "train")
    with pytest.raises(ValueError, match=r"row 0: caption is a JSON number; wanted a string"):
        numbers = {"image": [png("red")], "caption": [3]}
        load_captions(write_parquet(tmp_path / "numbers", numbers), "train")


def test_missing_empty_and_wrong_folders(tmp_path):
    with pytest.raises(ValueError, match="there is no file or folder"):
        load_captions(str(tmp_path / "nowhere"), "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_captions(str(tmp_path / "empty"), "train")
    (tmp_path / "file.json").write_text("{}")
    with pytest.raises(ValueError, match="neither COCO annotations"):
        load_captions(str(tmp_path / "file.json"), "train")
    (tmp_path / "file.docx").write_text("{}")
    with pytest.raises(ValueError, match=r"unknown kind; wanted .jsonl, .*\.parquet"):
        load_captions(str(tmp_path / "file.docx"), "train")


def test_a_hub_id_goes_to_load_dataset_and_its_failure_names_both_places(monkeypatch):
    def fail(name, streaming):
        raise ConnectionError(f"cannot reach {name}")

    monkeypatch.setattr(datasets_source, "load_dataset", fail)
    with pytest.raises(ValueError, match=r"no folder .*some/captions, and from the Hub: cannot reach some/captions"):
        load_captions("some/captions", "train")


def test_folder_of_save_to_disk(tmp_path):
    scenes = load_scenes("test", 3, "caption")
    DatasetDict({"test": scenes}).save_to_disk(tmp_path / "saved")
    dataset = load_captions(str(tmp_path / "saved"), "test")
    assert dataset.column_names == scenes.column_names
    assert ids_and_captions(dataset) == ids_and_captions(scenes)


def test_real_photos_in_the_two_forms_agree():
    data = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not data.is_dir():
        pytest.skip(f"needs Flickr8k in {data}")
    original = ids_and_captions(load_captions(str(data / "flickr8k_original"), "validation"))
    small = ids_and_captions(load_captions(str(data / "flickr8k"), "validation"))
    assert len(original) == 113 and len(small) == 1000
    assert set(original) < set(small)
