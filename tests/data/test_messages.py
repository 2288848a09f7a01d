"""Messages name what is wrong on lines of a readable length, in characters that show, in any encoding of stdout."""

import base64
import json
import logging
import os
import subprocess
import sys
import unicodedata

import pytest
from PIL import Image
from source_forms import write_tar

from hfcap.atomic_files import write_atomic
from hfcap.cli import main
from hfcap.data.picture_checks import undecoded
from hfcap.data.sources import load_captions
from hfcap.errors import LONGEST_LINE, ConfigError, printable, run_main, shown

DEEP = "[" * 99_999
HUGE = "1" * 5_000  # digits: more than Python turns into an integer
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "ü") for form in ("NFC", "NFD"))


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)


def write_row(folder, **entry):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.jsonl").write_text(json.dumps({"caption": "a dog", **entry}) + "\n", encoding="utf-8")
    return str(folder / "a.jsonl")


def hfcap(*argv, **environment):
    command = [sys.executable, "-m", "hfcap.cli", *map(str, argv)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, timeout=120)


def test_a_bad_picture_with_a_text_file_is_named_itself(tmp_path):
    put(tmp_path / "data" / "good.png")
    (tmp_path / "data" / "bad.png").write_bytes(b"<html>")
    for name in ("good", "bad"):
        (tmp_path / "data" / f"{name}.txt").write_text("a dog")
    with pytest.raises(ValueError, match=r"bad.png \(image_id bad\): not a picture") as raised:
        load_captions(str(tmp_path / "data"), "train")
    assert "bad.txt" not in str(raised.value)


def test_a_bad_picture_of_a_table_is_named_beside_its_line(tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"<html>")
    source = write_row(tmp_path, image="bad.png", image_id="7")
    place = rf"a.jsonl, line 1, picture {tmp_path}/bad.png"
    for streaming in (False, True):
        with pytest.raises(ValueError, match=rf"{place} \(image_id 7\): not a picture"):
            list(load_captions(source, "train", streaming=streaming))
    with pytest.raises(SystemExit):
        main(["data", "check", source])
    assert place in capsys.readouterr().out


@pytest.mark.parametrize("picture", ["base64", "long name", "data URI"])
@pytest.mark.parametrize("column", ["image", "image_id", "caption"])
def test_a_huge_value_is_shown_by_its_beginning(tmp_path, column, picture, capsys):
    data = base64.b64encode(b"\xff\xd8\xff\xe0" + bytes(20_000)).decode()
    value = {"base64": data, "long name": "x" * 27_000, "data URI": f"data:image/jpeg;base64,{data}"}[picture]
    put(tmp_path / "0.png")
    row = {"image": "0.png"} | {column: value if column == "image" else [value, 3]}
    with pytest.raises(SystemExit) as stopped:
        main(["data", "check", write_row(tmp_path, **row)])
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert len(line) < 500 and "a.jsonl, line 1" in line
    if column == "image":
        assert f"({len(value):,} characters)" in line and "picture" in line


def test_whatever_makes_a_message_long_it_is_cut(capsys):
    def fail():
        logging.getLogger("hfcap").warning("a" * 30_000)
        raise ConfigError("first\n" + "b" * 30_000 + " fix it")

    with pytest.raises(SystemExit):
        run_main(fail)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2 and max(map(len, lines)) < LONGEST_LINE
    assert "characters left out" in lines[-1] and lines[-1].endswith("fix it")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp1252:strict", "utf-8"])
def test_any_encoding_of_stdout_prints_captions_and_names(tmp_path, encoding):
    put(tmp_path / "猫 é.png")
    source = write_row(tmp_path, image="猫 é.png", caption="ein 猫 \U0001f600 " + "wort " * 60)
    done = hfcap("data", "check", source, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode(encoding.removesuffix(":strict"))
    assert "猫" in text if encoding == "utf-8" else r"\u732b" in text
    for argv in (["--help"], ["data", "check", "--help"], ["export", "--help"], ["data", "check", "猫/gone"]):
        done = hfcap(*argv, PYTHONIOENCODING=encoding)
        assert b"Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_traceback(tmp_path):
    read, write = os.pipe()
    os.close(read)
    row = {"image_id": "1", "caption": "a dog", "captions": ["a dog"]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    files = [str(tmp_path / "a.jsonl"), "--references", str(tmp_path / "a.jsonl")]
    command = [sys.executable, "-m", "hfcap.cli", "score", *files]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert done.returncode == 1 and b"BrokenPipe" not in done.stderr


@pytest.mark.parametrize(
    ("content", "said"), [(DEEP, "nested too deeply"), (HUGE, "malformed JSON"), ("\xff", "UTF-8")]
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.txt"])
@pytest.mark.parametrize("role", ["predictions", "references"])
def test_json_that_cannot_be_read_is_one_line(tmp_path, content, said, name, role, capsys):
    good = tmp_path / "good.jsonl"
    good.write_text('{"image_id": "1", "caption": "a dog", "captions": ["a dog"]}\n')
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    files = {"predictions": good, "references": good} | {role: tmp_path / name}
    with pytest.raises(SystemExit) as stopped:
        main(["score", str(files["predictions"]), "--references", str(files["references"])])
    lines = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and lines[-1].startswith("error: ") and name in lines[-1]
    if name != "a.txt" or role == "predictions":
        assert said in lines[-1]


@pytest.mark.parametrize("depth", [50, 990, 3000, 99_999])
@pytest.mark.parametrize("column", ["captions", "note", "image_id", "messages"])
def test_a_deeply_nested_value_is_no_traceback(tmp_path, column, depth, capsys):
    put(tmp_path / "0.png")
    value = "[" * depth + '"a dog"' + "]" * depth
    (tmp_path / "a.jsonl").write_text(f'{{"image": "0.png", "text": "a dog", "{column}": {value}}}\n')
    try:
        main(["data", "check", str(tmp_path / "a.jsonl")])
    except SystemExit as stopped:
        assert stopped.code == 2 and "a.jsonl, line 1" in capsys.readouterr().err
    else:
        assert column == "note"


def test_a_tar_with_deeply_nested_json_is_one_error(tmp_path):
    put(tmp_path / "0.png")
    members = [("0.png", (tmp_path / "0.png").read_bytes()), ("0.json", DEEP.encode())]
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(ValueError, match=r"a.tar, sample 0, 0.json: malformed JSON \(nested too deeply\)"):
        load_captions(str(tmp_path / "a.tar"), "train")


@pytest.mark.parametrize(
    "written", [r"pics\0.png", r".\pics\0.png", rf"pics\{DECOMPOSED}.png", f"pics/{DECOMPOSED}.png"]
)
def test_paths_of_other_systems_are_read_where_the_file_exists(tmp_path, written):
    for name in ("0", COMPOSED):
        put(tmp_path / "pics" / f"{name}.png")
    rows = load_captions(write_row(tmp_path, image=written), "train")
    assert rows["image_id"][:] == [COMPOSED if DECOMPOSED in written else "0"]


@pytest.mark.parametrize("written", [r"C:\Users\me\pics\0.png", r"..\..\pics\0.png", "/home/me/pics/0.png"])
def test_a_folder_given_is_searched_by_the_name_of_the_file(tmp_path, written):
    put(tmp_path / "pics" / "0.png")
    rows = load_captions(write_row(tmp_path / "tables", image=written), "train", image_folder=str(tmp_path / "pics"))
    assert rows["image_id"][:] == ["0"]


@pytest.mark.parametrize("written", ["my%20photos/0%20%C3%BC.png", " my photos/0 ü.png ", "my photos\\0 ü.png"])
def test_paths_as_other_tools_write_them(tmp_path, written):
    (tmp_path / "my photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "my photos" / "0 ü.png")
    entries = [{"image": written, "caption": "a dog"}, {"image": "gone%20.png", "caption": "a cat"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    rows = load_captions(str(tmp_path / "train.jsonl"), "train", on_bad_image="keep")
    paths = [image["path"] for image in undecoded(rows)["image"]]
    assert paths == [str(tmp_path / "my photos" / "0 ü.png"), str(tmp_path / "gone%20.png")]


def test_a_name_with_a_percent_sign_stays(tmp_path):
    for name in ("a%20b.png", "a b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "train.jsonl").write_text('{"image": "a%20b.png", "caption": "a dog"}\n')
    rows = load_captions(str(tmp_path / "train.jsonl"), "train")
    assert undecoded(rows)[0]["image"]["path"] == str(tmp_path / "a%20b.png")


def test_another_case_of_a_path_is_named(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "0.png")
    (tmp_path / "train.jsonl").write_text('{"image": "Photos/0.PNG", "caption": "a dog"}\n')
    message = r"picture 'Photos/0.PNG', .* \(there is 'photos/0.png': upper and lower case differ\); pass the folder"
    with pytest.raises(ValueError, match=message):
        load_captions(str(tmp_path / "train.jsonl"), "train")


def test_a_backslash_that_is_part_of_a_name_stays(tmp_path):
    put(tmp_path / r"a\0.png")
    put(tmp_path / "a" / "0.png")
    rows = load_captions(write_row(tmp_path, image=r"a\0.png"), "train")
    assert rows["image_id"][:] == [r"a\0"]


def test_composed_and_decomposed_names_print_apart(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"picture 'u\\u0308.png', and others"):
        load_captions(write_row(tmp_path, image=f"{DECOMPOSED}.png"), "train")
    for name, image_id in (("a", COMPOSED), ("b", DECOMPOSED)):
        row = {"image_id": image_id, "caption": "a dog", "captions": ["a dog"]}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(SystemExit):
        main(["score", str(tmp_path / "a.jsonl"), "--references", str(tmp_path / "b.jsonl")])
    assert r"first 'u\u0308'" in capsys.readouterr().err


def test_control_characters_of_a_file_name_do_not_reach_the_terminal(tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a\x1b[31m\nb.png").write_bytes(b"<html>")
    (folder / "a\x1b[31m\nb.txt").write_text("a \x1b[31mdog")
    with pytest.raises(SystemExit):
        main(["data", "check", str(folder)])
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and r"a\x1b[31m\nb.png)" in printed
    with pytest.raises(SystemExit):
        main(["data", "split", str(folder), "--output", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert "\x1b" not in error and r"a\x1b[31m\nb.png (image_id" in error


def test_what_shows_is_shown_as_it_is():
    assert shown("a 猫 ü") == "'a 猫 ü'" and shown(None) == "None" and shown(r"a\b") == r"'a\\b'"
    assert printable("ü 猫 'x'") == "ü 猫 'x'"
    assert printable("a\r\nb\u202e\ud800") == r"a\r\nb\u202e\ud800"
    assert shown("x" * 81) == f"'{'x' * 80}'… (81 characters)"


@pytest.mark.parametrize("content", [DEEP, "null", "{}", "\xff"])
def test_a_record_that_cannot_be_read_is_one_line(tmp_path, content, capsys):
    for number in range(4):
        Image.new("RGB", (8, 8), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("a dog")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "split.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(SystemExit):
        main(["data", "split", str(tmp_path), "--output", str(tmp_path / "out")])
    assert "split.json; pass another folder" in capsys.readouterr().err.splitlines()[-1]
    (tmp_path / "out" / "dataset_dict.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(SystemExit) as stopped:
        main(["data", "check", str(tmp_path / "out")])
    assert stopped.value.code == 2 and capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_an_output_without_a_name_is_one_line(tmp_path, capsys):
    row = {"image_id": "1", "caption": "a dog", "captions": ["a dog"]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    files = [str(tmp_path / "a.jsonl"), "--references", str(tmp_path / "a.jsonl")]
    with pytest.raises(SystemExit):
        main(["score", *files, "--output", ""])
    assert capsys.readouterr().err.splitlines()[-1] == "error: .: Is a directory; fix or change the path"


def test_an_output_that_is_a_pipe_or_a_device_stays_one(tmp_path):
    # As root, a rename would put a file in the place of /dev/null.
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomic(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").is_fifo() and os.read(reader, 100) == b"text"
    os.close(reader)


def test_the_reason_of_a_picture_that_is_not_there_ends_with_its_name(tmp_path, capsys):
    folder = tmp_path / ("long name " * 8)
    put(folder / "0.png")
    rows = [{"image": f"{name}.png", "caption": "a dog"} for name in ("0", "gone")]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SystemExit):
        main(["data", "check", str(folder / "a.jsonl")])
    assert "gone.png" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["check"], ["split", "--output", "out"]])
def test_a_huge_id_of_a_bad_picture_is_shown_by_its_beginning(tmp_path, command, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0.png").write_bytes(b"<html>")
    source = write_row(tmp_path, image="0.png", image_id="7" * 5000)
    with pytest.raises(SystemExit):
        main(["data", command[0], source, *command[1:]])
    printed = "".join(capsys.readouterr())
    assert "… (5,000 characters)" in printed and max(map(len, printed.splitlines())) < 500
    assert "a.jsonl, line 1, picture" in printed


def test_huge_ids_of_predictions_are_shown_by_their_beginning(tmp_path, capsys):
    for name, image_id in (("a", "7" * 5000), ("b", "8" * 5000)):
        row = {"image_id": image_id, "caption": "a dog", "captions": ["a dog"]}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(SystemExit):
        main(["score", str(tmp_path / "a.jsonl"), "--references", str(tmp_path / "b.jsonl")])
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.count("… (5,000 characters)") == 2 and len(line) < 700
