"""What a source holds is read, refused, or counted and named; and no two things of one name become one."""

import io
import json
import logging
import os
import shutil
from errno import EACCES
from pathlib import Path

import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from source_forms import write_tar

from hfcap.cli import main
from hfcap.data.check import check_source
from hfcap.data.folders import HIDDEN, texts_beside, walk
from hfcap.data.formats import PICTURE_SUFFIXES
from hfcap.data.sources import load_captions, split_names
from hfcap.errors import ConfigError
from hfcap.file_evaluation import _finder
from hfcap.generation.photo_files import find_photos
from hfcap.predictions import read_references

HEIC = b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00mif1heic"
JXL = b"\xff\x0a\xcb\x06\x00\x13"


@pytest.fixture
def log(caplog):
    """What is said at INFO, each line once per source."""
    caplog.set_level(logging.INFO, "hfcap")
    return caplog


def encoded(number=0, kind="PNG", **options):
    file = io.BytesIO()
    Image.effect_noise((16, 16), 20 + number).convert("RGB").save(file, kind, **options)
    return file.getvalue()


def put(path, number=0, caption=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(number))
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)


def captions(source, split="train", **options):
    return sorted(text for texts in load_captions(str(source), split, **options)["captions"] for text in texts)


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def exit_code(*argv):
    try:
        main([str(word) for word in argv])
    except SystemExit as stopped:
        return stopped.code
    return 0


# Formats by suffix (fault 17)


def test_what_pillow_opens_is_read(folder, tmp_path):
    kinds = {"avif": "AVIF", "jfif": "JPEG", "jp2": "JPEG2000", "ppm": "PPM", "TGA": "TGA"}
    for suffix, kind in kinds.items():
        (folder / f"{suffix}.{suffix}").write_bytes(encoded(kind=kind))
        (folder / f"{suffix}.txt").write_text(suffix)
    assert captions(folder) == sorted(kinds)
    assert {photo.image_id for photo in find_photos([str(folder)])} == set(kinds)
    members = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    write_tar(tmp_path / "a.tar", members)
    assert captions(tmp_path / "a.tar") == sorted(kinds)
    assert not {".eps", ".mpg", ".h5", ".svg", ".txt"} & PICTURE_SUFFIXES


@pytest.mark.skipif(".heic" in PICTURE_SUFFIXES, reason="pillow-heif is installed")
def test_pictures_of_other_formats_are_counted_and_named(folder, log, capsys):
    put(folder / "a.png", caption="a dog")
    for name in ("b.heic", "c.HEIC", "d.svg", "e.cr2"):
        (folder / name).write_bytes(HEIC)
    (folder / "b.txt").write_text("a cat")
    assert captions(folder) == ["a dog"]
    assert "2 (.heic; first b.heic), pip install 'hfcap[heif]' (pillow-heif) reads them" in log.text
    assert "2 (.svg, .cr2; first d.svg), convert them to PNG or JPEG" in log.text
    assert "text files without a picture of their name: 1 (.txt; b.txt)" in log.text
    main(["data", "check", str(folder)])
    assert "2 (.heic; first b.heic), pip install 'hfcap[heif]'" in capsys.readouterr().out
    log.clear()
    assert len(find_photos([str(folder)])) == 1
    assert "2 (.heic; first b.heic)" in log.text and "other files: 2 (.txt; first a.txt)" in log.text


@pytest.mark.skipif(".heic" in PICTURE_SUFFIXES, reason="pillow-heif is installed")
def test_a_folder_of_nothing_that_can_be_read_says_what_it_holds(folder):
    (folder / "b.heic").write_bytes(HEIC)
    for read in (split_names, lambda source: find_photos([source])):
        with pytest.raises((ValueError, ConfigError), match=r"1 \(.heic; b.heic\), pip install 'hfcap\[heif\]'"):
            read(str(folder))


@pytest.mark.parametrize(
    ("content", "fix"), [(HEIC, r"HEIF; pip install 'hfcap\[heif\]'"), (JXL, "JPEG XL; pip install pillow-jxl-plugin")]
)
def test_a_row_of_another_format_names_the_plug_in(folder, content, fix):
    if {".heic", ".jxl"} & PICTURE_SUFFIXES:
        pytest.skip("a plug-in is installed")
    (folder / "a.heic").write_bytes(content)
    source = write_rows(folder / "a.jsonl", [{"image": "a.heic", "caption": "a dog"}])
    with pytest.raises(ValueError, match=rf"a.heic \(image_id a\): not a picture that can be read here \({fix}"):
        load_captions(source, "train")


def test_heic_is_read_with_the_plug_in(folder):
    pytest.importorskip("pillow_heif")
    (folder / "a.heic").write_bytes(encoded(kind="HEIF"))
    (folder / "a.txt").write_text("a dog")
    assert captions(folder) == ["a dog"]


def test_members_of_a_tar_that_are_not_read_are_counted(folder, log):
    members = [("0.png", encoded()), ("0.txt", b"a dog"), ("0.cls", b"3"), ("0.npy", b"x"), (".DS_Store", b"x")]
    write_tar(folder / "a.tar", members)
    put(folder / "left.png")
    assert captions(folder) == ["a dog"]
    assert "a.tar: passed over members that are no picture, text or JSON: 1 hidden, 1 .cls, 1 .npy" in log.text
    assert "read a.tar; not read: pictures: 1 (.png; left.png)" in log.text


def test_pictures_that_no_row_names_are_counted(folder, capsys):
    for number in range(3):
        put(folder / f"{number}.png", number)
    write_rows(folder / "metadata.jsonl", [{"file_name": "0.png", "text": "a dog"}])
    assert exit_code("data", "check", folder) == 0
    assert "pictures that no row names: 2 (.png; first 1.png)" in capsys.readouterr().out


@pytest.mark.parametrize("names", [("metadata.csv", "metadata.jsonl"), ("Metadata.CSV", "metadata.jsonl")])
@pytest.mark.parametrize("parent", ["", "train", "train/part"])
def test_two_metadata_files_of_one_folder_are_an_error(folder, names, parent, capsys):
    put(folder / parent / "0.png")
    for name in names:
        is_table = name.lower().endswith(".csv")
        text = "file_name,text\n0.png,a dog\n" if is_table else '{"file_name": "0.png", "text": "a dog"}\n'
        (folder / parent / name).write_text(text)
    message = rf"has both {names[0]} and {names[1]}; remove one of the two, or read one with"
    for read in (captions, lambda source: list(load_captions(source, "train", streaming=True)), split_names):
        with pytest.raises(ValueError, match=message):
            read(str(folder))
    assert exit_code("data", "check", folder) == 2
    assert "has both" in capsys.readouterr().err
    assert captions(f"{folder}/*.jsonl") == captions(f"{folder}/*.csv") == ["a dog"]


def test_metadata_files_of_two_folders_are_both_read(folder):
    for split, name in (("train", "metadata.csv"), ("validation", "metadata.jsonl")):
        put(folder / split / "0.png")
        text = "file_name,text\n0.png,a dog\n" if name.endswith("csv") else '{"file_name": "0.png", "text": "a dog"}\n'
        (folder / split / name).write_text(text)
    assert captions(folder, "train") == captions(folder, "validation") == ["a dog"]


def test_coco_images_without_captions_are_counted(folder, log):
    put(folder / "a.png")
    images = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate("ab")]
    content = {"images": images, "annotations": [{"image_id": 0, "caption": "a dog"}]}
    (folder / "a.json").write_text(json.dumps(content))
    assert captions(folder / "a.json") == ["a dog"]
    assert "a.json: 1 of 2 images have no caption and are left out" in log.text


def test_the_walk_tells_what_is_hidden(folder):
    put(folder / ".git" / "a.png")
    put(folder / ".b.png")
    passed_over = {}
    assert list(walk(folder, passed_over)) == [(folder, [])]
    assert passed_over == {HIDDEN: [folder / ".b.png", folder / ".git"]}


@pytest.fixture
def closed(folder, monkeypatch):
    """A subfolder that may not be read, for root neither, who runs the tests in containers."""
    put(folder / "open.png", 0, "a dog")
    put(folder / "closed" / "1.png", 1, "a cat")
    (folder / "page.html").write_text('<img src="open.png" alt="A dog.">')
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(EACCES, os.strerror(EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    return folder / "closed"


def test_a_folder_that_may_not_be_read_is_named(folder, closed, log, capsys):
    said = "folders that may not be read: 1 (no suffix; closed), change their permissions"
    assert captions(folder) == ["a dog"]
    assert said in log.text
    log.clear()
    assert [photo.image_id for photo in find_photos([str(folder)])] == ["open"]
    assert said in log.text
    (found,) = [one for one in check_source(str(folder)).findings["passed_over"] if "permissions" in one.text]
    assert found.text == said
    assert exit_code("alt", "check", folder) == 0
    assert f"{closed}: Permission denied, left out" in capsys.readouterr().err
    for command in (["data", "check", closed], ["caption", closed, "--model", "x"]):
        assert exit_code(*command) == 2
        assert f"error: {closed}: Permission denied; fix" in capsys.readouterr().err


# One name for two things (fault 18)


def test_a_coco_image_id_twice_is_an_error(folder):
    put(folder / "a.png")
    images = [{"id": 1, "file_name": "a.png"}, {"id": "1", "file_name": "b.png"}]
    content = {"images": images, "annotations": [{"image_id": 1, "caption": "a dog"}]}
    (folder / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"images\[1\]: id '1' is 'b.png', and 'a.png' in images\[0\]"):
        load_captions(str(folder / "a.json"), "train")


@pytest.mark.parametrize("order", ["side by side", "later"])
def test_a_tar_member_twice_is_an_error(folder, order):
    first, second = ([("d/a.png", encoded(n)), ("d/a.txt", text)] for n, text in enumerate((b"a dog", b"a cat")))
    between = [] if order == "side by side" else [("d/b.png", encoded(2)), ("d/b.txt", b"a cow")]
    write_tar(folder / "a.tar", [*first, *between, *second])
    for streaming in (False, True):
        with pytest.raises(ValueError, match=r"a.tar, sample d/a: member 'd/a.png' comes after another"):
            list(load_captions(str(folder), "train", streaming=streaming))


def test_two_folders_in_one_flat_folder_are_an_error(folder):
    for number in range(2):
        put(folder / "pics" / f"{number}.png", number)
    rows = [{"image": f"{kind}/{number}.png", "caption": kind} for kind in ("cat", "dog") for number in range(2)]
    source = write_rows(folder / "a.jsonl", rows)
    message = r"line 3: 'dog/0.png' and 'cat/0.png' \(.*a.jsonl, line 1\) would both be .*pics/0.png"
    for streaming in (False, True):
        with pytest.raises(ValueError, match=message):
            list(load_captions(source, "train", image_folder=str(folder / "pics"), streaming=streaming))
    # Several rows of one picture, in spellings of two systems, are one image.
    rows = [{"image": name, "caption": name} for name in ("cat/0.png", "cat\\0.png", "cat/1.png")]
    source = write_rows(folder / "a.jsonl", rows)
    assert len(load_captions(source, "train", image_folder=str(folder / "pics"))) == 2


def test_absent_pictures_of_one_base_name_are_counted_apart(folder):
    put(folder / "a" / "0.png")
    source = write_rows(
        folder / "t.jsonl",
        [{"image": name, "caption": name} for name in ("a/0.png", "a/1.png", "b/1.png", "c/1.png")],
    )
    with pytest.raises(ValueError, match=r"(?s)3 of 4 images cannot be read.*a/1.png.*b/1.png.*c/1.png"):
        load_captions(source, "train")
    assert len(check_source(source).findings["unreadable_picture"]) == 3
    with pytest.warns(UserWarning, match="skipped"):
        assert captions(source, on_bad_image="skip") == ["a/0.png"]


@pytest.mark.parametrize("ids", [False, True])
def test_null_pictures_of_parquet_are_counted_apart(folder, ids):
    image = {"bytes": encoded(), "path": None}
    columns = {"image": [image, None, None, None], "caption": ["a", "b", "c", "d"]}
    features = {"image": ImageFeature(), "caption": Value("string")}
    if ids:
        columns["image_id"], features["image_id"] = list("0123"), Value("string")
    Dataset.from_dict(columns, features=Features(features)).to_parquet(folder / "train.parquet")
    with pytest.raises(ValueError, match="3 of 4 images cannot be read"):
        load_captions(str(folder), "train")
    skipped = []
    with pytest.warns(UserWarning, match="skipped"):
        rows = load_captions(str(folder), "train", on_bad_image="skip", on_skip=skipped.append)
    assert rows["captions"][:] == [["a"]] and len({one["image_id"] for one in skipped}) == 3
    with pytest.warns(UserWarning, match="skipped"):
        stream = load_captions(str(folder), "train", on_bad_image="skip", streaming=True)
        assert [row["captions"] for row in stream] == [["a"]]


def test_text_files_that_differ_in_case_only_are_both_named(folder):
    put(folder / "Dog.png")
    texts = [folder / "DOG.txt", folder / "dog.txt"]
    assert texts_beside([folder / "Dog.png", *texts]) == {folder / "Dog.png": texts}
    for text in texts:
        text.write_text("a dog")
    with pytest.raises(ValueError, match=r"DOG.txt and .*dog.txt both caption Dog.png"):
        captions(folder)


def test_an_id_that_is_made_is_not_that_of_another_image(folder):
    for number in range(2):
        put(folder / f"{number}.png", number)
    rows = [{"image": "0.png", "image_id": "7", "prompt": prompt, "caption": "a dog"} for prompt in ("short", "long")]
    rows.append({"image": "1.png", "image_id": "7#1", "prompt": "short", "caption": "a cat"})
    with pytest.raises(ValueError, match=r"image_id '7#1' stands for two images \(.*line 1, .*line 3\)"):
        load_captions(write_rows(folder / "a.jsonl", rows), "train")


def test_two_words_for_one_split_are_an_error(folder):
    for number, name in enumerate(("train2014", "train2017", "val", "images/dev")):
        put(folder / name / f"{number}.png", number, "a dog")
    with pytest.raises(ValueError, match=r"data/images/dev and .*data/val would both be the split 'validation'"):
        split_names(str(folder))
    shutil.rmtree(folder / "images")
    assert len(load_captions(str(folder), "train")) == 2


def test_coco_references_with_an_image_id_twice_are_an_error(tmp_path):
    images = [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}]
    content = {"images": images, "annotations": [{"image_id": 1, "caption": "a dog"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"images\[1\]: id '1' is 'b.png', and 'a.png' in images\[0\]"):
        read_references(tmp_path / "a.json")


def test_a_name_of_two_pictures_shows_neither_in_a_report(folder, log):
    for number, kind in enumerate(("cat", "dog")):
        put(folder / kind / "0.png", number)
    put(folder / "1.png", 2)
    load = _finder(str(folder), ["0", "1", "dog/0"], {})
    assert load("0") is None and load("1") is not None and load("dog/0") is not None
    assert "1 image ids are the name of several pictures" in log.text and "'0': " in log.text


# What is taken where there is much to choose from (fault 20)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "train.tar"])
def test_without_any_row_the_check_fails(folder, name):
    if name.endswith(".tar"):
        write_tar(folder / name, [])
    else:
        (folder / name).write_text("image,caption\n" if name == "a.csv" else "\n")
    for source in (folder / name, folder):
        assert exit_code("data", "check", source) == 2
        assert exit_code("data", "split", source, "--output", folder.parent / "out") == 2
    assert not (folder.parent / "out").exists()


def test_without_any_caption_in_a_split_the_check_fails(folder, capsys):
    put(folder / "train" / "a.png", 0, "a dog")
    put(folder / "val" / "b.png", 1, "nan\n\n")
    assert exit_code("data", "check", folder) == 1
    assert "no caption in 1 image of validation" in capsys.readouterr().out
    (folder / "val" / "b.txt").write_text("a cat")
    assert exit_code("data", "check", folder) == 0


def kaggle(folder):
    for number in range(3):
        put(folder / "Images" / f"{number}_a.png", number)
    rows = [f'{number}_a.png,"A dog , {word} , runs ."' for number in range(3) for word in ("brown", "small")]
    (folder / "captions.txt").write_text("\n".join(["image,caption", *rows]) + "\n")


def test_kaggle_s_flickr8k_is_found(folder):
    kaggle(folder)
    for source in (folder, folder / "captions.txt"):
        rows = load_captions(str(source), "train")
        assert rows["captions"][0] == ["A dog , brown , runs .", "A dog , small , runs ."] and len(rows) == 3


def test_ids_that_start_anew_in_each_split_are_no_leak_and_can_be_split(folder, tmp_path, capsys, log):
    for split, offset in (("train", 0), ("val", 3)):
        for image_id in range(3):
            put(folder / split / f"{split}_{image_id}.png", offset + image_id)
        images = [{"id": image_id, "file_name": f"{split}_{image_id}.png"} for image_id in range(3)]
        texts = [{"image_id": image_id, "caption": f"a {split} {image_id}"} for image_id in range(3)]
        (folder / f"captions_{split}.json").write_text(json.dumps({"images": images, "annotations": texts}))
    found = check_source(str(folder)).findings
    assert len(found["id_per_split"]) == 3 and not found["shared_id"]
    assert exit_code("data", "check", folder) == 0
    assert exit_code("data", "split", folder, "--output", tmp_path / "out", "--validation", "0.34") == 0
    assert "3 image ids stand for different pictures in two splits" in log.text
    rows = [row for name in ("train", "validation") for row in load_captions(str(tmp_path / "out"), name)]
    texts = {row["image_id"]: row["captions"] for row in rows}
    assert texts["train/0"] == ["a train 0"] and texts["validation/2"] == ["a val 2"] and len(texts) == 6


def test_an_id_whose_pictures_look_alike_stays_a_leak(folder):
    for split in ("train", "val"):
        (folder / split).mkdir()
    picture = Image.linear_gradient("L").convert("RGB")
    picture.save(folder / "train" / "a.png")
    picture.resize((128, 128)).save(folder / "val" / "b.jpg", quality=90)
    for split, name in (("train", "a.png"), ("val", "b.jpg")):
        row = {"image": f"{split}/{name}", "image_id": "1", "caption": "grey"}
        write_rows(folder / f"{split}.jsonl", [row])
    found = check_source(str(folder)).findings
    assert len(found["shared_id"]) == 1 and not found["id_per_split"]


def test_json_beside_pictures_with_texts_is_no_table(folder, log):
    for number in range(3):
        put(folder / f"post_{number}.png", number, f"a cat {number}")
        (folder / f"post_{number}.json").write_text('{"rating": "s"}')
    assert captions(folder) == ["a cat 0", "a cat 1", "a cat 2"]
    assert "JSON files with the name of a picture: 3 (.json; first post_0.json)" in log.text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("info.json", '{"name": "my photos"}'),
        ("classes.json", '["cat", "dog"]'),
        ("sizes.csv", "file,width\n0.png,16\n"),
        ("empty.jsonl", ""),
    ],
)
def test_a_table_without_captions_does_not_shadow_pictures_with_texts(folder, log, name, content):
    put(folder / "0.png", 0, "a cat")
    (folder / name).write_text(content)
    assert captions(folder) == ["a cat"]
    suffix = name[name.index(".") :]
    assert f"tables: 1 ({suffix}; {name}), to read one, pass its path" in log.text


def test_what_is_taken_is_said_and_can_be_chosen(folder, log, monkeypatch):
    put(folder / "0.png", 0, "of the text file")
    image = {"bytes": encoded(), "path": "0.png"}
    (folder / "labels.csv").write_text("image,caption\n0.png,of the table\n")
    assert captions(folder) == ["of the table"]
    choice = f"text files with the name of a picture: 1 (.txt; 0.txt), to read them, pass '{folder}/*.txt'"
    assert f"read labels.csv; not read: {choice}" in log.text
    assert captions(folder / "*.txt") == ["of the text file"]
    features = Features({"image": ImageFeature(), "caption": Value("string")})
    Dataset.from_dict({"image": [image], "caption": ["of parquet"]}, features=features).to_parquet(
        folder / "x.parquet"
    )
    assert captions(folder) == ["of parquet"] == captions(folder / "*.parquet")
    assert captions(folder / "*.csv") == ["of the table"]
    assert captions(folder / "*.txt") == ["of the text file"]
    monkeypatch.chdir(folder)
    assert exit_code("data", "check", "*.txt") == 0


def test_parquet_among_more_pictures_is_read(folder):
    for number in range(5):
        put(folder / f"{number}.png", number)
    image = {"bytes": encoded(), "path": "0.png"}
    features = Features({"image": ImageFeature(), "caption": Value("string")})
    table = Dataset.from_dict({"image": [image], "caption": ["a dog"]}, features=features)
    table.to_parquet(folder / "everything.parquet")
    assert captions(folder) == ["a dog"]


def test_img2dataset_s_files_are_read(folder, log):
    for number in range(2):
        put(folder / "00000" / f"{number:09}.png", number, f"a bird {number}")
        (folder / "00000" / f"{number:09}.json").write_text('{"caption": "a bird", "status": "success"}')
    Dataset.from_dict({"url": ["a", "b"], "caption": ["x", "y"]}).to_parquet(folder / "00000.parquet")
    (folder / "00000_stats.json").write_text('{"count": 2}')
    assert captions(folder) == ["a bird 0", "a bird 1"]
    assert "img2dataset's records of its downloads: 2 (.parquet, .json; first 00000.parquet)" in log.text
    shutil.rmtree(folder / "00000")
    write_tar(folder / "00000.tar", [("0.png", encoded()), ("0.txt", b"a bird")])
    assert captions(folder) == ["a bird"]


def test_a_line_of_a_text_file_ends_where_an_editor_ends_it(folder):
    put(folder / "a.png")
    texts = ["a dog\u2028runs", "caf\x85 \x0cnow", "犬\x1cが", "قطة 🐱"]
    (folder / "a.txt").write_bytes(f"{texts[0]}\r\n{texts[1]}\n\n{texts[2]}\r{texts[3]}".encode())
    assert captions(folder) == sorted(texts)


@pytest.mark.parametrize("name", ["CAPTIONS.TXT", "Metadata.CSV", "deep/METADATA.JSONL"])
def test_names_of_captions_files_may_be_in_capitals(folder, name):
    put((folder / name).parent / "0.png")
    text = '{"file_name": "0.png", "text": "a dog"}' if "JSONL" in name else "file_name,text\n0.png,a dog\n"
    (folder / name).write_text(text)
    assert captions(folder) == ["a dog"]


def test_a_table_in_a_subfolder_is_named_as_one_to_pass(folder):
    put(folder / "train2017" / "0.png")
    (folder / "annotations").mkdir()
    (folder / "annotations" / "captions_train2017.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tables: 1 \(.json; captions_train2017.json\), to read one, pass its path"):
        captions(folder)


@pytest.mark.parametrize("name", ["train.jsonl", "train.csv", "train.json"])
def test_a_split_without_rows_is_not_said_to_be_there(folder, name, capsys):
    (folder / name).write_text({"train.csv": "image,caption\n", "train.json": "[]"}.get(name, ""))
    assert exit_code("data", "check", folder) == 2
    assert f"{name} has no rows, and so the split 'train' has none; add" in capsys.readouterr().err


def test_a_pipe_is_no_picture_and_is_not_waited_for(folder):
    put(folder / "a.png", 0, "a dog")
    os.mkfifo(folder / "b.png")
    (folder / "b.txt").write_text("a cat")
    (found,) = check_source(str(folder)).findings["unreadable_picture"]
    assert found.text == "OSError: a pipe, and no file"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--validation", "1.5"], "shares are {'train': -0.5, 'validation': 1.5}; wanted positive"),
        (["--validation", "nan"], "shares are {'train': nan, 'validation': nan}; wanted positive"),
        (["--seed", "-1"], "seed is -1; wanted 0 or more"),
    ],
)
def test_options_of_a_split_that_are_wrong_are_named(folder, options, message, tmp_path, capsys):
    for number in range(10):
        put(folder / f"{number}.png", number, "a dog")
    assert exit_code("data", "split", folder, "--output", tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
