"""`hfcap caption --data`: every source, each picture once, by shards over processes, and how a broken run goes on."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, Value

from hfcap import cli
from hfcap.data.reading import DataWait
from hfcap.data.shards import Shard
from hfcap.data.sources import source_shards
from hfcap.errors import ConfigError
from hfcap.generation.caption import caption_rows
from hfcap.generation.caption_data import SourcePicture, own_pictures, shards_for_captions
from hfcap.predictions import read_predictions
from refusals import refused

NUM_IMAGES = 7


def encoded(picture):
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def write_jsonl(folder, files):
    lines = []
    for name, data in files.items():
        (folder / f"{name}.png").write_bytes(data)
        lines.append(json.dumps({"image": f"{name}.png"}) + "\n")
    (folder / "train.jsonl").write_text("".join(lines))


def write_tars(folder, files):
    for shard in range(3):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for name, data in list(files.items())[shard::3]:
                member = tarfile.TarInfo(f"{name}.png")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def write_parquet(folder, files):
    features = Features({"image_id": Value("string"), "image": Image()})
    for shard in range(3):
        some = list(files.items())[shard::3]
        columns = {"image_id": [name for name, _ in some], "image": [{"bytes": d, "path": None} for _, d in some]}
        Dataset.from_dict(columns, features=features).to_parquet(folder / f"train-{shard}.parquet")


WRITERS = {"jsonl": write_jsonl, "tars": write_tars, "parquet": write_parquet}


@pytest.fixture
def files(scene_rows):
    return {f"photo{number}": encoded(scene_rows[number]["image"]) for number in range(NUM_IMAGES)}


@pytest.fixture
def captioner(tmp_path, build_tiny):
    model, processor = build_tiny("llava")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return model.eval(), processor, str(tmp_path / "model")


@pytest.fixture(params=WRITERS)
def source(request, tmp_path, files):
    """Pictures without captions, in three shards, or one where the form has no more."""
    folder = tmp_path / request.param
    folder.mkdir()
    WRITERS[request.param](folder, files)
    return folder


def rows_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def caption(arguments, model):
    args = cli.make_parser().parse_args(["caption", *arguments, "--model", model])
    args.run(args)


def run(source, model, output, *arguments):
    caption(["--data", str(source), "--output", str(output), *arguments], model)


def test_every_picture_is_captioned_as_by_caption_rows(source, captioner, scene_rows, tmp_path, capsys):
    model, processor, path = captioner
    expected = caption_rows(model, processor, [scene_rows[i] for i in range(NUM_IMAGES)], batch_size=3)
    run(source, path, tmp_path / "out.jsonl", "--batch_size", "3")
    rows = rows_of(tmp_path / "out.jsonl")
    assert {row["image_id"]: row["caption"] for row in rows} == {f"photo{i}": text for i, text in enumerate(expected)}
    assert len(rows) == NUM_IMAGES
    printed = capsys.readouterr()
    assert f"{NUM_IMAGES} of {NUM_IMAGES} pictures have a caption\n" in printed.out
    assert "of the time the model waited for pictures" in printed.err


def test_a_broken_run_captions_what_is_missing(source, captioner, tmp_path, capsys, monkeypatch):
    *_, path = captioner
    run(source, path, tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_text()
    lines = whole.splitlines(keepends=True)
    (tmp_path / "out.jsonl.part-5").write_text("".join(lines[:4]) + lines[4][:20])
    settings = (tmp_path / "whole.jsonl.settings.json").read_text()
    (tmp_path / "out.jsonl.settings.json").write_text(settings)
    captioned = []
    plain = SourcePicture.load
    monkeypatch.setattr(SourcePicture, "load", lambda self: captioned.append(self.image_id) or plain(self))
    run(source, path, tmp_path / "out.jsonl")
    assert sorted(captioned) == sorted(json.loads(line)["image_id"] for line in lines[4:])
    assert (tmp_path / "out.jsonl").read_text() == whole
    assert f"{NUM_IMAGES} of {NUM_IMAGES} pictures have a caption, 4 of them before\n" in capsys.readouterr().out
    monkeypatch.setattr(
        "hfcap.generation.caption_data.load_for_command", lambda *_: pytest.fail("there is nothing to caption")
    )
    run(source, path, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == whole


def test_a_parquet_file_has_the_rows_of_the_json_lines(captioner, files, tmp_path, monkeypatch):
    data, (*_, path) = tmp_path / "data", captioner
    data.mkdir()
    write_jsonl(data, files)
    run(data, path, tmp_path / "out.jsonl")
    expected = rows_of(tmp_path / "out.jsonl")
    run(data, path, tmp_path / "out.parquet")
    assert Dataset.from_parquet(str(tmp_path / "out.parquet")).to_list() == expected
    assert [(row.image_id, row.captions, row.extra) for row in read_predictions(tmp_path / "out.parquet")] == [
        (row["image_id"], [row["caption"]], row) for row in expected
    ]
    # A run that broke off after a first one: rows in the file, in a part, and missing.
    Dataset.from_list(expected[:2]).to_parquet(tmp_path / "out.parquet")
    (tmp_path / "out.parquet.part-1").write_text(json.dumps(expected[2]) + "\n")
    captioned = []
    plain = SourcePicture.load
    monkeypatch.setattr(SourcePicture, "load", lambda self: captioned.append(self.image_id) or plain(self))
    run(data, path, tmp_path / "out.parquet")
    assert captioned == [row["image_id"] for row in expected[3:]]
    assert Dataset.from_parquet(str(tmp_path / "out.parquet")).to_list() == expected


def test_a_broken_parquet_file_is_refused_and_kept(captioner, files, tmp_path):
    data, output = tmp_path / "data", tmp_path / "out.parquet"
    data.mkdir()
    write_jsonl(data, files)
    run(data, captioner[2], output)
    broken = output.read_bytes()[:-9]
    output.write_bytes(broken)
    with pytest.raises(ConfigError) as error:
        run(data, captioner[2], output)
    assert error.value.option == str(output) and "no parquet file" in error.value.reason
    assert output.read_bytes() == broken
    Dataset.from_dict({"caption": ["a dog"]}).to_parquet(output)
    with pytest.raises(ConfigError, match="no column 'image_id'"):
        read_predictions(output)


@pytest.mark.parametrize("num_processes", [1, 2, 3, 5])
def test_processes_divide_the_pictures(source, num_processes):
    shards = source_shards(str(source), "train", captions_column="")
    parts = [list(own_pictures(shards, process, num_processes)) for process in range(num_processes)]
    ids = [picture.image_id for part in parts for picture in part]
    assert sorted(ids) == [f"photo{number}" for number in range(NUM_IMAGES)]


def test_each_process_opens_its_own_shards(files, tmp_path):
    write_tars(tmp_path, files)
    opened = []

    def noted(shard):
        return Shard(shard.name, lambda: opened.append(Path(shard.name).name) or shard.open())

    shards = [noted(shard) for shard in shards_for_captions(str(tmp_path), "train")]
    assert not opened
    for process, own in enumerate((["0.tar", "2.tar"], ["1.tar"])):
        list(own_pictures(shards, process, 2))
        assert opened == own
        opened.clear()


def test_rows_of_one_picture_are_one_picture(captioner, files, tmp_path):
    """One row per caption, side by side or apart."""
    write_jsonl(tmp_path, files)
    lines = (tmp_path / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join([lines[0], lines[0], lines[1], lines[0]]))
    run(tmp_path / "train.jsonl", captioner[2], tmp_path / "out.jsonl")
    assert [row["image_id"] for row in rows_of(tmp_path / "out.jsonl")] == ["photo0", "photo1"]


def test_an_id_of_two_pictures_is_refused(captioner, files, tmp_path):
    (tmp_path / "other").mkdir()
    write_jsonl(tmp_path, files)
    (tmp_path / "other" / "photo0.png").write_bytes(files["photo6"])
    with open(tmp_path / "train.jsonl", "a") as file:
        file.write(json.dumps({"image": "other/photo0.png"}) + "\n")
    with refused(option=f"{tmp_path / 'train.jsonl'}, line 8: image id", got="photo0", says="another picture"):
        run(tmp_path / "train.jsonl", captioner[2], tmp_path / "out.jsonl")


def test_two_processes_that_find_an_id_of_two_pictures_say_so(captioner, files, tmp_path):
    write_jsonl(tmp_path, files)
    run(tmp_path / "train.jsonl", captioner[2], tmp_path / "out.jsonl")
    row = rows_of(tmp_path / "out.jsonl")[0]
    (tmp_path / "out.jsonl.part-1").write_text(json.dumps(row | {"sha256": "other"}) + "\n")
    with refused(option=f"{tmp_path / 'out.jsonl'}: image_id", got="photo0", reason="two pictures have this id"):
        run(tmp_path / "train.jsonl", captioner[2], tmp_path / "out.jsonl")


def test_bad_pictures_are_skipped_and_named(captioner, files, tmp_path, capsys):
    write_tars(tmp_path, files | {"photo3": b"no picture"})
    run(tmp_path, captioner[2], tmp_path / "out.jsonl")
    printed = capsys.readouterr()
    assert len(rows_of(tmp_path / "out.jsonl")) == NUM_IMAGES - 1
    assert f"skipped {tmp_path}/0.tar, sample photo3: no picture, or a format that cannot be read\n" in printed.err
    assert "1 picture could not be read: photo3" in printed.err


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (["--data", "{here}", "--split", "test"], {"option": "--data", "says": "no split 'test'"}),
        (["--data", "{here}/nowhere"], {"option": "--data", "says": "there is no file or folder"}),
        (["--data", "scenes"], {"option": "--data", "got": "scenes"}),
        (["--data", "{here}", "--keep_both"], {"option": "--keep_both"}),
        (["--data", "{here}", "{here}"], {"option": "PHOTO or --data", "reason": "both are given"}),
        ([], {"option": "PHOTO or --data", "reason": "neither is given"}),
    ],
)
def test_wrong_command_lines_are_refused(arguments, fields, captioner, files, tmp_path):
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data", files)
    arguments = [argument.format(here=tmp_path / "data") for argument in arguments]
    with refused(**fields):
        caption(arguments, captioner[2])


def test_the_wait_is_that_for_the_items(monkeypatch):
    clock = iter([0.0, 3.0, 4.0, 6.0, 10.0])
    monkeypatch.setattr("hfcap.data.reading.time.perf_counter", lambda: next(clock))
    waiting = DataWait()
    assert list(waiting.of("ab")) == ["a", "b"]
    assert (waiting.waited, waiting.seconds) == (5.0, 10.0)


@pytest.mark.slow
def test_two_processes_write_the_file_of_one(captioner, files, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_tars(data, files)
    run(data, captioner[2], tmp_path / "one.jsonl")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "hfcap.cli"]
    command += ["caption", "--data", str(data), "--model", captioner[2], "--output", str(tmp_path / "two.jsonl")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert process.returncode == 0, process.stderr[-2000:]
    assert (tmp_path / "two.jsonl").read_text() == (tmp_path / "one.jsonl").read_text()
    assert not list(tmp_path.glob("*.part-*"))
