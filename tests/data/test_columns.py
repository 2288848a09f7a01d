"""Which column plays which part: captions, prompt, picture, id and split; and cells that stand for no value."""

import csv
import json
import logging

import pytest
from datasets import Dataset, Features, Value, load_dataset
from datasets import Image as ImageFeature
from PIL import Image
from source_forms import write_tar

from hfcap.data.check import check_source
from hfcap.data.sources import load_captions, split_names


@pytest.fixture
def folder(tmp_path):
    """Three pictures, no captions yet."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (80 * number, 0, 0)).save(folder / f"{number}.png")
    return folder


def write_table(folder, columns, name="table.csv"):
    with open(folder / name, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return str(folder / name)


def write_lines(folder, columns, name="lines.jsonl"):
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder / name)


def write_parquet(folder, columns, image_column="image"):
    features = {name: Value("string") for name in columns} | {image_column: ImageFeature()}
    paths = [str(folder / name) for name in columns[image_column]]
    out = folder.parent / "parquet"
    Dataset.from_dict(columns | {image_column: paths}, features=Features(features)).to_parquet(out / "train.parquet")
    return str(out)


NAMES = ["0.png", "1.png", "2.png"]
TEXTS = ["a dog", "a cat", "a cow"]
FORMS = {"csv": write_table, "jsonl": write_lines, "parquet": write_parquet}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)
def test_captions_from_a_column_named_prompt_are_not_the_prompt_as_well(folder, write, streaming):
    source = write(folder, {"image": NAMES, "prompt": TEXTS})
    rows = list(load_captions(source, "train", captions_column="prompt", streaming=streaming))
    assert [row["captions"] for row in rows] == [["a dog"], ["a cat"], ["a cow"]]
    assert [row.get("prompt") for row in rows] == [None, None, None]


def test_a_tar_reads_the_captions_column_asked_for(folder):
    members = {}
    for number, text in enumerate(TEXTS):
        members[f"{number}.png"] = (folder / f"{number}.png").read_bytes()
        members[f"{number}.txt"] = b"alt text of the web"
        members[f"{number}.json"] = json.dumps({"prompt": text, "caption": "x", "split": "val"}).encode()
    write_tar(folder.parent / "shard.tar", members.items())
    source = str(folder.parent / "shard.tar")
    rows = load_captions(source, "validation", captions_column="prompt")
    assert rows["captions"][:] == [["a dog"], ["a cat"], ["a cow"]]
    assert "prompt" not in rows.column_names
    with pytest.raises(ValueError, match=r"sample 0: no captions among .*looked for 'remark'"):
        load_captions(source, "validation", captions_column="remark")


@pytest.mark.parametrize("column", ["split", "image_id", "text"])
@pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)
def test_a_column_has_the_part_asked_for_and_no_other(folder, write, column):
    source = write(folder, {"image": NAMES, column: TEXTS})
    assert split_names(source, captions_column=column) == ["train"]
    rows = load_captions(source, "train", captions_column=column)
    assert rows["captions"][:] == [["a dog"], ["a cat"], ["a cow"]]
    assert rows["image_id"][:] == ["0", "1", "2"]


@pytest.mark.parametrize("column", ["prompt", "split", "image_id", "text"])
@pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)
def test_pictures_of_a_column_asked_for_are_not_ids_prompts_or_captions(folder, write, column):
    options = {"image_column": column} if write is write_parquet else {}
    source = write(folder, {column: NAMES, "sentences": TEXTS}, **options)
    rows = load_captions(source, "train", image_column=column)
    assert rows["image_id"][:] == ["0", "1", "2"]
    assert rows["captions"][:] == [["a dog"], ["a cat"], ["a cow"]]
    assert "prompt" not in rows.column_names


@pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)
def test_one_column_for_pictures_and_captions_is_an_error(folder, write):
    source = write(folder, {"image": NAMES, "caption": TEXTS})
    with pytest.raises(ValueError, match=r"image_column and captions_column are both 'image'"):
        load_captions(source, "train", image_column="image", captions_column="image")


def test_two_prompts_of_one_row_are_an_error(folder):
    turns = [{"role": "user", "content": "Describe."}, {"role": "assistant", "content": "a dog"}]
    source = write_lines(folder, {"image": NAMES, "prompt": ["Name the animal."] * 3, "messages": [turns] * 3})
    with pytest.raises(ValueError, match=r"line 1: prompt is 'Name the animal.', the user's turn 'Describe.'"):
        load_captions(source, "train")


@pytest.mark.parametrize("option", ["image_column", "captions_column"])
def test_a_column_of_a_source_without_columns_is_an_error(folder, option):
    for name in NAMES:
        (folder / name).with_suffix(".txt").write_text("a dog")
    with pytest.raises(ValueError, match=rf"{option} is 'x', but .* text files have no columns"):
        load_captions(str(folder), "train", **{option: "x"})
    coco = {
        "images": [{"id": 1, "file_name": "0.png"}],
        "annotations": [{"image_id": 1, "caption": "a dog"}],
    }
    (folder / "coco.json").write_text(json.dumps(coco))
    with pytest.raises(ValueError, match=rf"{option} is 'x', but .*coco.json"):
        load_captions(str(folder / "coco.json"), "train", **{option: "x"})


@pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)
def test_names_of_columns_are_known_in_any_case(folder, write):
    parts = {"Image": NAMES, "Caption": TEXTS, "Split": ["train", "val", "TEST"], "Image ID": ["x", "y", "z"]}
    options = {"image_column": "Image"} if write is write_parquet else {}
    source = write(folder, parts | {"Prompt": ["Describe."] * 3}, **options)
    assert split_names(source) == ["train", "validation", "test"]
    for split, image_id, text in zip(split_names(source), "xyz", TEXTS, strict=True):
        (row,) = load_captions(source, split)
        assert (row["image_id"], row["captions"], row["prompt"]) == (image_id, [text], "Describe.")
        (row,) = load_captions(source, split, streaming=True)
        assert (row["image_id"], row["captions"], row["prompt"]) == (image_id, [text], "Describe.")


@pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)
def test_two_columns_whose_names_mean_the_same_are_an_error(folder, write):
    source = write(folder, {"image": NAMES, "caption": TEXTS, "split": ["train"] * 3, "Split": ["val"] * 3})
    with pytest.raises(ValueError, match=r"columns 'split', 'Split' .*rename"):
        load_captions(source, "train")


@pytest.mark.parametrize("first", ["caption", "Caption", "text"])
@pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)
def test_numbered_columns_go_with_the_one_without_a_number(folder, write, first):
    more = {f"{first}_10": ["ten"] * 3, f"{first}_2": ["two"] * 3}
    rows = load_captions(write(folder, {"image": NAMES, **more, first: TEXTS}), "train")
    assert rows["captions"][:] == [["a dog", "two", "ten"], ["a cat", "two", "ten"], ["a cow", "two", "ten"]]
    alone = load_captions(write(folder, {"image": NAMES, **more, first: TEXTS}), "train", captions_column=first)
    assert alone["captions"][:] == [["a dog"], ["a cat"], ["a cow"]]


@pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)
def test_a_second_column_of_captions_is_named(folder, write, caplog):
    source = write(folder, {"image": NAMES, "caption": TEXTS, "text": ["other"] * 3})
    with caplog.at_level(logging.INFO, "hfcap"):
        assert load_captions(source, "train")["captions"][:] == [["a dog"], ["a cat"], ["a cow"]]
    assert "captions are not read from 'text'; to read another column" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "hfcap"):
        load_captions(source, "train", captions_column="caption")
    assert caplog.text == ""


@pytest.mark.parametrize("text", ["nan", "NaN", "None", "NULL", "<NA>", " N/A "])
@pytest.mark.parametrize("write", FORMS.values(), ids=FORMS)
def test_missing_values_written_as_text_are_no_captions(folder, write, text):
    source = write(folder, {"image": NAMES, "caption": ["a dog", text, "a cow"], "caption_2": ["b", "c", text]})
    with pytest.warns(UserWarning, match=rf"dropped 2 empty captions .*2 .* {text.strip()!r}"):
        rows = load_captions(source, "train")
    assert rows["captions"][:] == [["a dog", "b"], ["c"], ["a cow"]]
    with pytest.warns(UserWarning, match=rf"dropped 2 empty captions .*2 .* {text.strip()!r}"):
        stream = list(load_captions(source, "train", streaming=True))
    assert [row["captions"] for row in stream] == [["a dog", "b"], ["c"], ["a cow"]]
    found = check_source(source).findings["empty_caption"]
    assert [(one.images, one.text) for one in found] == [
        ([("train", "1")], f"caption 1 of 2 is {text.strip()!r}, a missing value"),
        ([("train", "2")], f"caption 2 of 2 is {text.strip()!r}, a missing value"),
    ]


def test_a_missing_prompt_or_split_written_as_text_is_none(folder):
    parts = {"image": NAMES, "caption": TEXTS, "prompt": ["nan"] * 3, "split": ["val", "nan", "None"]}
    source = write_table(folder, parts)
    assert split_names(source) == ["validation", "train"]
    assert load_captions(source, "train")["captions"][:] == [["a cat"], ["a cow"]]
    assert "prompt" not in load_captions(source, "train").column_names


def test_a_list_as_python_prints_it_is_a_list(folder):
    cells = ["['a dog', \"the dog's ball\"]", '["a cat", null]', "[a cow]"]
    with pytest.warns(UserWarning, match="dropped 1 empty"):
        rows = load_captions(write_table(folder, {"image": NAMES, "captions": cells}), "train")
    assert rows["captions"][:] == [["a dog", "the dog's ball"], ["a cat"], ["[a cow]"]]


def test_an_array_as_numpy_prints_it_is_an_error(folder):
    # Python would read two strings side by side as one.
    cells = ["['a dog' 'the dog']", "['a cat']", "['a cow']"]
    with pytest.raises(ValueError, match=r"line 2: captions is .*NumPy.*JSON list"):
        load_captions(write_table(folder, {"image": NAMES, "captions": cells}), "train")


@pytest.mark.parametrize(
    "folders", [("images/train", "images/val"), ("train_images", "val_images"), ("a/b/Train", "a/b/Dev")]
)
def test_the_folder_of_a_split_may_lie_deeper(tmp_path, folders):
    for number, name in enumerate(folders):
        place = tmp_path / "data" / name / f"{number}.png"
        place.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8), (80 * number, 0, 0)).save(place)
        place.with_suffix(".txt").write_text(f"caption {number}")
    assert sorted(split_names(str(tmp_path / "data"))) == ["train", "validation"]
    assert load_captions(str(tmp_path / "data"), "validation")["captions"][:] == [["caption 1"]]


def test_a_key_twice_in_one_object_is_an_error(folder):
    (folder / "a.jsonl").write_text('{"image": "0.png", "caption": "a dog", "caption": "a cat"}\n')
    with pytest.raises(ValueError, match=r"a.jsonl, line 1: the key 'caption' twice in one object"):
        load_captions(str(folder / "a.jsonl"), "train")


@pytest.mark.parametrize("name", ["train_val_test.csv", "dev-test.csv"])
def test_a_name_with_words_of_several_splits_leaves_it_to_the_column(folder, name):
    columns = {"image": NAMES, "caption": TEXTS, "split": ["train", "val", "test"]}
    for source in (write_table(folder, columns, name), str(folder)):
        assert split_names(source) == ["train", "validation", "test"]
        assert [load_captions(source, split)["captions"] for split in ("train", "test")] == [[["a dog"]], [["a cow"]]]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["train.csv", "train/metadata.csv"])
def test_a_column_that_contradicts_the_files_name_is_an_error(folder, name, streaming):
    (folder / "train").mkdir()
    for number in NAMES:
        (folder / number).rename(folder / "train" / number)
    paths = NAMES if "/" in name else [f"train/{number}" for number in NAMES]
    columns = {"image": paths, "caption": TEXTS, "split": ["train", "nan", "dev"]}
    write_table(folder, columns, name)
    with pytest.raises(ValueError, match=r"line 4: split is 'validation', and the name .* says 'train'; rename it"):
        list(load_captions(str(folder), "train", streaming=streaming))
    write_table(folder, columns | {"split": ["train", "nan", "restval"]}, name)
    assert len(list(load_captions(str(folder), "train", streaming=streaming))) == 3


def write_split_files(folder, out, splits):
    """A parquet file per split, with a column `split`: `{"train": ["train", …], …}`."""
    for name, told in splits.items():
        columns = {"image": [str(folder / image) for image in NAMES], "caption": TEXTS, "split": told}
        features = Features({name: Value("string") for name in columns} | {"image": ImageFeature()})
        Dataset.from_dict(columns, features=features).to_parquet(out / f"{name}-00000-of-00001.parquet")
    return str(out)


def saved_splits(folder, out, splits):
    """The same, as `save_to_disk` writes it."""
    loaded = load_dataset("parquet", data_dir=write_split_files(folder, out / "parquet", splits))
    loaded.save_to_disk(out / "saved")
    return str(out / "saved")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("write", [write_split_files, saved_splits])
def test_a_column_that_contradicts_one_of_several_splits_is_an_error(folder, tmp_path, write, streaming):
    splits = {"train": ["train", "restval", None], "validation": ["dev", "train", "val"]}
    source = write(folder, tmp_path / "out", splits)
    assert len(list(load_captions(source, "train", streaming=streaming))) == 3
    with pytest.raises(ValueError, match=r"row [01]: the column split is 'train', but .* the split 'validation'"):
        list(load_captions(source, "validation", streaming=streaming))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_that_agrees_with_several_splits_is_fine(folder, tmp_path, streaming):
    source = write_split_files(folder, tmp_path / "out", {"train": ["train"] * 3, "validation": ["val"] * 3})
    assert split_names(source) == ["train", "validation"]
    for split in ("train", "validation"):
        assert len(list(load_captions(source, split, streaming=streaming))) == 3


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_tells_the_splits_of_parquet_files_whose_names_do_not(folder, tmp_path, streaming):
    write_split_files(folder, tmp_path / "out", {"a": ["train", "val", "test"], "b": ["test", "val", "train"]})
    source = str(tmp_path / "out")
    assert split_names(source) == ["train", "validation", "test"]
    captions = [row["captions"] for row in load_captions(source, "test", streaming=streaming)]
    assert sorted(captions) == [["a cow"], ["a dog"]]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("begin", ["", "sep=;", "SEP=;"])
def test_a_table_of_semicolons_with_commas_in_its_captions(folder, begin, end):
    lines = [begin, "image;caption", "0.png;red, green, blue, grey", '1.png;"a; b"']
    (folder / "table.csv").write_bytes(end.join(filter(None, lines)).encode("utf-8-sig"))
    rows = load_captions(str(folder / "table.csv"), "train")
    assert rows["captions"][:] == [["red, green, blue, grey"], ["a; b"]]
    (folder / "table.csv").write_bytes(end.join([*filter(None, lines), "2.png;x;y"]).encode())
    with pytest.raises(ValueError, match=rf"table.csv, line {5 if begin else 4}: 3 values for 2 columns"):
        load_captions(str(folder / "table.csv"), "train")
