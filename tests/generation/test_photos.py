"""`hfcap caption`: which files, which ids, what is skipped, and how a broken run goes on."""

import hashlib
import io
import json
import os
import subprocess
import sys

import pytest
from huggingface_hub import constants

from hfcap import cli
from hfcap.atomic_files import only_writer
from hfcap.errors import ConfigError, WorkError
from hfcap.generation.caption import caption_rows
from hfcap.generation.photo_files import Photo, find_photos
from hfcap.generation.resumable_captions import ResumableCaptions
from hfcap.predictions import read_predictions
from refusals import refused, run_command


@pytest.fixture
def folder(tmp_path, scene_rows):
    """Five photos, two of one name, in a folder with folders."""
    photos = tmp_path / "photos"
    names = ("a/1.png", "b/1.png", "b/2.png", "beach.png", "ü ñ.png")
    for row, name in zip(scene_rows, names, strict=False):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        row["image"].save(photos / name)
    (photos / "notes.txt").write_text("no picture")
    return photos


@pytest.fixture
def captioner(tmp_path, build_tiny):
    model, processor = build_tiny("llava")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return model.eval(), processor, str(tmp_path / "model")


def ids_of(paths):
    return [photo.image_id for photo in find_photos([str(path) for path in paths])]


def lines_of(text):
    return {row["image_id"]: row["caption"] for row in map(json.loads, text.splitlines())}


def test_ids_are_paths_from_the_folder_and_never_clash(folder, scene_rows):
    assert ids_of([folder]) == ["a/1", "b/1", "b/2", "beach", "ü ñ"]
    assert ids_of([folder / "a" / "1.png", folder]) == ["1", "b/1", "b/2", "beach", "ü ñ"]  # each file once
    two = [folder / "a" / "1.png", folder / "b" / "1.png"]
    assert ids_of(two) == [path.as_posix() for path in two]
    scene_rows[9]["image"].save(folder / "beach.jpg")
    assert ids_of([folder]) == ["a/1", "b/1", "b/2", "beach.jpg", "beach.png", "ü ñ"]


def test_hidden_files_are_left_out_and_links_to_folders_are_followed(folder):
    for name in (".hidden.png", "a/.hidden/1.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes((folder / "beach.png").read_bytes())
    (folder / "linked").symlink_to(folder / "a")
    (folder / "a" / "round").symlink_to(folder)
    assert ids_of([folder]) == ["a/1", "b/1", "b/2", "beach", "linked/1", "ü ñ"]


@pytest.mark.parametrize("missing", ["nowhere.jpg", "empty"])
def test_a_path_without_pictures_is_refused(tmp_path, missing):
    (tmp_path / "empty").mkdir()
    with refused(option=str(tmp_path / missing)):
        find_photos([str(tmp_path / missing)])


def test_every_photo_is_captioned_as_by_caption_rows(folder, captioner, scene_rows, capsys):
    model, processor, path = captioner
    expected = caption_rows(model, processor, [scene_rows[i] for i in range(5)], batch_size=5, num_beams=3)
    cli.main(["caption", str(folder), "--model", path, "--num_beams", "3", "--batch_size", "2", "--json"])
    assert list(lines_of(capsys.readouterr().out).values()) == expected
    assert len(set(expected)) > 1
    cli.main(["caption", str(folder / "beach.png"), "--model", path, "--num_beams", "3"])
    assert capsys.readouterr().out == f"{folder / 'beach.png'}\t{expected[3]}\n"


def test_bad_pictures_are_skipped_named_and_counted(folder, captioner, capsys):
    *_, path = captioner
    (folder / "a" / "zero.jpg").write_bytes(b"")
    (folder / "a" / "text.jpg").write_text("no picture")
    whole = (folder / "beach.png").read_bytes()
    (folder / "b" / "half.png").write_bytes(whole[: len(whole) // 2])
    cli.main(["caption", str(folder), "--model", path, "--json"])
    shown = capsys.readouterr()
    assert len(lines_of(shown.out)) == 5
    assert "3 photos could not be read: " in shown.err
    assert f"skipped {folder / 'a' / 'zero.jpg'}: an empty file\n" in shown.err
    assert f"skipped {folder / 'a' / 'text.jpg'}: no picture, or a format that cannot be read\n" in shown.err
    assert "half.png: OSError: " in shown.err
    assert "BytesIO" not in shown.err


def test_a_second_run_that_finds_bad_pictures_alone_is_complete(folder, captioner, tmp_path, capsys):
    *_, path = captioner
    (folder / "a" / "zero.jpg").write_bytes(b"")
    command = ["caption", str(folder), "--model", path, "--output", str(tmp_path / "captions.jsonl")]
    cli.main(command)
    cli.main(command)
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == f"{tmp_path / 'captions.jsonl'}: 5 of 6 photos have a caption"
    assert shown.err.count("zero.jpg: ") == 2


def test_not_one_readable_photo_is_exit_code_1(folder, captioner, capsys):
    *_, path = captioner
    (folder / "a" / "zero.jpg").write_bytes(b"")
    with refused(WorkError, reason="none of 1 photo could be read", fix="see the reasons above"):
        run_command("caption", str(folder / "a" / "zero.jpg"), "--model", path)
    assert "1 photo could not be read: " in capsys.readouterr().err


def test_empty_captions_are_counted_and_shown(folder, captioner, capsys, monkeypatch):
    *_, path = captioner
    monkeypatch.setattr("hfcap.generation.caption.generate_tokens", lambda _m, _p, prefixes, *_: [[]] * len(prefixes))
    cli.main(["caption", str(folder), "--model", path])
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0] == f"{folder / 'a' / '1.png'}\t"
    assert f"5 photos got an empty caption: {folder / 'a' / '1.png'}, " in shown.err


def test_a_caption_of_two_lines_is_one_line_of_the_table(folder, captioner, capsys, monkeypatch):
    *_, path = captioner
    monkeypatch.setattr("hfcap.generation.caption.caption_loaded", lambda *_args, **_settings: [(0, "a red\n square")])
    photo = str(folder / "beach.png")
    cli.main(["caption", photo, "--model", path])
    assert capsys.readouterr().out == f"{photo}\ta red square\n"
    cli.main(["caption", photo, "--model", path, "--json"])
    assert json.loads(capsys.readouterr().out)["caption"] == "a red\n square"


def test_a_broken_run_goes_on_where_it_was(folder, captioner, tmp_path, capsys, monkeypatch):
    *_, path = captioner
    output = tmp_path / "captions.jsonl"
    command = ["caption", str(folder), "--model", path, "--output", str(output), "--batch_size", "2"]
    append = ResumableCaptions.append

    def append_three(self, row):
        if len(self.rows()) == 3:
            (part,) = tmp_path.glob("captions.jsonl.part-*")
            with open(part, "a") as file:
                file.write('{"image_id": "cut in ha')
            raise KeyboardInterrupt
        append(self, row)

    monkeypatch.setattr(ResumableCaptions, "append", append_three)
    with pytest.raises(SystemExit):
        cli.main(command)
    assert not output.exists()
    assert (
        len(ResumableCaptions(output, json.loads((tmp_path / "captions.jsonl.settings.json").read_text())).rows()) == 3
    )
    monkeypatch.undo()

    cli.main(command)
    assert "3 of 5 photos have a caption already" in capsys.readouterr().out
    assert [row.image_id for row in read_predictions(output)] == ids_of([folder])
    assert not list(tmp_path.glob("*.part-*"))
    text = output.read_text()

    monkeypatch.setattr("hfcap.generation.loading.load_captioner", None)  # nothing to do: no model is loaded
    cli.main(command)
    assert output.read_text() == text
    assert "5 of 5 photos have a caption already" in capsys.readouterr().out


def test_captions_made_otherwise_are_not_mixed(folder, captioner, tmp_path, capsys):
    *_, path = captioner
    output = tmp_path / "captions.jsonl"
    command = ["caption", str(folder), "--model", path, "--output", str(output)]
    cli.main(command)
    with pytest.raises(SystemExit) as exit_:
        cli.main([*command, "--num_beams", "2"])
    assert exit_.value.code == 2
    assert "num_beams was None, is 2" in capsys.readouterr().err
    (tmp_path / "captions.jsonl.settings.json").unlink()
    with pytest.raises(SystemExit) as exit_:
        cli.main(command)
    assert exit_.value.code == 2


@pytest.fixture
def caption_to(captioner, tmp_path, monkeypatch):
    """Caption paths, relative to `tmp_path`, into one file; return its rows as `[id, path]`."""
    *_, model = captioner
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        cli.main(["caption", *arguments, "--model", model, "--output", "captions.jsonl"])
        rows = map(json.loads, (tmp_path / "captions.jsonl").read_text().splitlines())
        return [[row["image_id"], row["path"]] for row in rows]

    return run


def refusal(caption_to, capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        caption_to(*arguments)
    assert exit_.value.code == 2
    return capsys.readouterr().err


def test_another_picture_of_the_same_name_is_not_taken_for_captioned(caption_to, tmp_path, scene_rows, capsys):
    for number, day in enumerate(("monday", "tuesday")):
        (tmp_path / day).mkdir()
        scene_rows[number]["image"].save(tmp_path / day / "1.png")
    scene_rows[2]["image"].save(tmp_path / "tuesday" / "2.png")
    monday = caption_to("monday")
    before = (tmp_path / "captions.jsonl").read_bytes()
    said = refusal(caption_to, capsys, "tuesday")
    assert "1 photo with the image id of another picture there: '1' is monday/1.png, and tuesday/1.png now;" in said
    assert "--keep_both" in said and "another --output" in said
    assert (tmp_path / "captions.jsonl").read_bytes() == before
    tuesday = [["tuesday/1.png", "tuesday/1.png"], ["2", "tuesday/2.png"]]
    assert caption_to("tuesday", "--keep_both") == tuesday + monday
    capsys.readouterr()
    for arguments in (["tuesday"], ["tuesday", "--keep_both"], [str(tmp_path / "tuesday")]):  # all are there
        assert caption_to(*arguments) == tuesday + monday
        assert "2 of 2 photos have a caption already" in capsys.readouterr().out


def test_a_picture_that_changed_is_not_taken_for_captioned(caption_to, tmp_path, scene_rows, capsys):
    scene_rows[0]["image"].save(tmp_path / "1.png")
    first = caption_to("1.png")
    scene_rows[1]["image"].save(tmp_path / "1.png")
    assert "1.png has changed since it was captioned as '1'" in refusal(caption_to, capsys, "1.png")
    both = [["1.png", "1.png"], *first]
    assert caption_to("1.png", "--keep_both") == both == caption_to("1.png")
    scene_rows[2]["image"].save(tmp_path / "1.png")
    third, *rest = caption_to("1.png", "--keep_both")
    assert rest == both
    digest = hashlib.sha256((tmp_path / "1.png").read_bytes()).hexdigest()
    assert third == [f"1.png@{digest[:12]}", "1.png"]


def test_an_id_that_gets_longer_keeps_its_caption(caption_to, tmp_path, scene_rows):
    scene_rows[0]["image"].save(tmp_path / "model" / "beach.png")
    first = caption_to("model")
    scene_rows[1]["image"].save(tmp_path / "model" / "beach.jpg")  # find_photos now says beach.png and beach.jpg
    assert caption_to("model") == [["beach.jpg", "model/beach.jpg"], *first]


def test_other_weights_or_settings_under_the_same_path_are_refused(caption_to, tmp_path, scene_rows, capsys):
    scene_rows[0]["image"].save(tmp_path / "1.png")
    rows = caption_to("1.png")
    weights, settings = (tmp_path / "model" / name for name in ("model.safetensors", "generation_config.json"))
    as_it_was = weights.read_bytes()
    weights.write_bytes(as_it_was[:-4] + b"abcd")
    said = refusal(caption_to, capsys, "1.png")
    assert "weights was " in said and f"({tmp_path / 'model'})" in said
    weights.write_bytes(as_it_was)
    assert caption_to("1.png") == rows
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"num_beams": 2}))
    assert "settings was " in refusal(caption_to, capsys, "1.png")


def test_a_moved_model_goes_on(caption_to, tmp_path, scene_rows, capsys):
    scene_rows[0]["image"].save(tmp_path / "1.png")
    caption_to("1.png")
    (tmp_path / "model").rename(tmp_path / "moved")
    capsys.readouterr()
    cli.main(["caption", "1.png", "--model", "moved", "--output", "captions.jsonl"])
    assert "1 of 1 photos have a caption already" in capsys.readouterr().out


def test_a_file_of_earlier_versions_does_not_say_which_weights(caption_to, tmp_path, scene_rows, capsys):
    scene_rows[0]["image"].save(tmp_path / "1.png")
    caption_to("1.png")
    path = tmp_path / "captions.jsonl.settings.json"
    path.write_text(json.dumps({"model": "outputs/x", "prompt": None, "load_in_4bit": False, "num_beams": None}))
    assert "without the hash of the weights" in refusal(caption_to, capsys, "1.png")


def test_photos_added_later_are_captioned_and_the_rest_is_kept(folder, captioner, tmp_path, scene_rows):
    *_, path = captioner
    output = tmp_path / "captions.jsonl"
    command = ["caption", str(folder), "--model", path, "--output", str(output)]
    cli.main(command)
    before = read_predictions(output)
    scene_rows[9]["image"].save(folder / "a" / "0.png")
    cli.main(command)
    after = read_predictions(output)
    assert [row.image_id for row in after] == ["a/0", *(row.image_id for row in before)]
    assert [row.captions for row in after[1:]] == [row.captions for row in before]


def test_parts_of_several_processes_become_one_file(tmp_path):
    photos = [Photo(str(i), tmp_path / f"{i}.png") for i in range(5)]
    files = [ResumableCaptions(tmp_path / "c.jsonl", {"weights": "w"}, rank) for rank in range(2)]
    for rank, file in enumerate(files):
        for photo in photos[rank::2]:
            row = {"image_id": photo.image_id, "path": "p.png", "caption": f"caption {photo.image_id}"}
            file.append(row)
    # The next run has one process only: it finds what the second one wrote.
    last = ResumableCaptions(tmp_path / "c.jsonl", {"weights": "w"})
    assert set(last.rows()) == set("01234")
    last.finish(photo.image_id for photo in photos)
    assert [row.image_id for row in read_predictions(tmp_path / "c.jsonl")] == list("01234")


def test_a_name_with_brackets_is_no_pattern(folder, captioner, tmp_path, capsys):
    *_, path = captioner
    output = tmp_path / "captions [1].jsonl"
    cli.main(["caption", str(folder), "--model", path, "--output", str(output)])
    assert [row.image_id for row in read_predictions(output)] == ids_of([folder])
    assert f"{output}: 5 of 5 photos have a caption" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.part-*"))


def test_a_second_command_does_not_write_the_file_of_the_first(folder, captioner, tmp_path, capsys):
    output = tmp_path / "new" / "captions.jsonl"
    command = ["caption", str(folder), "--model", captioner[2], "--output", str(output)]
    output.parent.mkdir()
    with only_writer(output), pytest.raises(SystemExit) as stopped:
        cli.main(command)
    assert stopped.value.code == 2
    assert f"{output}: another command is working on this file" in capsys.readouterr().err
    output.parent.rmdir()  # the lock went with its holder
    cli.main(command)
    assert sorted(path.name for path in output.parent.iterdir()) == ["captions.jsonl", "captions.jsonl.settings.json"]


@pytest.mark.parametrize("line", ["no JSON", '{"caption": "x"}', '{"image_id": "1"}', "[1]", "null", "[" * 9999, ""])
def test_a_line_that_is_no_row_is_named(folder, captioner, tmp_path, line):
    output = tmp_path / "captions.jsonl"
    command = ["caption", str(folder), "--model", captioner[2], "--output", str(output)]
    cli.main(command)
    with open(output, "a") as file:
        file.write(f"{line}\n")
    text = output.read_bytes()
    wanted = "an object with image_id and path"
    with refused(option=f"{output}, line 6", got=line, wanted=wanted, fix="fix or remove the line"):
        run_command(*command)
    assert output.read_bytes() == text


def test_the_lock_of_a_dead_process_is_free(tmp_path):
    file = tmp_path / "captions.jsonl"
    held = f"""
import os
from hfcap.atomic_files import only_writer
with only_writer({str(file)!r}):
    print("held", flush=True)
    input()
"""
    other = subprocess.Popen([sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(ConfigError, match="another command"), only_writer(file):
        pass
    other.kill()
    other.wait()
    assert (tmp_path / ".captions.jsonl.lock").exists()
    with only_writer(file):
        pass
    assert not list(tmp_path.iterdir())


def test_a_run_without_any_readable_photo_does_not_block_the_next(folder, captioner, tmp_path, capsys):
    *_, path = captioner
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "zero.jpg").write_bytes(b"")
    output = tmp_path / "captions.jsonl"
    with pytest.raises(SystemExit) as exit_:
        cli.main(["caption", str(tmp_path / "bad"), "--model", path, "--output", str(output)])
    assert exit_.value.code == 1
    assert not list(tmp_path.glob("captions.jsonl*"))
    cli.main(["caption", str(tmp_path / "bad"), str(folder), "--model", path, "--output", str(output)])
    assert f"{output}: 5 of 6 photos have a caption" in capsys.readouterr().out


def test_a_file_name_that_is_not_utf8_is_left_out_and_named(folder, captioner, tmp_path, capsys, caplog):
    *_, path = captioner
    latin = os.fsencode(folder) + b"/caf\xe9.png"
    with open(latin, "wb") as file:
        file.write((folder / "beach.png").read_bytes())
    output = tmp_path / "captions.jsonl"
    with caplog.at_level("INFO", "hfcap"):
        cli.main(["caption", str(folder), "--model", path, "--output", str(output)])
    assert len(read_predictions(output)) == 5
    assert r"caf\udce9.png'; skipped, rename the files" in caplog.text
    with refused(says=r"caf\udce9.png'", fix="rename the files"):
        find_photos([os.fsdecode(latin)])


@pytest.mark.parametrize("option", ["--num_beams", "--max_new_tokens", "--batch_size"])
@pytest.mark.parametrize("value", ["0", "few"])
def test_counts_are_whole_numbers_above_zero(folder, capsys, option, value):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["caption", str(folder), "--model", "owner/name", option, value])
    assert exit_.value.code == 2
    assert f"{value!r}; wanted a whole number, 1 or more" in capsys.readouterr().err


def test_a_model_that_cannot_be_had_is_one_line(folder, capsys, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["caption", str(folder), "--model", "user/none"])
    assert exit_.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and lines[0].startswith("error: model is 'user/none': cannot be loaded")


def test_an_output_that_cannot_be_written_is_one_line(folder, captioner, capsys):
    *_, path = captioner
    with pytest.raises(SystemExit) as exit_:
        cli.main(["caption", str(folder), "--model", path, "--output", "/proc/captions.jsonl"])
    assert exit_.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: /proc/") and error.endswith("No such file or directory; fix or change the path")


@pytest.mark.slow
def test_two_processes_share_the_photos(folder, captioner, tmp_path, capsys):
    *_, path = captioner
    cli.main(["caption", str(folder), "--model", path, "--json"])
    expected = lines_of(capsys.readouterr().out)
    output = tmp_path / "captions.jsonl"
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "hfcap.cli", "caption", str(folder), "--model", path, "--output", str(output)]
    process = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=os.environ, timeout=300)
    assert process.returncode == 0, process.stderr[-3000:]
    assert lines_of(output.read_text()) == expected
    assert process.stdout == f"{output}: 5 of 5 photos have a caption\n"  # one of the two says so
    process = subprocess.run([sys.executable, *command[:-2], "--json"], capture_output=True, text=True, timeout=300)
    assert process.stdout.count('"image_id"') == 5, process.stdout  # each photo is captioned by one of the two


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_captions_print_in_any_encoding_and_one_to_a_line(folder, captioner, encoding, monkeypatch):
    (folder / "beach.png").rename(folder / "猫 \x1b[31m\n.png")
    ids = ["a/1", "b/1", "b/2", "ü ñ", "猫 \x1b[31m\n"]
    printed = {}
    for option in ("--json", "--batch_size=8"):
        stdout = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stdout)
        cli.main(["caption", str(folder), "--model", captioner[2], option])
        stdout.flush()
        printed[option] = stdout.buffer.getvalue().decode(encoding)
    assert list(lines_of(printed["--json"])) == ids
    table = [line.split("\t") for line in printed["--batch_size=8"].splitlines()]
    assert [len(cells) for cells in table] == [2] * 5
    cat = "猫" if encoding == "utf-8" else r"\u732b"
    assert table[-1][0].endswith(rf"/{cat} \x1b[31m\n.png")


@pytest.mark.parametrize("content", ["[" * 99_999, "null", '{"a": 1, "a": 2}', ""])
@pytest.mark.parametrize("name", ["adapter_config.json", "config.json", "tokenizer_config.json"])
def test_settings_of_a_model_that_cannot_be_read_are_one_line(folder, captioner, name, content, capsys):
    if name == "adapter_config.json":
        os.remove(os.path.join(captioner[2], "config.json"))
    with open(os.path.join(captioner[2], name), "w") as file:
        file.write(content)
    for command in (["caption", str(folder), "--model"], ["data", "check", str(folder), "--processor"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main([*command, captioner[2]])
        assert stopped.value.code == 2
        assert f"{captioner[2]}/{name}" in capsys.readouterr().err.splitlines()[-1]
