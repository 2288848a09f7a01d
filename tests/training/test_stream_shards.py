"""Processes and loader processes divide the shards of a stream: each image once per epoch, each shard read by one."""

import io
import json
import logging
import shutil
import tarfile
import warnings
from collections import Counter
from itertools import islice, takewhile

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PillowImage
from test_two_processes import launch
from torch.utils.data import DataLoader

from hfcap.data import shards as shards_module
from hfcap.data.caption_stream import POSITION, CaptionStream, first_texts
from hfcap.data.shards import Shard, own_share, read_shard
from hfcap.data.sources import load_captions, source_shards
from hfcap.errors import WorkError
from hfcap.training.data_arguments import DataArguments
from hfcap.training.run_rows import load_evaluation_split
from refusals import refused

SIZES = (3, 1, 4, 2, 2)  # images of each shard
IDS = {f"{shard}-{number}" for shard, size in enumerate(SIZES) for number in range(size)}


def png(number):
    file = io.BytesIO()
    PillowImage.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(file, "PNG")
    return file.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tars")
    for shard, size in enumerate(SIZES):
        members = []
        for number in range(size):
            members += [(f"{shard}-{number}.png", png(9 * shard + number)), (f"{shard}-{number}.txt", b"a red circle")]
        write_tar(folder / f"train-{shard}.tar", members)
    return folder


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    features = Features({"image_id": Value("string"), "image": Image(), "caption": Value("string")})
    for shard, size in enumerate(SIZES):
        columns = {
            "image_id": [f"{shard}-{number}" for number in range(size)],
            "image": [{"bytes": png(number), "path": None} for number in range(size)],
            "caption": ["a red circle"] * size,
        }
        Dataset.from_dict(columns, features=features).to_parquet(folder / f"train-{shard}-of-{len(SIZES)}.parquet")
    return folder


@pytest.fixture
def opened(monkeypatch):
    """Names of the tar files opened from now on."""
    names, plain_open = [], tarfile.open

    def open_and_note(path, *rest):
        names.append(path.name)
        return plain_open(path, *rest)

    monkeypatch.setattr(tarfile, "open", open_and_note)
    return names


def read_epochs(source, num_processes, epochs=3):
    """`(epoch, image_id)` as each process reads them."""
    found = []
    for process in range(num_processes):
        stream = CaptionStream(load_captions(str(source), "train", streaming=True), seed=1)
        stream.divide(process, num_processes)
        found.append([])
        found[-1] += takewhile(lambda pair: pair[0] < epochs, map(epoch_and_id, stream))
    return found


def epoch_and_id(item):
    return item[POSITION]["epoch"], item["image_id"]


@pytest.mark.parametrize("num_processes", [1, 2, 5, 8])
@pytest.mark.parametrize("form", ["tars", "parquet"])
def test_processes_see_each_image_once_per_epoch_together(form, num_processes, request):
    parts = read_epochs(request.getfixturevalue(form), num_processes)
    assert len(parts) == num_processes
    assert Counter(pair for part in parts for pair in part) == Counter((epoch, i) for epoch in range(3) for i in IDS)


def test_a_process_opens_its_own_shards_alone(tars, opened):
    streams = []
    for process in range(2):
        stream = CaptionStream(load_captions(str(tars), "train", streaming=True))
        stream.divide(process, 2)
        streams.append(stream)
    assert not opened  # they are listed
    parts = []
    for process, stream in enumerate(streams):
        list(stream._rows_of(0, (process, 2)))
        parts.append(opened.copy())
        opened.clear()
    assert sorted(map(len, parts)) == [2, 3]
    assert sorted(parts[0] + parts[1]) == [f"train-{shard}.tar" for shard in range(5)]


def test_a_process_with_fewer_images_goes_on_with_its_part_of_the_next_epoch(tars):
    for process in range(2):
        stream = CaptionStream(load_captions(str(tars), "train", streaming=True))
        stream.divide(process, 2)
        assert len(list(islice(stream, 40))) == 40


def test_fewer_shards_than_processes_are_said_with_the_fix(tmp_path, tars, caplog):
    shutil.copy(tars / "train-0.tar", tmp_path)
    stream = CaptionStream(load_captions(str(tmp_path), "train", streaming=True))
    with caplog.at_level(logging.WARNING):
        stream.divide(0, 2)
        stream.divide(1, 2)
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith("the data are 1 file for 2 processes: each process reads all of it and skips")
    assert text.endswith("Write it as 2 or more parquet or tar files, and each reads only its own")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["tars", "parquet"])
def test_loader_processes_of_two_processes_see_each_image_equally_often(form, request):
    """Loader processes once read a part of a part: of these shards, two of them left half unseen."""
    seen = Counter()
    for process in range(2):
        stream = CaptionStream(load_captions(str(request.getfixturevalue(form)), "train", streaming=True))
        stream.divide(process, 2, 2)
        loader = DataLoader(stream, batch_size=1, num_workers=2, collate_fn=list)
        seen.update(batch[0]["image_id"] for batch in islice(loader, 300))
    assert seen.keys() == IDS and min(seen.values()) > 20


def test_a_thousand_shards_are_listed_and_not_opened(tmp_path, opened):
    write_tar(tmp_path / "train-0000.tar", [("a.png", png(1)), ("a.txt", b"one")])
    opened.clear()
    for number in range(1, 1000):
        (tmp_path / f"train-{number:04d}.tar").write_bytes(b"not read")
    stream = load_captions(str(tmp_path), "train", streaming=True)
    assert stream.num_shards == 1000
    next(iter(stream))
    assert opened == ["train-0000.tar"]


class Flaky:
    """Rows of a shard that fails at the second row so many times."""

    def __init__(self, failures, error):
        self.failures, self.error = failures, error

    def __call__(self):
        for number in range(4):
            if number == 2 and self.failures:
                self.failures -= 1
                raise self.error
            yield number


@pytest.fixture
def waits(monkeypatch):
    found = []
    monkeypatch.setattr(shards_module.time, "sleep", found.append)
    return found


def test_a_shard_that_fails_is_opened_again_and_goes_on_with_the_next_row(waits, caplog):
    assert list(read_shard(Shard("a.tar", Flaky(2, OSError("stale file handle"))))) == [0, 1, 2, 3]
    assert waits == [1.0, 5.0]
    assert caplog.messages[0] == "a.tar cannot be read (OSError: stale file handle); trying again in 1 s"


def test_a_shard_that_keeps_failing_is_named(waits):
    reason = "cannot be read after 2 rows, 3 times in a row (OSError: gone)"
    with refused(WorkError, option="b.tar", reason=reason, says="check the disk"):
        list(read_shard(Shard("b.tar", Flaky(3, OSError("gone")))))
    with pytest.raises(ValueError, match=r"^line 3: no caption"):  # an error of the content: nothing to wait for
        list(read_shard(Shard("b.tar", Flaky(1, ValueError("line 3: no caption")))))
    assert len(waits) == 2


@pytest.mark.parametrize("form", ["tars", "parquet"])
@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_a_damaged_file_is_named(form, damage, request, tmp_path, waits):
    folder = shutil.copytree(request.getfixturevalue(form), tmp_path / "data")
    stream = load_captions(str(folder), "train", streaming=True)
    path = sorted(folder.iterdir())[3]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:600])
    else:
        path.unlink()
    is_passing = (form, damage) != ("tars", "cut")  # a tar file that ends too early will not get better
    with pytest.raises(WorkError if is_passing else ValueError, match=f"^{path}"):
        list(stream)
    assert len(waits) == (2 if is_passing else 0)


def test_a_damaged_file_ends_a_training_in_one_line(tmp_path, tars):
    folder = shutil.copytree(tars, tmp_path / "data")
    stream = CaptionStream(load_captions(str(folder), "train", streaming=True))
    path = sorted(folder.iterdir())[3]
    path.write_bytes(path.read_bytes()[:600])
    for read in (lambda: next(iter(stream)), lambda: first_texts(stream.source, 1000)):
        with refused(option="data", says=(str(path), "not a whole tar file")):
            read()


def test_a_split_that_no_shard_has_is_refused(tmp_path, tars):
    for shard in range(2):
        members = [("a.png", png(1)), ("a.json", json.dumps({"caption": "one", "split": "test"}).encode())]
        write_tar(tmp_path / f"{shard}.tar", members)
    args = DataArguments(data=str(tmp_path), eval_split="train", streaming=True)
    with refused(option="eval_split", got="train", says=str(tmp_path)):
        load_evaluation_split(args, tmp_path)
    with refused(WorkError, option="data", says="no row with a caption in 10 epochs of its share of the 2 shards"):
        next(iter(CaptionStream(load_captions(str(tmp_path), "train", streaming=True))))
    with pytest.raises(ValueError, match="no split 'validation'; it has: test"):
        list(load_captions(str(tmp_path), "validation", streaming=True))


def test_the_first_images_are_the_same_for_any_number_of_readers(tars):
    stream = load_captions(str(tars), "train", streaming=True, num_images=4)
    assert stream.num_shards == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [row["image_id"] for row in stream] == ["0-0", "0-1", "0-2", "1-0"]


def test_a_folder_of_save_to_disk_has_shards(tmp_path, parquet):
    Dataset.from_parquet(sorted(map(str, parquet.iterdir()))).save_to_disk(tmp_path / "saved")
    shards = source_shards(str(tmp_path / "saved"), "train")
    assert len(shards) == len(IDS)
    assert {row.image_id for shard in shards for row in shard.open()} == IDS


def test_readers_divide_shards_or_rows():
    assert [own_share("abcde", index, 2) for index in range(2)] == [(["a", "c", "e"], 0, 1), (["b", "d"], 0, 1)]
    assert own_share("a", 1, 3) == (["a"], 1, 3)


def train_in_two_processes(tars, run):
    process = launch(2, "stream_run.py", tars, run, 8)
    assert process.returncode == 0, process.stderr[-2000:]
    return [json.loads((run / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_two_training_processes_see_each_image_once_and_a_resumed_run_none_twice(tars, tmp_path):
    whole = train_in_two_processes(tars, tmp_path / "whole")
    first_epoch = Counter()
    for rank, result in enumerate(whole):
        stream = CaptionStream(load_captions(str(tars), "train", streaming=True), seed=42)
        stream.divide(rank, 2)
        part = [row["image_id"] for row, _ in stream._rows_of(0, (rank, 2))]
        seen = [image_id for batch in result["seen"] for image_id in batch]
        assert seen[: len(part)] == part and len(result["losses"]) == 8  # a batch of one image in each step
        first_epoch.update(part)
    assert first_epoch == Counter(IDS)
    opened = [result["opened"] for result in whole]
    assert not set(opened[0][:2]) & set(opened[1][:2])  # five shards: each has two of the first epoch at least

    shutil.copytree(tmp_path / "whole" / "checkpoint-6", tmp_path / "cut" / "checkpoint-6")
    cut = train_in_two_processes(tars, tmp_path / "cut")
    for before, after in zip(whole, cut, strict=True):
        assert after["losses"] == before["losses"]
        assert after["seen"] == before["seen"][6:]  # the very next row
