"""Pictures of every mode, size and name go from a source through the processor into a batch that trains."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.data.sources import load_captions
from hfcap.training.collators import CaptionCollator

RED = (255, 0, 0)


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def red(size=(40, 30), mode="RGB"):
    return Image.new("RGB", size, RED).convert(mode)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(red(), "JPEG", exif=exif, quality=95)


def animation():
    frames = [red(), Image.new("RGB", (40, 30), "blue")]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:])


SIXTEEN_BITS = Image.fromarray(np.full((30, 40), 65535, dtype=np.uint16))


WHITE = (255, 255, 255)
# name of the file -> (content, colour that a person sees)
PICTURES = {
    "plain.png": (encode(red()), RED),
    "turned.jpg": (turned(), RED),
    "cmyk.jpg": (encode(red(mode="CMYK"), "JPEG", quality=95), RED),
    "palette.png": (encode(red().quantize(4)), RED),
    "sixteen bits.png": (encode(SIXTEEN_BITS), WHITE),
    "sixteen.tiff": (encode(SIXTEEN_BITS, "TIFF"), WHITE),
    "transparent.png": (encode(Image.new("RGBA", (40, 30), (0, 0, 0, 0))), WHITE),
    "grey.png": (encode(Image.new("L", (40, 30), 255)), WHITE),
    "grey and alpha.png": (encode(Image.new("LA", (40, 30), (255, 255))), WHITE),
    "one bit.png": (encode(Image.new("1", (40, 30), 1)), WHITE),
    "animation.gif": (animation(), RED),
    "picture.webp": (encode(red(), "WEBP", lossless=True), RED),
    "wrong name.png": (encode(red(), "BMP"), RED),
    "one pixel.png": (encode(red((1, 1))), RED),
    "three pixels high.png": (encode(red((50, 3))), RED),
    "three pixels wide.png": (encode(red((3, 50))), RED),
    "a line.png": (encode(red((10000, 20))), RED),
    "a column.png": (encode(red((20, 10000))), RED),
    "Straße 写真 🐕.png": (encode(red()), RED),
    "x" * 251 + ".png": (encode(red()), RED),
    'it\'s "quoted" & <b>, 100%.png': (encode(red()), RED),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Each picture with a caption beside it, and one that is a link out of the folder."""
    folder, elsewhere = tmp_path_factory.mktemp("pictures"), tmp_path_factory.mktemp("elsewhere")
    for name, (content, _) in PICTURES.items():
        (folder / name).write_bytes(content)
        (folder / name).with_suffix(".txt").write_text("a picture")
    (elsewhere / "target.png").write_bytes(encode(red()))
    (folder / "link.png").symlink_to(elsewhere / "target.png")
    (folder / "link.txt").write_text("a picture elsewhere")
    return folder


def test_each_becomes_the_picture_that_a_person_sees_and_trains(folder, build_tiny):
    rows = load_captions(str(folder), "train")
    assert len(rows) == len(PICTURES) + 1
    colors = {name.rsplit(".", 1)[0]: color for name, (_, color) in PICTURES.items()}
    data = CaptionDataset(rows)
    model, processor = build_tiny("llava")
    collator = CaptionCollator(processor, model.config, "caption")
    plain = collator([data[rows["image_id"].index("plain")]])["pixel_values"]
    for item in data:
        seen = np.asarray(item["image"], dtype=int).reshape(-1, 3)
        wanted = colors.get(item["image_id"], RED if item["image_id"] == "link" else WHITE)
        assert np.abs(seen - np.array(wanted)).max() < 30, item["image_id"]
        pixels = collator([item])["pixel_values"]
        assert pixels.shape == plain.shape and torch.isfinite(pixels).all()
        if wanted == RED:
            # A picture of 1 or 3 pixels must not be taken for one whose first axis is the channels.
            torch.testing.assert_close(pixels, plain, atol=0.3, rtol=0, msg=item["image_id"])
    turned = next(item["image"] for item in data if item["image_id"] == "turned")
    assert turned.size == (30, 40)
    with torch.no_grad():
        batch = collator([data[0], data[1]])
        assert torch.isfinite(model.get_vision_features(batch["pixel_values"])).all()
