"""`scenes`, the embedded data set: pictures drawn by code, each with five differently worded references.

It needs no download and has no cache that could go stale: the pictures are drawn in memory on each call, some
thousands in a few seconds. The facts and the held-out pairs are described in `hfcap.data.scene_facts`.
"""

import io
from random import Random

from datasets import Dataset, Features, Image, List, Value

from hfcap.data.scene_drawing import draw_scene
from hfcap.data.scene_facts import SPLITS, Scene, sample_scene
from hfcap.data.scene_wording import STYLES, write_references

MIN_IMAGE_SIZE = 32

FEATURES = Features(
    {
        "image_id": Value("string"),
        "image": Image(),
        "captions": List(Value("string")),
        "held_out": Value("bool"),
        "scene": Value("string"),
    }
)


def load_scenes(split: str, num_images: int, style: str, image_size: int = 96, seed: int = 0) -> Dataset:
    """Draw `num_images` scenes of a split and write their references.

    Image i depends on (seed, split, i) alone: a larger set begins with the same images, and both styles describe the
    same pictures. No scene (and so no picture) of one split occurs in another, for any seeds.

    Args:
        split: "train", "validation" or "test"; only the last two contain held-out (colour, shape) pairs.
        num_images: number of rows.
        style: "caption" (short phrases) or "alt_text" (sentences with places and relations).
        image_size: side of the square pictures in pixels; shapes stay legible from 64 upwards.
        seed: another seed draws other scenes of the same split.

    Returns:
        Rows of `image_id` (str, "scenes-train-000123"), `image` (RGB PNG), `captions` (5 strings), `held_out` (bool),
        and `scene`, the facts as JSON (see `scene_facts.scene_from_json`).

    Raises:
        ValueError: for an unknown split or style, or a number below the least possible one.

    """
    _check(split, num_images, style, image_size)
    columns: dict[str, list] = {name: [] for name in FEATURES}
    for index in range(num_images):
        for name, value in _row(split, index, style, image_size, seed).items():
            columns[name].append(value)
    return Dataset.from_dict(columns, features=FEATURES)


def scene_captions(split: str, num_images: int, style: str, seed: int = 0) -> list[list[str]]:
    """Give the references that `load_scenes` gives, without drawing the pictures."""
    return [_references(sample_scene(split, i, seed), split, i, style, seed) for i in range(num_images)]


def is_scenes(rows: Dataset) -> bool:
    """Whether rows are those of `load_scenes`, so that `scene` holds the facts of the picture."""
    # Not by their pictures: a training set leaves them undecoded, and with cached features they are gone.
    return all(rows.features.get(name) == kind for name, kind in FEATURES.items() if name != "image")


def _row(split: str, index: int, style: str, image_size: int, seed: int) -> dict:
    scene = sample_scene(split, index, seed)
    image_id = f"scenes-{split}-{index:06d}" if seed == 0 else f"scenes-{split}-s{seed}-{index:06d}"
    # One generator each: what one part draws never moves what another one gets.
    picture = draw_scene(scene, Random(f"{seed}/{split}/{index}/drawing"), image_size)
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return {
        "image_id": image_id,
        "image": {"bytes": file.getvalue(), "path": f"{image_id}.png"},
        "captions": _references(scene, split, index, style, seed),
        "held_out": scene.held_out,
        "scene": scene.to_json(),
    }


def _references(scene: Scene, split: str, index: int, style: str, seed: int) -> list[str]:
    return write_references(scene, style, Random(f"{seed}/{split}/{index}/{style}"))


def _check(split: str, num_images: int, style: str, image_size: int) -> None:
    if split not in SPLITS:
        raise ValueError(f"scenes has no split {split!r}: choose one of {', '.join(SPLITS)}")
    if style not in STYLES:
        raise ValueError(f"scenes has no style {style!r}: choose one of {', '.join(STYLES)}")
    if num_images < 1:
        raise ValueError(f"num_images is {num_images}, but a data set needs at least 1 image")
    if image_size < MIN_IMAGE_SIZE:
        raise ValueError(f"image_size is {image_size} pixels: shapes need at least {MIN_IMAGE_SIZE}, better 64 or 96")
