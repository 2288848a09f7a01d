"""A picture is read and decoded the first time that it is met, and again when its file has changed."""

import logging
import os
from multiprocessing import get_context

import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from hfcap.data import picture_cache, picture_checks
from hfcap.data.picture_cache import PictureCache, cache_folder, key_of_file
from hfcap.data.picture_checks import content_hashes, find_bad_images
from hfcap.data.sources import load_captions


@pytest.fixture
def reads(monkeypatch):
    """What is read and what is decoded, one entry each time."""
    seen = {"read": [], "decoded": []}
    read_bytes, load = picture_checks.read_bytes, Image.open

    def reading(image):
        seen["read"].append(image["path"])
        return read_bytes(image)

    def opening(file, *args, **options):
        seen["decoded"].append(file)
        return load(file, *args, **options)

    monkeypatch.setattr(picture_checks, "read_bytes", reading)
    monkeypatch.setattr(Image, "open", opening)
    return seen


def counts(reads):
    found = (len(reads["read"]), len(reads["decoded"]))
    for entries in reads.values():
        entries.clear()
    return found


def draw(path, colour, size=(8, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def rows_of(images):
    columns = {"image_id": [str(row) for row in range(len(images))], "image": images}
    return Dataset.from_dict(columns, features=Features({"image_id": Value("string"), "image": ImageFeature()}))


def of_paths(*paths):
    return rows_of([{"bytes": None, "path": str(path)} for path in paths])


def test_check_and_hashes_read_and_decode_each_picture_once(tmp_path, reads):
    rows = of_paths(*[draw(tmp_path / part / f"{n}.png", (n, 0, 0)) for part in ("a", "b") for n in range(3)])
    assert find_bad_images(rows) == []
    assert counts(reads) == (6, 6)
    hashes = content_hashes(rows)
    assert find_bad_images(rows) == [] and counts(reads) == (0, 0)
    assert len(set(hashes)) == 3


def test_hashes_alone_decode_nothing_and_the_check_still_does(tmp_path, reads):
    (tmp_path / "half.png").write_bytes(draw(tmp_path / "whole.png", "red", (64, 64)).read_bytes()[:100])
    rows = of_paths(tmp_path / "whole.png", tmp_path / "half.png", tmp_path / "half.png")
    content_hashes(rows)
    assert counts(reads) == (2, 0)
    for expected in [(2, 2), (0, 0)]:
        bad = find_bad_images(rows)
        assert [one.row for one in bad] == [1, 2] and "truncated" in bad[0].reason.lower()
        assert counts(reads) == expected


@pytest.mark.parametrize("change", ["size", "mtime", "inode"])
def test_a_changed_file_is_read_again(tmp_path, reads, change):
    path, other = draw(tmp_path / "a.bmp", "red"), draw(tmp_path / "other" / "b.bmp", "tan")
    rows = of_paths(path)
    (before,) = content_hashes(rows)
    status, content = path.stat(), other.read_bytes()
    assert len(content) == status.st_size
    if change == "inode":  # another file in its place, like it from outside
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
        other.replace(path)
    else:
        path.write_bytes(content + b"\0" * (change == "size"))
        later = status.st_mtime_ns + (change == "mtime")
        os.utime(path, ns=(status.st_atime_ns, later))
    now = path.stat()
    same = {
        "size": now.st_size == status.st_size,
        "mtime": now.st_mtime_ns == status.st_mtime_ns,
        "inode": now.st_ino == status.st_ino,
    }
    assert [name for name in same if not same[name]] == [change]
    counts(reads)
    assert content_hashes(rows) != [before]
    assert counts(reads) == (1, 0)


def test_a_limit_of_pixels_counts_without_another_look_where_the_size_is_known(tmp_path, reads):
    rows = of_paths(draw(tmp_path / "a.png", "red", (40, 30)))
    assert "40 x 30 pixels, more than max_pixels (100)" in find_bad_images(rows, 100)[0].reason
    counts(reads)
    assert find_bad_images(rows, 100) and counts(reads) == (0, 0)
    assert not find_bad_images(rows, 1200) and counts(reads) == (1, 1)
    assert find_bad_images(rows, 1199) and counts(reads) == (0, 0)


def test_embedded_pictures_are_decoded_once(tmp_path, reads):
    data = [draw(tmp_path / f"{n}.png", (n, 0, 0)).read_bytes() for n in range(3)]
    rows = rows_of([{"bytes": one, "path": "x.png"} for one in data])
    assert find_bad_images(rows) == [] and counts(reads) == (3, 3)
    assert find_bad_images(rows) == [] and content_hashes(rows)
    assert counts(reads) == (0, 0)


def test_pictures_that_are_not_there_are_looked_for_each_time(tmp_path):
    rows = of_paths(tmp_path / "late.png")
    assert "FileNotFoundError" in find_bad_images(rows)[0].reason
    draw(tmp_path / "late.png", "red")
    assert find_bad_images(rows) == []


@pytest.mark.parametrize("damage", ["cut", "other content", "empty", "a folder", "garbage"])
def test_a_damaged_cache_is_computed_again(tmp_path, reads, damage):
    rows = of_paths(draw(tmp_path / "a.png", "red"))
    hashes = content_hashes(rows)
    (file,) = cache_folder().iterdir()
    whole = file.read_bytes()
    if damage == "a folder":
        file.unlink()
        file.mkdir()
    else:
        wrong = whole.replace(hashes[0].encode(), b"0" * 64)
        file.write_bytes({"cut": whole[:-9], "other content": wrong, "empty": b"", "garbage": b"\xff{"}[damage])
    counts(reads)
    assert content_hashes(rows) == hashes and counts(reads) == (1, 0)
    if damage != "a folder":
        assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_said_and_no_reason_to_stop(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "file")
    with caplog.at_level(logging.WARNING):
        assert find_bad_images(of_paths(draw(tmp_path / "a.png", "red"))) == []
    assert "pictures will be checked again at the next start, their check cannot be kept" in caplog.text


def test_a_bad_picture_may_be_good_with_another_decoder(tmp_path, monkeypatch):
    (tmp_path / "half.png").write_bytes(draw(tmp_path / "whole.png", "red", (64, 64)).read_bytes()[:100])
    rows = of_paths(tmp_path / "half.png")
    assert find_bad_images(rows)
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    assert not find_bad_images(rows)


def test_what_is_no_longer_in_the_folder_is_dropped(tmp_path, reads):
    paths = [draw(tmp_path / f"{n}.png", (n, 0, 0)) for n in range(2)]
    content_hashes(of_paths(*paths))
    paths[0].unlink()
    content_hashes(of_paths(draw(tmp_path / "new.png", "red")))
    (file,) = cache_folder().iterdir()
    text = file.read_text()
    assert [name in text for name in ('"0.png"', '"1.png"', '"new.png"')] == [False, True, True]


def test_the_least_recently_used_files_go(tmp_path, reads, monkeypatch):
    rows = [of_paths(draw(tmp_path / str(n) / "a.png", (n, 0, 0))) for n in range(3)]
    for number, one in enumerate(rows[:2]):
        content_hashes(one)
        os.utime(picture_cache._file_of(str(tmp_path / str(number))), (number, number))
    content_hashes(rows[0])  # used again
    monkeypatch.setattr(picture_cache, "MAX_BYTES", sum(file.stat().st_size for file in cache_folder().iterdir()))
    content_hashes(rows[2])
    counts(reads)
    for one, expected in zip((rows[0], rows[2], rows[1]), [(0, 0), (0, 0), (1, 0)], strict=True):
        content_hashes(one)
        assert counts(reads) == expected


def _add_many(arguments):
    folder, worker, cache = arguments
    import datasets

    datasets.config.HF_DATASETS_CACHE = cache
    for number in range(20):
        content_hashes(of_paths(folder / f"{worker}-{number}.png"))
    return len(content_hashes(of_paths(*sorted(folder.iterdir()))))


def test_several_processes_never_leave_half_a_file(tmp_path, monkeypatch, own_cache):
    import datasets

    folder = tmp_path / "photos"
    for worker in range(2):
        for number in range(20):
            draw(folder / f"{worker}-{number}.png", (worker, number, 0))
    cache = datasets.config.HF_DATASETS_CACHE
    with get_context("spawn").Pool(2) as pool:
        assert pool.map(_add_many, [(folder, worker, cache) for worker in range(2)]) == [40, 40]
    (file,) = cache_folder().iterdir()
    keys = [key_of_file(path) for path in folder.iterdir()]
    assert file.suffix == ".json" and all(PictureCache().find(key) is not None for key in keys)


def test_a_folder_of_pictures_is_decoded_once_for_both_loads(tmp_path, reads):
    for number in range(4):
        draw(tmp_path / "data" / f"{number}.png", (number, 0, 0)).with_suffix(".txt").write_text("a thing")
    for expected in [(4, 4), (0, 0)]:
        content_hashes(load_captions(str(tmp_path / "data"), "train"))
        assert counts(reads) == expected
