"""Which files of a folder are read, and what their names tell."""

import json
import os

import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from source_forms import write_tar

from hfcap.cli import main
from hfcap.data.check import check_source
from hfcap.data.sources import load_captions, split_names


def put(path, color="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), color).save(path, "PNG")
    return path


def put_pair(path, caption="a dog"):
    put(path).with_suffix(".txt").write_text(caption)


def captions(folder, split="train"):
    return [text for texts in load_captions(str(folder), split)["captions"] for text in texts]


def test_links_to_folders_are_followed_but_not_in_circles(folder):
    put_pair(folder / "train" / "0.png")
    put_pair(folder.parent / "real" / "1.png", "a cat")
    (folder / "validation").symlink_to(folder.parent / "real")
    (folder / "train" / "back").symlink_to(folder)
    (folder.parent / "real" / "around").symlink_to(folder)
    assert captions(folder) == ["a dog"]
    assert captions(folder, "validation") == ["a cat"]
    (folder / "test").symlink_to(folder.parent / "real")  # twice the same folder is no circle
    assert split_names(str(folder)) == ["test", "train", "validation"]


def test_a_link_to_a_folder_beside_it_gives_no_caption_twice(folder):
    put_pair(folder / "v2" / "0.png")
    (folder / "latest").symlink_to(folder / "v2")
    assert captions(folder) == ["a dog"]


def test_a_linked_image_folder_is_found(folder):
    real = folder.parent / "real"
    put(real / "1.png")
    (real / "metadata.jsonl").write_text('{"file_name": "1.png", "text": "a cat"}')
    (folder / "validation").symlink_to(real)
    assert captions(folder, "validation") == ["a cat"]


def test_a_split_may_stand_after_a_dot(folder):
    for split in ("train", "val"):
        put(folder / f"{split}.png")
        (folder / f"coco.{split}.jsonl").write_text(json.dumps({"image": f"{split}.png", "caption": split}))
    assert captions(folder) == ["train"] and captions(folder, "validation") == ["val"]
    shards = folder / "shards"
    for split in ("train", "val"):
        members = [("0.png", (folder / f"{split}.png").read_bytes()), ("0.txt", split.encode())]
        write_tar(shards / f"flickr.{split}.00000.tar", members)
    assert captions(shards) == ["train"] and captions(shards, "validation") == ["val"]


@pytest.mark.parametrize("text", ["DOG0.TXT", "dog0.txt"])
def test_upper_case_names_have_their_captions(text, folder):
    put(folder / "DOG0.PNG")
    (folder / text).write_text("a dog")
    assert captions(folder) == ["a dog"]


def test_a_text_file_is_the_picture_s_of_its_very_name(folder):
    put_pair(folder / "dog.png", "small")
    put(folder / "DOG.png", "blue")
    found = {one.images[0][1] for one in check_source(str(folder)).findings["image_without_caption"]}
    assert captions(folder) == ["small"] and found == {"DOG"}
    (folder / "DOG.txt").write_text("large")
    assert captions(folder) == ["large", "small"]


def write_parquet(path, **columns):
    image = {"image": ImageFeature()} if "image" in columns else {}
    features = Features({name: image.get(name, Value("string")) for name in columns})
    Dataset.from_dict(columns, features=features).to_parquet(path)


def test_img2dataset_writes_parquet_beside_its_tars(folder):
    data = put(folder.parent / "dog.png").read_bytes()
    record = json.dumps({"caption": "a dog", "status": "success"}).encode()
    write_tar(folder / "00000.tar", [("0.png", data), ("0.txt", b"a dog"), ("0.json", record)])
    write_parquet(folder / "00000.parquet", url=["x"], caption=["a dog"])
    (folder / "00000_stats.json").write_text('{"count": 1}')
    assert captions(folder) == ["a dog"]
    write_parquet(folder / "train.parquet", image=[{"bytes": data, "path": None}], caption=["a cat"])
    (folder / "00000.parquet").unlink()
    assert captions(folder) == ["a cat"]  # parquet of its own counts before an archive


def test_one_parquet_file_tells_its_split(folder):
    data = put(folder.parent / "dog.png").read_bytes()
    for name in ("validation", "some"):
        write_parquet(folder / f"{name}.parquet", image=[{"bytes": data, "path": None}], caption=["a dog"])
    assert captions(folder / "validation.parquet", "validation") == ["a dog"]
    assert captions(folder / "some.parquet") == ["a dog"]


def test_the_check_may_lie_in_what_it_checked(folder, capsys):
    put_pair(folder / "train" / "0.png")
    for _ in range(2):
        main(["data", "check", str(folder), "--output", str(folder)])
    assert (folder / "check.json").is_file() and captions(folder) == ["a dog"]


def test_hidden_files_are_not_read(folder):
    put_pair(folder / "train" / "p0.png")
    (folder / "train" / "._p0.txt").write_bytes(b"\x00\x05\x16\x07\xff")
    (folder / "train" / "._p0.png").write_bytes(b"\x00\x05\x16\x07\xff")
    (folder / "._metadata.jsonl").write_bytes(b"\x00\x05\x16\x07\xff")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "metadata.jsonl").write_text("{")
    assert captions(folder) == ["a dog"]


def test_a_name_that_is_not_utf8_is_named(folder, capsys):
    path = os.fsencode(folder) + b"/caf\xe9."
    for suffix in (b"png", b"txt"):
        with open(path + suffix, "wb") as file:
            file.write(b"a dog")
    with pytest.raises(SystemExit) as stopped:
        main(["data", "check", str(folder)])
    assert stopped.value.code == 2
    assert r"caf\udce9.png': the name is not UTF-8; rename the file" in capsys.readouterr().err
    with pytest.raises(ValueError, match="rename the file"):
        list(load_captions(str(folder), "train", streaming=True))
