"""Resizing, cropping and normalizing of the page, in node, against Pillow and `hfcap.ondevice.image_processing`."""

import json
import shutil
import subprocess
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image
from PIL import __version__ as pillow_version

from hfcap.ondevice.image_processing import ImageProcessor

NODE = shutil.which("node")
pytestmark = [
    pytest.mark.skipif(NODE is None, reason="needs node"),
    pytest.mark.skipif(int(pillow_version.split(".")[0]) < 13, reason="the page resizes as Pillow 13 does"),
]
PAGE = files("hfcap.ondevice") / "page"
FILTERS = {"lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4}
# Landscape and portrait, smaller and larger, one side only, and shapes of which Pillow 13 does the columns first.
SHAPES = [
    *((40, 30, 20, 20), (30, 61, 20, 20), (33, 77, 16, 37), (20, 20, 33, 41), (50, 20, 20, 20), (20, 90, 20, 30)),
    *((90, 20, 30, 20), (7, 5, 31, 29), (61, 60, 40, 40), (60, 100, 40, 40), (60, 75, 30, 30), (20, 31, 15, 21)),
]
RESIZE = """
import { readFileSync, writeFileSync } from "node:fs";
const { resize } = await import(process.argv[2]);
const [cases, bytes] = [JSON.parse(readFileSync("cases.json")), readFileSync("bytes")];
let at = 0;
const found = cases.map(([width, height, toWidth, toHeight, filter]) => {
  const data = bytes.subarray(at, (at += width * height * 3));
  return Buffer.from(resize({ data, width, height }, toWidth, toHeight, filter).data);
});
writeFileSync("found", Buffer.concat(found));
"""
VALUES = """
import { readFileSync, writeFileSync } from "node:fs";
const { pixelValues } = await import(process.argv[2]);
const [cases, bytes] = [JSON.parse(readFileSync("cases.json")), readFileSync("bytes")];
let at = 0;
const found = cases.map(([width, height, settings]) => {
  const data = bytes.subarray(at, (at += width * height * 3));
  return Buffer.from(pixelValues({ data, width, height }, settings).values.buffer);
});
writeFileSync("found", Buffer.concat(found));
"""


def in_node(code, module, cases, images, folder):
    (folder / "code.mjs").write_text(code)
    (folder / "cases.json").write_text(json.dumps(cases))
    (folder / "bytes").write_bytes(b"".join(image.tobytes() for image in images))
    for name in ("resize.js", "pixels.js"):
        (folder / name.replace(".js", ".mjs")).write_text(
            (PAGE / name).read_text().replace('resize.js"', 'resize.mjs"')
        )
    command = [NODE, "code.mjs", f"./{module}.mjs"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return (folder / "found").read_bytes()


def images_of(sizes):
    return [
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
        for seed, (width, height) in enumerate(sizes)
    ]


def test_resized_bytes_are_those_of_pillow(tmp_path):
    cases = [(*shape, number) for number in FILTERS.values() for shape in SHAPES]
    images = images_of([case[:2] for case in cases])
    found = in_node(RESIZE, "resize", cases, images, tmp_path)
    for (width, height, to_width, to_height, number), image in zip(cases, images, strict=True):
        wanted = image.resize((to_width, to_height), number).tobytes()
        own, found = found[: len(wanted)], found[len(wanted) :]
        assert own == wanted, (width, height, to_width, to_height, number)
    assert not found


def test_pixel_values_are_those_of_python(tmp_path):
    common = {"do_resize": True, "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    common |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    kinds = [
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 20}},
        {
            "image_processor_type": "MobileNetV2ImageProcessor",
            "size": {"shortest_edge": 19},
            "do_center_crop": True,
            "crop_size": {"height": 16, "width": 15},
        },
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": 11},
            "do_center_crop": True,
            "crop_size": {"height": 16, "width": 17},
        },
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 16}, "crop_pct": 0.875},
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}, "crop_pct": 0.875},
        {
            "image_processor_type": "EfficientNetImageProcessor",
            "size": {"height": 9, "width": 7},
            "rescale_factor": 1 / 127.5,
            "rescale_offset": True,
            "include_top": True,
        },
        {"image_processor_type": "ViTImageProcessor", "do_resize": False, "size": {}, "do_normalize": False},
    ]
    sizes = [(40, 30), (17, 61), (9, 8)]
    cases = [(*size, common | kind) for kind in kinds for size in sizes]
    images = images_of([case[:2] for case in cases])
    found = np.frombuffer(in_node(VALUES, "pixels", cases, images, tmp_path), np.float32)
    for (*size, settings), image in zip(cases, images, strict=True):
        wanted = ImageProcessor(settings)(image)
        own, found = found[: wanted.size].reshape(wanted.shape), found[wanted.size :]
        np.testing.assert_array_equal(own, wanted, err_msg=str((size, settings)))
    assert not len(found)
