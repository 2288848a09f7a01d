import io
import struct

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image, ImageOps, PngImagePlugin

from hfcap.data.image_info import image_info
from hfcap.data.picture_checks import content_hashes, find_bad_images, why_bad_picture
from hfcap.data.pictures import load_picture
from hfcap.report import thumbnail_uri

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def rows_of(files, captions=None, ids=None):
    """A data set of encoded files; each is bytes, a path or None."""
    images = [{"bytes": file if isinstance(file, bytes) else None, "path": str(file)} for file in files]
    images = [{"bytes": file["bytes"], "path": None} if file["bytes"] else file for file in images]
    columns = {
        "image_id": ids or [str(i) for i in range(len(files))],
        "image": images,
        "captions": captions or [["a picture"]] * len(files),
    }
    features = Features({"image_id": Value("string"), "image": ImageFeature(), "captions": List(Value("string"))})
    return Dataset.from_dict(columns, features=features)


def two_halves(mode="RGB", left=RED, right=WHITE):
    image = Image.new(mode, (8, 4), right)
    image.paste(left, (0, 0, 4, 4))
    return image


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    picture = load_picture(encoded(two_halves(), exif=exif))
    assert picture.size == (4, 8)
    assert picture.getpixel((1, 1)) == RED and picture.getpixel((1, 6)) == WHITE


def exif_block(*tags):
    """An EXIF block of (tag, type, value of at most four bytes), as a camera writes it, odd ones too."""
    entries = [struct.pack(">HHL", tag, kind, count) + value.ljust(4, b"\0") for tag, kind, count, value in tags]
    directory = struct.pack(">H", len(entries)) + b"".join(entries) + bytes(4)
    return b"Exif\0\0MM\0\x2a\0\0\0\x08" + directory


TURN = (0x0112, 3, 1, b"\0\x06")  # shown rotated by 90 degrees clockwise
# name -> (EXIF block, is the picture turned)
ODD_EXIF = {
    "a negative XResolution": (exif_block(TURN, (0x011A, 9, 1, struct.pack(">l", -72))), True),
    "text for a number": (exif_block((0x0100, 2, 4, b"abc\0"), TURN), True),
    "a negative short": (exif_block((0x0101, 8, 1, b"\xff\xff"), TURN), True),
    "orientation as text": (exif_block((0x0112, 2, 2, b"6\0")), False),
    "orientation as a fraction": (exif_block((0x0112, 11, 1, struct.pack(">f", 6))), False),
    "orientation 9": (exif_block((0x0112, 3, 1, b"\0\x09")), False),
    "garbage": (b"Exif\0\0garbage", False),
    "cut off": (b"Exif\0\0MM\0\x2a\0\0", False),
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("name", ODD_EXIF)
def test_odd_exif_is_no_reason_to_fail(name, kind):
    exif, turned = ODD_EXIF[name]
    file = encoded(two_halves(), kind, exif=exif)
    size = (4, 8) if turned else (8, 4)
    assert why_bad_picture({"bytes": file}) is None
    assert load_picture(file).size == size
    assert load_picture(load_picture(file)).size == size  # turned once
    info = image_info({"bytes": file})
    assert (info.reason, info.width, info.height) == (None, *size)
    assert thumbnail_uri(Image.open(io.BytesIO(file)))[1:] == size


@pytest.mark.parametrize("key", ["Raw profile type exif", "exif", "xmp"])
def test_text_where_exif_belongs_counts_as_upright(key):
    text = PngImagePlugin.PngInfo()
    text.add_itxt(key, "no\nexif\n1\nzz")
    assert load_picture(encoded(two_halves(), pnginfo=text)).size == (8, 4)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_pillow_turns_them(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(Image.effect_noise((8, 4), 90).convert("RGB"), kind, exif=exif)
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
    assert load_picture(file).tobytes() == load_picture(Image.open(io.BytesIO(file))).tobytes() == wanted.tobytes()
    info = image_info({"bytes": file})
    assert (info.width, info.height) == wanted.size


def test_alpha_is_laid_over_white():
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    picture = load_picture(image)
    assert [picture.getpixel((x, 0)) for x in (0, 1)] == [RED, WHITE]
    half = load_picture(Image.new("LA", (1, 1), (0, 128)))
    assert half.mode == "RGB" and abs(half.getpixel((0, 0))[0] - 127) <= 1


def test_transparent_colour_of_rgb_png_and_palette_is_white():
    black_is_clear = encoded(two_halves(left=(0, 0, 0), right=RED), transparency=(0, 0, 0))
    assert load_picture(black_is_clear).getpixel((0, 0)) == WHITE
    palette = two_halves(left=(0, 0, 0), right=RED).quantize(4)
    index_of_black = palette.getpixel((0, 0))
    assert load_picture(encoded(palette, transparency=index_of_black)).getpixel((0, 0)) == WHITE
    assert load_picture(encoded(palette)).getpixel((0, 0)) == (0, 0, 0)
    assert load_picture(encoded(palette)).getpixel((7, 0)) == RED


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "YCbCr", "HSV", "RGBA", "LA", "P", "F"])
def test_every_mode_becomes_rgb_of_the_same_brightness(mode):
    grey = Image.new("L", (4, 4), 255)
    source = grey.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr", "HSV") else grey.convert(mode)
    picture = load_picture(source)
    assert picture.mode == "RGB"
    assert np.asarray(picture).min() >= 250


def test_cmyk_jpeg():
    picture = load_picture(encoded(Image.new("RGB", (16, 16), RED).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(np.asarray(picture, dtype=int) - np.array(RED)).max() < 30


@pytest.mark.parametrize(("kind", "dtype"), [("PNG", np.uint16), ("TIFF", np.uint16), ("TIFF", np.int32)])
def test_sixteen_bits_keep_their_brightness(kind, dtype):
    values = np.array([[0, 257 * 250, 65535]], dtype=dtype)
    picture = load_picture(encoded(Image.fromarray(values), kind))
    assert np.asarray(picture)[0, :, 0].tolist() == [0, 250, 255]


def test_paths_dicts_and_pil_images_give_the_same_and_the_original_is_untouched(tmp_path):
    image = two_halves("RGBA", (255, 0, 0, 255), (0, 0, 0, 0))
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(image))
    forms = [image, path, str(path), encoded(image), {"bytes": None, "path": str(path)}, {"bytes": encoded(image)}]
    assert len({load_picture(form).tobytes() for form in forms}) == 1
    assert image.mode == "RGBA"


def test_what_is_not_a_picture_raises_oserror(tmp_path):
    for form in (b"text", tmp_path / "none.png", {"bytes": None, "path": None}):
        with pytest.raises(OSError):
            load_picture(form)


def test_bad_images_are_found(tmp_path):
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    jpeg, png = encoded(photo, "JPEG"), encoded(photo)
    files = [jpeg, jpeg[: len(jpeg) // 2], png, png[: len(png) // 2], b"no picture", tmp_path / "missing.jpg"]
    bad = find_bad_images(rows_of(files))
    assert [one.row for one in bad] == [1, 3, 4, 5]
    assert "truncated" in bad[0].reason and "missing.jpg" in bad[3].reason


def test_content_hash_is_of_the_file_not_of_where_it_lies(tmp_path):
    png = encoded(two_halves())
    (tmp_path / "a.png").write_bytes(png)
    hashes = content_hashes(rows_of([png, tmp_path / "a.png", encoded(two_halves(left=WHITE))]))
    assert hashes[0] == hashes[1] != hashes[2]
    absent = content_hashes(rows_of([tmp_path / "none", tmp_path / "other" / "none", tmp_path / "none"]))
    assert absent[0] == absent[2] != absent[1]
