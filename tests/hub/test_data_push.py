"""A caption data set published to a Hub on this machine, and read back by `load_dataset` in another process."""

import json
import os
import subprocess
import sys

import pytest
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from huggingface_hub import DatasetCard
from PIL import Image

from hfcap.data.scenes import load_scenes
from hfcap.hub.data_push import dataset_card, write_dataset
from hub.local_hub import LocalHub

LOAD = """
import json
from datasets import load_dataset
splits = load_dataset("user/scenes")
shown = {k: [[row["image_id"], row["captions"], list(row["image"].size)] for row in v] for k, v in splits.items()}
print(json.dumps(shown))
"""


def test_load_dataset_reads_what_was_pushed(tmp_path):
    source = tmp_path / "photos"
    rows = {split: load_scenes(split, 3, "caption", image_size=32) for split in ("train", "validation")}
    for split, split_rows in rows.items():
        (source / split).mkdir(parents=True)
        for row in split_rows:
            row["image"].save(source / split / f"{row['image_id']}.png")
        lines = [{"file_name": f"{row['image_id']}.png", "captions": row["captions"]} for row in split_rows]
        (source / split / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    push = [
        sys.executable,
        "-m",
        "hfcap.cli",
        "data",
        "push",
        str(source),
        "--repo",
        "user/scenes",
        "--license",
        "mit",
    ]
    with LocalHub() as hub:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
        environment |= {"HF_TOKEN": "hf_writer"}
        for command in (push, [sys.executable, "-c", LOAD]):
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        files = hub.files("datasets/user/scenes")
        assert b"license: mit" in files["README.md"]
    assert not any(str(tmp_path).encode() in content for content in files.values())
    loaded = json.loads(done.stdout.splitlines()[-1])
    for split, split_rows in rows.items():
        assert loaded[split] == [[row["image_id"], row["captions"], [32, 32]] for row in split_rows]


def test_pictures_that_are_files_are_embedded_as_they_are(tmp_path):
    Image.new("RGB", (8, 6), "red").save(tmp_path / "a.jpg", quality=30)
    features = Features({"image_id": Value("string"), "image": ImageFeature(), "captions": List(Value("string"))})
    rows = Dataset.from_dict(
        {"image_id": ["a"], "image": [str(tmp_path / "a.jpg")], "captions": [["red"]]}, features=features
    )
    write_dataset({"train": rows}, tmp_path / "out", "user/photos")
    back = Dataset.from_parquet(str(tmp_path / "out/data/train-00000-of-00001.parquet"), cache_dir=str(tmp_path / "c"))
    image = back.cast_column("image", ImageFeature(decode=False))[0]["image"]
    assert image == {"bytes": (tmp_path / "a.jpg").read_bytes(), "path": "a.jpg"}


@pytest.mark.parametrize(
    ("caption", "given", "language", "words"),
    [
        ("a dog runs on the grass", None, "en", 6.0),
        ("ein Hund läuft im Gras", None, None, 5.0),
        ("ein Hund läuft im Gras", "de", "de", 5.0),
        ("一只狗在跑", None, None, 5.0),
    ],
)
def test_the_card_names_the_language_that_is_given_or_english(caption, given, language, words):
    rows = Dataset.from_dict({"image_id": ["a"], "image": [None], "captions": [[caption]]})
    card = dataset_card({"train": rows}, "user/photos", language=given)
    assert DatasetCard(card).data.language == language
    assert f"| train | 1 | 1 | {words} |" in card


@pytest.mark.parametrize("caption", ["<script>alert(1)</script>", "a | b `c` [d](e)", "two\nlines"])
def test_captions_are_shown_as_text(caption):
    rows = Dataset.from_dict({"image_id": ["a"], "image": [None], "captions": [[caption]]})
    card = dataset_card({"train": rows}, "user/photos")
    assert caption not in card and "rights to the pictures and captions are not stated" in card
