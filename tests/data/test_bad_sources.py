"""Bad rows and files of many kinds: each is one clear error that names the file, the place and the fix."""

import io
import json
import tarfile
import zlib

import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from source_forms import write_tar

from hfcap.data.sources import load_captions


def picture(kind="PNG", size=(8, 8), mode="RGB", **options):
    file = io.BytesIO()
    Image.effect_noise(size, 50).convert(mode).save(file, kind, **options)
    return file.getvalue()


def png_of(width, height):
    """A PNG file whose header says so many pixels and whose data is a few bytes: a decompression bomb."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def line(**entry):
    return json.dumps({"image": "good.png", "caption": "a dog"} | entry)


GOOD = line()
CSV = "image,caption\ngood.png,a dog\n"
COCO = {"images": [{"id": 1, "file_name": "good.png"}], "annotations": [{"image_id": 1, "caption": "a dog"}]}
KARPATHY = {"images": [{"filename": "good.png", "split": "train", "sentences": [{"raw": "a dog"}]}]}


def coco(images=None, annotations=None):
    extra = {"images": COCO["images"] + (images or []), "annotations": COCO["annotations"] + (annotations or [])}
    return json.dumps(extra)


def karpathy(**entry):
    return json.dumps({"images": [*KARPATHY["images"], KARPATHY["images"][0] | {"filename": "x.png"} | entry]})


def messages(*turns):
    return line(messages=[{"role": role, "content": content} for role, content in turns])


# name of the file, its content (the second row is bad), what the error says: file and place, then what and the fix.
BAD_ROWS = {
    "jsonl: not JSON": ("a.jsonl", f"{GOOD}\n{{oops\n", r"a.jsonl, line 2: malformed JSON .* one object per line"),
    "jsonl: cut off": ("a.jsonl", f"{GOOD}\n{GOOD[:-3]}", r"a.jsonl, line 2: malformed JSON"),
    "jsonl: nested too deeply": ("a.jsonl", f"{GOOD}\n{'[' * 99999}", r"a.jsonl, line 2: malformed JSON"),
    "jsonl: not UTF-8": ("a.jsonl", GOOD.encode() + b'\n{"image": "\xe9"}', r"line 2: byte 0xe9 .* save .* as UTF-8"),
    "jsonl: UTF-16": ("a.jsonl", GOOD.encode("utf-16"), r"a.jsonl, line 1: byte 0xff is not UTF-8"),
    "jsonl: a list": ("a.jsonl", f"{GOOD}\n[1]", r"a.jsonl, line 2: a JSON list; wanted an object"),
    "jsonl: nothing in it": ("a.jsonl", "", r"a.jsonl has no split 'train'; it has: no rows"),
    "no picture": ("a.jsonl", f'{GOOD}\n{{"caption": "x"}}', r"line 2: no picture's path .*--image_column"),
    "picture null": ("a.jsonl", f"{GOOD}\n{line(image=None)}", r"line 2: image is None; wanted the path of one"),
    "picture empty": ("a.jsonl", f"{GOOD}\n{line(image='')}", r"line 2: image is ''; wanted the path of one picture"),
    "picture a number": ("a.jsonl", f"{GOOD}\n{line(image=7)}", r"line 2: image is a JSON number .*wanted the path"),
    "two pictures": ("a.jsonl", f"{GOOD}\n{line(image=['a', 'b'])}", r"line 2: image is a JSON list .*one picture"),
    "picture on the web": ("a.jsonl", f"{GOOD}\n{line(image='https://x.org/a.png')}", r"line 2: .*download the pict"),
    "picture in base64": ("a.jsonl", f"{GOOD}\n{line(image='data:image/png;base64,AA')}", r"line 2: .*download"),
    "null character": ("a.jsonl", f"{GOOD}\n{line(image='a' + chr(0))}", r"line 2: .*null character; fix the path"),
    "no captions": ("a.jsonl", f'{GOOD}\n{{"image": "good.png"}}', r"line 2: no captions .*--captions_column"),
    "caption a number": ("a.jsonl", f"{GOOD}\n{line(caption=3)}", r"line 2: caption is a JSON number; wanted a str"),
    "caption a boolean": ("a.jsonl", f"{GOOD}\n{line(caption=True)}", r"line 2: caption is a JSON boolean; wanted"),
    "a number among captions": (
        "a.jsonl",
        f"{GOOD}\n{line(captions=['a', 3])}",
        r"line 2: captions\[1\] is a JSON nu",
    ),
    "caption an object": ("a.jsonl", f"{GOOD}\n{line(caption={'en': 'a'})}", r"line 2: caption is a JSON object"),
    "half a surrogate": ("a.jsonl", f'{GOOD}\n{line(caption="a")[:-2]}\\ud800"}}', r"line 2: .*surrogate.*fix"),
    "image_id a list": ("a.jsonl", f"{GOOD}\n{line(image_id=[1])}", r"line 2: image_id is \[1\]; wanted a string"),
    "image_id empty": ("a.jsonl", f"{GOOD}\n{line(image_id='')}", r"line 2: image_id is ''; wanted a string"),
    "image_id here and there": ("a.jsonl", f"{line(image_id='1')}\n{GOOD}", r"a.jsonl, line 2: no image_id, .*add it"),
    "prompt a list": ("a.jsonl", f"{GOOD}\n{line(prompt=['x'])}", r"line 2: prompt is a JSON list; wanted a string"),
    "messages: no answer": ("a.jsonl", messages(("user", "x")), r"line 1: messages has the roles \['user'\]; wanted"),
    "messages: a dialogue": (
        "a.jsonl",
        messages(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")),
        r"line 1: messages has the roles .*one question and one answer",
    ),
    "messages: a string": ("a.jsonl", line(messages="x"), r"line 1: messages is a JSON string; wanted"),
    "messages: two images": (
        "a.jsonl",
        messages(("user", "<image><image>x"), ("assistant", "b")),
        r"line 1: messages\[0\].content has 2 images; wanted one image per row",
    ),
    "messages: a video": (
        "a.jsonl",
        messages(("user", [{"type": "video"}]), ("assistant", "b")),
        r"line 1: messages\[0\].content has parts of the types \['video'\]; wanted texts",
    ),
    "csv: a value too many": ("a.csv", f"{CSV}good.png,a dog, a cat\n", r"a.csv, line 3: 3 values for 2 .*quotes"),
    "csv: a value too few": ("a.csv", f"{CSV}good.png\n", r"a.csv, line 3: 1 values for 2 columns"),
    "csv: an open quote": ("a.csv", f'{CSV}good.png,"a dog\n', r"a.csv, line 3: malformed table .*fix the line"),
    "csv: no header": ("a.csv", "dog\n", r"a.csv, line 1: the header is \['dog'\]; wanted two or more names"),
    "csv: a name twice": ("a.csv", "image,image\na,b\n", r"a.csv, line 1: the header is .*each once"),
    "csv: not UTF-8": ("a.csv", CSV.encode() + b"good.png,\xff\n", r"a.csv, line 3: byte 0xff .*save .* as UTF-8"),
    "csv: no known columns": ("a.csv", "x,y\n1,2\n", r"a.csv, line 2: no picture's path among 'x', 'y'"),
    "json: not JSON": ("a.json", "{\n oops", r"a.json, line 2: malformed JSON"),
    "json: something else": ("a.json", '{"info": 1}', r"a.json: neither COCO .* nor Karpathy's JSON .* nor a list"),
    "json: numbers": ("a.json", "[1]", r"a.json, \[0\]: a JSON number; wanted an object"),
    "coco: unknown image": (
        "a.json",
        coco(annotations=[{"image_id": 2, "caption": "x"}]),
        r"a.json, annotations\[1\]: image_id 2 is not among the file's images; add or remove it",
    ),
    "coco: no file name": ("a.json", coco(images=[{"id": 3}]), r"a.json, images\[1\]: id is 3, file_name None; want"),
    "coco: no caption": ("a.json", coco(annotations=[{"image_id": 1}]), r"annotations\[1\]: no caption .*add it"),
    "coco: caption null": (
        "a.json",
        coco(annotations=[{"image_id": 1, "caption": None}]),
        r"annotations\[1\]: caption is a JSON null; wanted a string",
    ),
    "karpathy: no split": ("a.json", karpathy(split=None), r"a.json, images\[1\]: split is None; wanted train"),
    "karpathy: no sentences": ("a.json", karpathy(sentences=None), r"images\[1\].sentences: a JSON null; wanted a l"),
    "karpathy: raw a list": ("a.json", karpathy(sentences=[{"raw": []}]), r"sentences\[0\]: raw is a JSON list"),
    "pictures nowhere": ("a.jsonl", line(image="gone.png"), r"a.jsonl, line 1: picture 'gone.png'.*--image_folder"),
    "no picture's captions": ("a.jsonl", line(caption=" "), r"no caption in 1 image"),
    "kind unknown": ("a.xlsx", b"PK", r"a.xlsx is a file of an unknown kind; wanted .jsonl"),
    "a tar cut off": ("a.tar", b"x" * 700, r"a.tar: not a whole tar file .*write it again"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_row(name, tmp_path):
    file, content, message = BAD_ROWS[name]
    (tmp_path / "good.png").write_bytes(picture())
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as found:
        load_captions(str(tmp_path / file), "train")
    assert str(tmp_path) in str(found.value) or name == "no picture's captions"


PNG, JPEG = picture(size=(64, 64)), picture("JPEG", size=(64, 64))
BAD_PICTURES = {
    "empty file": (b"", "the file is empty"),
    "text": (b"404: not found", r"not a picture \(the file begins with b'404: not fou'"),
    "a web page": (b"<!DOCTYPE html><html>", r"\(a web page, as servers send .*; download the picture again\)"),
    "a pointer of Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
        r"\(a pointer of Git LFS; `git lfs pull` fetches the picture\)",
    ),
    "half a PNG": (PNG[: len(PNG) // 2], "truncated"),
    "half a JPEG": (JPEG[: len(JPEG) // 2], "truncated"),
    "a damaged PNG": (PNG[:60] + b"\0" * 20 + PNG[80:], "broken data stream"),
    "header only": (PNG[:20], "not a picture|OSError|SyntaxError|struct"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a picture"),
    "a bomb": (png_of(30000, 30000), "DecompressionBombError"),
    "more than max_pixels": (png_of(10000, 9000), r"10000 x 9000 pixels, more than max_pixels .*raise --max_pixels"),
    "missing file": (None, "No such file"),
    "a folder": ("folder", "Is a directory"),
    "a dangling link": ("link", "No such file"),
    "a link to itself": ("loop", "symbolic links"),
    "a name too long": ("long", "name too long"),
}


def place(kind, folder):
    """Put the bad picture there; return its path as a row names it."""
    if isinstance(kind, bytes):
        (folder / "bad.png").write_bytes(kind)
    elif kind == "folder":
        (folder / "bad.png").mkdir()
    elif kind in ("link", "loop"):
        (folder / "bad.png").symlink_to("gone.png" if kind == "link" else "bad.png")
    return "n" * 300 + ".png" if kind == "long" else "bad.png"


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_bad_picture_stops_before_training_or_is_left_out(name, tmp_path):
    kind, reason = BAD_PICTURES[name]
    (tmp_path / "good.png").write_bytes(picture())
    bad = place(kind, tmp_path)
    source = tmp_path / "captions.jsonl"
    source.write_text(f"{GOOD}\n{line(image=bad, caption='a cat')}\n")
    message = (
        rf"(?s)1 of 2 images cannot be read:\n  \S+captions.jsonl, line 2(, picture \S+)? \(image_id .*{reason}.*"
        "--on_bad_image skip"
    )
    with pytest.raises(ValueError, match=message):
        load_captions(str(source), "train")
    with pytest.raises(ValueError, match=rf"captions.jsonl, line 2(, picture \S+)? \(image_id .*{reason}"):
        list(load_captions(str(source), "train", streaming=True))
    for streaming in (False, True):
        skipped = []
        with pytest.warns(UserWarning, match="skipped"):
            rows = load_captions(
                str(source), "train", on_bad_image="skip", on_skip=skipped.append, streaming=streaming
            )
            assert [row["captions"] for row in rows] == [["a dog"]]
        if not streaming:  # a stream's rows are made in a copy of the callback
            assert [one["where"].split(", picture ")[0] for one in skipped] == [f"{source}, line 2"]


def test_max_pixels_is_configurable(tmp_path):
    (tmp_path / "good.png").write_bytes(picture(size=(100, 100)))
    (tmp_path / "a.jsonl").write_text(GOOD)
    with pytest.raises(ValueError, match=r"100 x 100 pixels, more than max_pixels \(9,999\)"):
        load_captions(str(tmp_path / "a.jsonl"), "train", max_pixels=9999)
    assert len(load_captions(str(tmp_path / "a.jsonl"), "train", max_pixels=10000)) == 1
    with pytest.raises(ValueError, match=r"max_pixels is 900,000,000; wanted 1 to 178,956,970"):
        load_captions(str(tmp_path / "a.jsonl"), "train", max_pixels=900_000_000)


def member(name, kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


BAD_TARS = {
    "path outside": (member("../evil.png"), r"member '../evil.png': a link, a device or a path outside"),
    "absolute path": (member("/etc/evil.png"), r"member '/etc/evil.png': .*plain files with relative paths"),
    "symbolic link": (member("a.png", tarfile.SYMTYPE, "/etc/passwd"), r"member 'a.png': a link"),
    "hard link": (member("a.png", tarfile.LNKTYPE, "/etc/passwd"), r"member 'a.png': a link"),
    "device": (member("a.png", tarfile.CHRTYPE), r"member 'a.png': a link, a device"),
    "no captions": (member("alone.png"), r"sample alone: alone.png; wanted one picture and one .txt"),
    "no picture": (member("alone.txt"), r"sample alone: alone.txt; wanted one picture"),
}


@pytest.mark.parametrize("name", BAD_TARS)
def test_bad_tar(name, tmp_path):
    info, message = BAD_TARS[name]
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(info)
    for streaming in (False, True):
        with pytest.raises(ValueError, match=message):
            list(load_captions(str(tmp_path / "a.tar"), "train", streaming=streaming))


def test_bad_json_in_a_tar_names_the_member(tmp_path):
    write_tar(tmp_path / "a.tar", [("1.png", picture()), ("1.json", b"{oops")])
    with pytest.raises(ValueError, match=r"a.tar, sample 1, 1.json, line 1: malformed JSON"):
        load_captions(str(tmp_path / "a.tar"), "train")


def test_bad_folders(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "dog.png").write_bytes(picture())
    with pytest.raises(ValueError, match=r"pictures without captions; write metadata.jsonl"):
        load_captions(str(folder), "train")
    (folder / "dog.txt").write_text("a dog")
    (folder / "dog.caption").write_text("a dog")
    with pytest.raises(ValueError, match=r"dog.caption and .*dog.txt both caption dog.png; keep one of the two"):
        load_captions(str(folder), "train")
    (folder / "dog.caption").unlink()
    (folder / "dog.txt").write_bytes(b"a dog\n\xff")
    with pytest.raises(ValueError, match=r"dog.txt, line 2: byte 0xff is not UTF-8"):
        load_captions(str(folder), "train")
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text(CSV)
    with pytest.raises(ValueError, match=r"has 2 files of captions for one split: a.csv, b.csv; pass one of them"):
        load_captions(str(folder), "train")


def test_bad_rows_of_parquet_name_the_row(tmp_path):
    image = {"bytes": picture(), "path": "a.png"}
    columns = {"image": [image, image], "captions": [[{"raw": "a"}], [{"raw": "b"}]], "image_id": ["a", None]}
    features = Features({"image": ImageFeature(), "captions": [{"raw": Value("string")}], "image_id": Value("string")})
    folder = tmp_path / "data"
    folder.mkdir()
    Dataset.from_dict(columns, features=features).to_parquet(folder / "a.parquet")
    with pytest.raises(ValueError, match="1 of 2 rows have no image_id, the first is row 1"):
        load_captions(str(folder), "train")
    with pytest.raises(ValueError, match="data, row 1: no image_id; add one to each row"):
        list(load_captions(str(folder), "train", streaming=True))
