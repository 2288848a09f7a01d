"""Augmented pictures: what the captions say stays true, and (seed, epoch, image_id) decide all of it."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from hfcap.data.augmentation import View, color_jitter, color_jitter_is_true, mirror, random_crop
from hfcap.data.caption_dataset import Augmentation, CaptionDataset
from hfcap.data.pictures import load_picture
from hfcap.data.scenes import load_scenes


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("two dogs run over the beach", True),
        ("a reddened face", True),
        ("the child is bored", True),
        ("a red dog", False),
        ("A dog in a GREY coat", False),
        ("a gray dog", False),
        ("a reddish, nearly golden dog", False),
        ("a blond boy", False),
        ("a street at night", False),
        ("a dark street", False),
        ("the brightly lit street", False),
        ("a black-and-white photo", False),
        ("a colourful market", False),
        ("a sunny day", False),
    ],
)
def test_captions_that_name_colour_or_light_forbid_jitter(caption, expected):
    assert color_jitter_is_true([caption]) is expected
    assert color_jitter_is_true(["a dog", caption]) is expected


def test_a_crop_keeps_its_share_of_the_area_and_the_shape():
    picture = Image.new("RGB", (200, 100))
    areas = []
    for seed in range(200):
        cropped = random_crop(picture, 0.7, np.random.default_rng(seed))
        assert abs(cropped.width / cropped.height - 2) < 0.05
        areas.append(cropped.width * cropped.height / 20000)
    assert 0.69 < min(areas) < 0.73 and 0.97 < max(areas) <= 1
    assert random_crop(Image.new("RGB", (1, 1)), 0.5, np.random.default_rng(0)).size == (1, 1)


def test_a_crop_is_taken_from_anywhere():
    ramp = Image.fromarray(np.arange(100, dtype=np.uint8)[None, :].repeat(100, 0)).convert("RGB")
    lefts = [np.asarray(random_crop(ramp, 0.5, np.random.default_rng(seed)))[0, 0, 0] for seed in range(100)]
    assert min(lefts) == 0 and max(lefts) > 15


def test_jitter_keeps_hue_and_stays_small():
    picture = Image.new("RGB", (8, 8), (180, 90, 60))
    for seed in range(20):
        changed = color_jitter(picture, 0.2, np.random.default_rng(seed))
        hue = np.asarray(changed.convert("HSV"))[0, 0, 0]
        assert abs(int(hue) - int(np.asarray(picture.convert("HSV"))[0, 0, 0])) <= 4
        assert np.abs(np.asarray(changed, int) - np.asarray(picture, int)).max() <= 100
    assert color_jitter(picture, 0.0, np.random.default_rng(0)).tobytes() == picture.tobytes()


def test_views_are_functions_of_seed_epoch_and_image_id():
    rows = load_scenes("train", 3, "caption", image_size=32)
    rows = rows.remove_columns("captions").add_column("captions", [["a dog"], ["a red dog"], ["a dog on the left"]])
    options = {"mirror": True, "crop": 0.7, "color_jitter": 0.3}

    def seen(seed, row, **views):
        data = CaptionDataset(rows, seed=seed, **views)
        return [np.asarray(data[(epoch, row)]["image"]).tobytes() for epoch in range(4)]

    for row in range(3):
        assert seen(1, row, **options) == seen(1, row, **options)
        assert len(set(seen(1, row, **options))) == 4
        assert seen(1, row, **options) != seen(2, row, **options)
        assert len(set(seen(1, row))) == 1  # off by default
    assert len(set(seen(1, 1, color_jitter=0.3))) == 1 < len(set(seen(1, 0, color_jitter=0.3)))
    backwards = CaptionDataset(rows.select([2, 1, 0]), seed=1, **options)
    assert np.asarray(backwards[(2, 2)]["image"]).tobytes() == seen(1, 0, **options)[2]


def test_cached_crops_are_drawn_by_epoch_and_flipped_only_where_a_caption_names_no_side():
    crops = Augmentation(mirror=True, crop=0.7, cached_crops=4, seed=3)
    names = ["plain", "mirror", "crop0.7-3-1", "crop0.7-3-2-mirror", "crop0.7-3-3", "crop0.7-3-4-mirror"]
    assert [str(view) for view in crops.cached_views()] == names

    def drawn(augmentation, captions):
        row = {"image_id": "a", "captions": captions}
        assert [augmentation.view(row, epoch) for epoch in range(5)] == [augmentation.view(row, e) for e in range(5)]
        counts = Counter(str(augmentation.view(row, epoch)) for epoch in range(600))
        return {name: round(count / 600, 1) for name, count in counts.items()}

    assert drawn(crops, ["a dog"]) == dict.fromkeys(names, 0.2)
    assert drawn(crops, ["a dog on the left"]) == dict.fromkeys(names[::2], 0.3)
    assert drawn(Augmentation(mirror=True), ["a dog"]) == {"plain": 0.5, "mirror": 0.5}
    unflipped = Augmentation(crop=0.7, cached_crops=2, seed=3)
    assert drawn(unflipped, ["a dog"]) == dict.fromkeys(["plain", "crop0.7-3-1", "crop0.7-3-2"], 0.3)


@pytest.mark.parametrize("caption", ["a dog", "a dog on the left"])
def test_a_cached_crop_is_what_an_epoch_shows_without_a_cache(caption):
    row = load_scenes("train", 1, "caption", image_size=64)[0] | {"captions": [caption]}
    augmentation = Augmentation(mirror=True, crop=0.7, seed=3)
    flipped = [augmentation.flips(row, epoch) for epoch in range(1, 9)]
    assert len(set(flipped)) == (2 if caption == "a dog" else 1)
    for epoch, is_flipped in enumerate(flipped, start=1):
        cached = View(is_flipped, 0.7, epoch, 3)(load_picture(row["image"]), row["image_id"])
        shown = augmentation.picture(row, epoch)
        assert (cached.size, cached.tobytes()) == (shown.size, shown.tobytes())


def test_a_cached_view_is_a_function_of_seed_number_and_image_id():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))

    def seen(image_id="a", **options):
        return View(**{"crop": 0.7, "number": 1} | options)(picture, image_id)

    def pixels(image):
        return image.size, image.tobytes()

    assert pixels(seen()) == pixels(seen())
    others = [seen("b"), seen(number=2), seen(seed=1), seen(crop=0.6), seen(flipped=True)]
    assert len({pixels(image) for image in [seen(), *others]}) == 6
    assert pixels(mirror(seen(flipped=True))) == pixels(seen())
    assert pixels(View()(picture, "a")) == pixels(picture)
    for number in range(20):
        width, height = seen(number=number).size
        assert 0.65 < width * height / 2400 <= 1
