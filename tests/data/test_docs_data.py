"""The commands of docs/data.md, as printed, on small sources of the names and forms that the page describes."""

import csv
import importlib.util
import json
import shlex
import shutil
from pathlib import Path

import pytest
from source_forms import (
    coco,
    image_folder,
    jsonl,
    jsonl_of_messages,
    karpathy,
    parquet,
    saved_to_disk,
    sidecars,
    webdataset,
)

from hfcap.cli import main
from hfcap.data.scenes import load_scenes
from tiny.captioners import TINY_ENCODER, TINY_LLAMA

ROOT = Path(__file__).parents[2]
# Appended to the printed command: small enough for a test.
SMALL = {
    "encoder_config": json.dumps(TINY_ENCODER),
    "decoder_config": json.dumps(TINY_LLAMA),
    "image_size": "32",
    "vocab_size": "350",
    "per_device_train_batch_size": "2",
    "disable_tqdm": "true",
    "use_cpu": "true",
}


def commands():
    """Each command of the page's bash blocks, without its comment."""
    blocks = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").split("```bash\n")[1:]
    lines = [line for block in blocks for line in block.split("```")[0].splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


def both_splits(folder):
    """What the writers make for validation is there for training as well."""
    paths = sorted(folder.rglob("*")) if folder.is_dir() else []
    for path in paths:
        name = path.name.replace("validation", "train").replace("val2017", "train2017")
        name = "train" if name == "val" else name
        if name != path.name and path.is_dir():
            shutil.copytree(path, path.with_name(name), dirs_exist_ok=True)
        elif name != path.name and path.exists():
            shutil.copy(path, path.with_name(name))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with all the sources that the page names, and `configs`."""
    place, drawn = tmp_path_factory.mktemp("docs"), tmp_path_factory.mktemp("drawn")
    pictures = []
    for number, row in enumerate(load_scenes("test", 4, "caption", image_size=32)):
        row["image"].save(drawn / f"{number}.png")
        pictures.append((drawn / f"{number}.png", row["captions"]))
    shutil.copytree(drawn, place / "pictures")
    writers = {
        "sidecars": sidecars,
        "image-folder": image_folder,
        "jsonl": jsonl,
        "coco": coco,
        "shards": webdataset,
        "parquet": parquet,
        "saved": saved_to_disk,
        "instructions": jsonl_of_messages,
    }
    for name, write in writers.items():
        write(pictures, place / name)
        if name != "saved":
            both_splits(place / name)
    shutil.copy(place / "instructions" / "dev.jsonl", place / "instructions" / "train.jsonl")
    _save_both(place / "saved")
    sidecars(pictures, place / "photos")
    shutil.copytree(drawn, place / "flickr8k" / "Images")
    with open(place / "flickr8k" / "captions.txt", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        writer.writerows([path.name, caption] for path, captions in pictures for caption in captions)
    content = json.loads(karpathy(pictures, place / "karpathy").read_text())
    content["images"] += [{**image, "split": "restval"} for image in content["images"] if image["split"] == "val"]
    (place / "karpathy" / "dataset_flickr8k.json").write_text(json.dumps(content))
    with open(place / "table.csv", "w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["photo", "remark", "split"])
        for split in ("train", "val"):
            writer.writerows([path.name, caption, split] for path, captions in pictures for caption in captions)
    (place / "configs").symlink_to(ROOT / "configs")
    return place


def _save_both(folder):
    from datasets import DatasetDict, load_from_disk

    rows = load_from_disk(str(folder))["validation"]
    rows = rows.map(lambda row: row, load_from_cache_file=False, keep_in_memory=True)
    shutil.rmtree(folder)
    DatasetDict({"train": rows, "validation": rows}).save_to_disk(folder)


def recipe(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_runs(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(ROOT / "recipes")  # as for a script there
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", place / "cache")
    small = [word for name, value in SMALL.items() for word in (f"--{name}", value)]
    samples = {}
    assert len(commands()) >= 13
    for words in commands():
        if words[:2] == ["hfcap", "data"]:
            extra = ["--validation", "0.5"] if "split" in words else []
            main([*words[1:], *extra])
            continue
        assert words[:3] == ["accelerate", "launch", "recipes/train.py"], words
        capsys.readouterr()
        recipe(words[2]).main([*words[3:], *small])
        shown = capsys.readouterr().out
        samples[words[words.index("--data") + 1]] = shown.split("\n\n")[0]
    # Every form holds the same pictures and captions, so the same sample is shown of it.
    forms = {source: sample for source, sample in samples.items() if source not in ("my-data", "instructions")}
    assert len(forms) == 9
    assert (place / "check" / "check.html").is_file() and (place / "my-data" / "train.jsonl").is_file()
    whole = {sample for source, sample in forms.items() if source != "shards"}  # read last as a shuffled stream
    assert len(whole) == 1 and "learns" in samples["shards"], whole
