"""The same pictures in any form are the same rows, streamed or not, and training on them starts with the same loss."""

import hashlib
import json
import math
from pathlib import Path

import pytest
from source_forms import FORMS, image_folder

from hfcap.data.scenes import load_scenes
from hfcap.data.sources import load_captions
from hfcap.training.collators import CaptionCollator
from tiny.training import make_trainer

PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "data" / "flickr8k_original" / "validation"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Six drawn pictures as PNG files, some names and captions not in ASCII."""
    folder = tmp_path_factory.mktemp("drawn")
    pictures = []
    for number, row in enumerate(load_scenes("test", 6, "caption", image_size=32)):
        path = folder / f"{number} Straße 写真.png"
        row["image"].save(path)
        pictures.append((path, [f"{caption}, «{number}»" for caption in row["captions"][:3]]))
    return pictures


@pytest.fixture(scope="module")
def photos():
    """The first 50 photos, with their captions."""
    if not PHOTOS.is_dir():
        pytest.skip(f"needs Flickr8k photos in {PHOTOS}")
    entries = [json.loads(line) for line in (PHOTOS / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    entries = sorted(entries, key=lambda entry: entry["file_name"])[:50]
    return [(PHOTOS / entry["file_name"], entry["captions"]) for entry in entries]


def as_read(rows):
    """Ids, pictures and captions, in order."""
    return [
        (row["image_id"], hashlib.sha256(row["image"].convert("RGB").tobytes()).hexdigest(), row["captions"])
        for row in rows
    ]


def first_loss(rows, build_tiny, folder):
    model, processor = build_tiny("llava")
    collator = CaptionCollator(processor, model.config, "caption")
    trainer = make_trainer(model, collator, rows, folder, max_steps=1, per_device_train_batch_size=4, logging_steps=1)
    trainer.train()
    return trainer.state.log_history[0]["loss"]


@pytest.mark.parametrize("form", FORMS)
def test_drawn_pictures_in_every_form(form, drawn, tmp_path, build_tiny):
    reference = load_captions(str(image_folder(drawn, tmp_path / "wanted")), "validation")
    wanted = as_read(reference)
    assert [row[0] for row in wanted] == [path.stem for path, _ in drawn]
    assert [row[2] for row in wanted] == [captions for _, captions in drawn]
    source = str(FORMS[form](drawn, tmp_path / form))
    rows = load_captions(source, "validation")
    assert as_read(rows) == wanted
    assert as_read(load_captions(source, "validation", streaming=True)) == wanted
    assert as_read(load_captions(source, "validation", streaming=True, num_images=2)) == wanted[:2]
    # Rows that are equal are trained on alike, so one form each of paths, embedded bytes and Arrow files is enough.
    if form in ("coco", "webdataset", "saved_to_disk"):
        losses = [first_loss(data, build_tiny, tmp_path / "run") for data in (reference, rows)]
        assert losses[0] == losses[1] and math.isfinite(losses[0])


@pytest.mark.slow
def test_fifty_photos_in_every_form_are_the_same_rows_and_give_the_same_first_loss(photos, tmp_path, build_tiny):
    rows, losses = {}, {}
    for form, write in FORMS.items():
        dataset = load_captions(str(write(photos, tmp_path / form)), "validation")
        rows[form] = as_read(dataset)
        losses[form] = first_loss(dataset, build_tiny, tmp_path / "run")
    assert len(rows["image_folder"]) == 50
    assert all(found == rows["image_folder"] for found in rows.values())
    assert len(set(losses.values())) == 1
