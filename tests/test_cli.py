"""`hfcap score` on files: figures, comparison, saved document frequencies, one-line errors; and its old name."""

import hashlib
import importlib.metadata
import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from hfcap import cli
from hfcap.data.scenes import load_scenes
from hfcap.data.sources import load_captions
from hfcap.errors import run_main
from hfcap.evaluation import Measured, judge, write_evaluation
from hfcap.metrics import compute_metrics
from refusals import refused, run_command

REFERENCES = {
    "1": ["a black dog runs on the grass", "the dog is running"],
    "2": ["two children play in the snow", "kids playing outside in snow"],
    "3": ["a man rides a red bicycle", "a cyclist on a red bike"],
}
GOOD = {"1": "a black dog is running on the grass", "2": "two children play in snow", "3": "a man on a red bicycle"}
BAD = {"1": "a man in a shirt", "2": "a dog", "3": "a man <b>& a dog</b>"}

pytestmark = pytest.mark.filterwarnings("ignore:CIDEr:UserWarning")


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def files(tmp_path):
    references = [{"image_id": key, "captions": value} for key, value in REFERENCES.items()]
    systems = {
        name: write_lines(tmp_path / f"{name}.jsonl", [{"image_id": k, "caption": v} for k, v in captions.items()])
        for name, captions in (("good", GOOD), ("bad", BAD))
    }
    return systems | {"references": write_lines(tmp_path / "references.jsonl", references)}


def test_the_command_says_its_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"hfcap {importlib.metadata.version('hfcap')}\n"


def test_figures_are_those_of_the_metrics(files, tmp_path, capsys):
    output = tmp_path / "metrics.json"
    cli.main(["score", files["good"], "--references", files["references"], "--output", str(output)])
    record = json.loads(output.read_text())
    expected = compute_metrics(list(GOOD.values()), list(REFERENCES.values()))
    assert record["metrics"]["cider"]["value"] == pytest.approx(expected["cider"])
    assert record["num_images"] == 3
    assert f"{100 * expected['bleu_4']:.2f}" in capsys.readouterr().out


def test_two_systems_are_compared_image_by_image(files, tmp_path, capsys):
    report = tmp_path / "report.html"
    command = ["score", files["bad"], files["good"], "--references", files["references"]]
    cli.main([*command, "--report", str(report)])
    output = capsys.readouterr().out
    assert output.startswith(f"A: {files['bad']}\nB: {files['good']}, whose figures follow\n")
    assert "B - A" in output
    assert "p = " in output
    page = report.read_text()
    assert f"<h1>A: {files['bad']}, B: {files['good']}</h1>" in page
    assert "&lt;b&gt;&amp; a dog&lt;/b&gt;" in page
    assert "<b>& a dog" not in page


def test_saved_document_frequencies_give_one_image_a_score(files, tmp_path, capsys):
    idf, output = tmp_path / "idf.npz", tmp_path / "metrics.json"
    cli.main(["score", files["good"], "--references", files["references"], "--save-idf", str(idf)])
    one = write_lines(tmp_path / "one.jsonl", [{"image_id": "1", "caption": GOOD["1"]}])
    of_one = write_lines(tmp_path / "of_one.jsonl", [{"image_id": "1", "captions": REFERENCES["1"]}])
    command = ["score", one, "--references", of_one, "--output", str(output)]
    cli.main(command)
    assert json.loads(output.read_text())["metrics"]["cider"]["value"] == 0
    cli.main([*command, "--idf", str(idf)])
    record = json.loads(output.read_text())
    assert record["metrics"]["cider"]["value"] > 1
    assert record["idf"] == "idf.npz"  # which file that was says the hash, and its folder is nobody's business
    assert record["idf_hash"] == hashlib.sha256(idf.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--metrics", "spice"], "spice"),
        (["missing.jsonl"], "missing.jsonl"),
        (["a.jsonl", "b.jsonl"], "wanted one file of captions, or two to compare"),
        (["--references", "missing.json"], "missing.json"),
        (["--idf", "missing.npz"], "missing.npz"),
        (["--images", "missing", "--report", "report.html"], "missing: no such file or folder"),
        (["--images", "missing"], "--images is 'missing': only a report"),
    ],
)
def test_a_wrong_file_or_metric_is_one_line_and_code_2(files, capsys, change, message):
    command = ["score", "--references", files["references"], files["good"], *change]
    with pytest.raises(SystemExit) as exit_:
        cli.main(command)
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.count("\n") == 0


def test_missing_captions_are_counted_only_where_allowed(files, tmp_path, capsys):
    two = write_lines(tmp_path / "two.jsonl", [{"image_id": key, "caption": GOOD[key]} for key in ("1", "2")])
    command = ["score", two, "--references", files["references"]]
    with pytest.raises(SystemExit):
        cli.main(command)
    assert "3" in capsys.readouterr().err
    cli.main([*command, "--allow-missing"])
    assert "2 images, 1 without a caption left out" in capsys.readouterr().out


def test_empty_captions_count(files, tmp_path, capsys):
    """What `hfcap caption` wrote is judged as it is: without its empty captions the model would look better."""
    captions = GOOD | {"2": ""}
    some_empty = write_lines(tmp_path / "e.jsonl", [{"image_id": k, "caption": v} for k, v in captions.items()])
    output = tmp_path / "metrics.json"
    command = ["score", some_empty, "--references", files["references"], "--output", str(output)]
    cli.main(command)
    expected = compute_metrics(list(captions.values()), list(REFERENCES.values()))
    record = json.loads(output.read_text())
    assert record["metrics"]["rouge_l"]["value"] == pytest.approx(expected["rouge_l"])
    assert record["num_images"] == 3
    assert "e.jsonl: 1 of 3 captions are empty and count as wrong (first: 2)" in capsys.readouterr().out


def test_coco_references_find_captions_and_pictures_by_file_name(tmp_path, scene_rows, capsys, caplog):
    (tmp_path / "photos").mkdir()
    scene_rows[0]["image"].save(tmp_path / "photos" / "000000397133.png")
    coco = {
        "images": [{"id": 397133, "file_name": "000000397133.png"}],
        "annotations": [{"image_id": 397133, "caption": "a dog"}],
    }
    (tmp_path / "REF.JSON").write_text(json.dumps(coco))
    predictions = write_lines(tmp_path / "p.JSONL", [{"image_id": "000000397133", "caption": "a dog"}])
    report = tmp_path / "report.html"
    command = ["score", predictions, "--references", str(tmp_path / "REF.JSON")]
    cli.main([*command, "--images", str(tmp_path / "photos"), "--report", str(report)])
    assert "BLEU-1     100.00" in capsys.readouterr().out
    assert "data:image/jpeg" in report.read_text()
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 1 predictions are matched by the file name or the number of their image, first '000000397133': image "
        "'397133'"
    ]


def test_integers_of_coco_are_files_with_leading_zeros_of_a_folder(tmp_path, scene_rows, capsys):
    source = tmp_path / "photos"
    source.mkdir()
    for number in (37777, 397133):
        scene_rows[0]["image"].save(source / f"{number:012d}.png")
        (source / f"{number:012d}.txt").write_text("a dog")
    results = [{"image_id": number, "caption": "a dog"} for number in (397133, 37777)]
    (tmp_path / "p.json").write_text(json.dumps(results))
    command = ["score", str(tmp_path / "p.json"), "--references", str(source), "--split", "train"]
    cli.main([*command, "--metrics", "bleu"])
    assert "BLEU-1     100.00" in capsys.readouterr().out


def test_a_broken_picture_of_a_reference_source_stops_no_figures(tmp_path, scene_rows, capsys, caplog):
    source = tmp_path / "data"
    source.mkdir()
    for name in ("1", "2", "3"):
        scene_rows[int(name)]["image"].save(source / f"{name}.png")
        (source / f"{name}.txt").write_text("a dog")
    (source / "2.png").write_bytes((source / "2.png").read_bytes()[:200])
    (source / "3.png").write_bytes(b"404")
    predictions = write_lines(
        tmp_path / "p.jsonl", [{"image_id": name, "caption": "a dog"} for name in ("1", "2", "3")]
    )
    report = tmp_path / "report.html"
    command = ["score", predictions, "--references", str(source), "--split", "train"]
    cli.main([*command, "--report", str(report)])
    assert "BLEU-1     100.00" in capsys.readouterr().out
    assert "2 is left out of the report: OSError: " in caplog.text
    assert "3 is left out of the report: not a picture (the file begins with b'404')" in caplog.text
    assert len(set(re.findall(r"data:image/jpeg[^\"]*", report.read_text()))) == 1


def test_captions_without_spaces_are_judged_by_another_tokenizer(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("hfcap.metrics.tokenizers._has_warned", False)
    captions = {"1": "一个男人在跑。", "2": "两只狗在雪地里玩。"}
    rows = [{"image_id": key, "caption": text.replace("在", "正在")} for key, text in captions.items()]
    references = [{"image_id": key, "captions": [text]} for key, text in captions.items()]
    output = tmp_path / "metrics.json"
    command = ["score", write_lines(tmp_path / "p.jsonl", rows), "--output", str(output)]
    command += ["--references", write_lines(tmp_path / "r.jsonl", references), "--report", str(tmp_path / "r.html")]
    with pytest.warns(UserWarning, match="100% of 2 captions have no spaces between words"):
        cli.main(command)
    assert json.loads(output.read_text())["metrics"]["bleu_4"]["value"] < 0.001
    cli.main([*command, "--tokenizer", "zh"])
    record = json.loads(output.read_text())
    expected = compute_metrics(
        [row["caption"] for row in rows], [[text] for text in captions.values()], tokenizer="zh"
    )
    assert record["metrics"]["bleu_4"]["value"] == pytest.approx(expected["bleu_4"])
    assert (record["tokenizer"], expected["bleu_4"] > 0.5) == ("zh", True)
    page = (tmp_path / "r.html").read_text()
    assert "<dd>zh</dd>" in page and "tokens" in page
    idf = str(tmp_path / "idf.npz")
    cli.main([*command, "--tokenizer", "zh", "--save-idf", idf])
    capsys.readouterr()
    for wrong, message in (["--idf", idf], "tokenizer zh"), (["--tokenizer", "char", "--metrics", "meteor"], "meteor"):
        with pytest.raises(SystemExit) as exit_:
            cli.main([*command, *wrong])
        assert exit_.value.code == 2
        assert message in capsys.readouterr().err


def test_predictions_are_not_their_own_references(files, capsys):
    with pytest.raises(SystemExit):
        cli.main(["score", files["good"], "--references", files["good"]])
    assert "is given as predictions and as references" in capsys.readouterr().err


def test_options_that_messages_advise_are_there(tmp_path, scene_rows, capsys):
    """An error of a data source names options of `hfcap score`."""
    (tmp_path / "elsewhere").mkdir()
    scene_rows[0]["image"].save(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "train.csv").write_text("image,said\n1.png,a dog\n")
    predictions = write_lines(tmp_path / "p.jsonl", [{"image_id": "1", "caption": "a dog"}])
    command = [
        "score",
        predictions,
        "--references",
        str(tmp_path / "train.csv"),
        "--split",
        "train",
    ]
    for option, value in (("--captions_column", "said"), ("--image_folder", str(tmp_path / "elsewhere"))):
        with pytest.raises(SystemExit):
            cli.main(command)
        assert option in capsys.readouterr().err
        command += [option, value]
    with pytest.raises(SystemExit):
        cli.main([*command, "--split", "test"])
    assert "hfcap score: --split" in capsys.readouterr().err
    cli.main(command)
    assert "BLEU-1     100.00" in capsys.readouterr().out


def test_references_come_from_a_data_source_with_its_pictures(tmp_path, capsys):
    rows = load_scenes("test", 1, "caption", image_size=32)
    predictions = [{"image_id": rows[0]["image_id"], "caption": rows[0]["captions"][0]}]
    (tmp_path / "data").mkdir()
    rows.to_parquet(tmp_path / "data" / "test-00000.parquet")
    report = tmp_path / "report.html"
    source = ["--references", str(tmp_path / "data"), "--split", "test", "--report", str(report)]
    cli.main(["score", write_lines(tmp_path / "p.jsonl", predictions), *source])
    assert "BLEU-1     100.00" in capsys.readouterr().out
    assert "data:image/jpeg" in report.read_text()


def test_a_report_shows_pictures_with_odd_exif(tmp_path, capsys):
    """`datasets` fails where a turned picture has another tag of a wrong type."""
    exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x02" + struct.pack(">HHL4s", 0x0112, 3, 1, b"\0\x06\0\0")
    exif += struct.pack(">HHLl4s", 0x011A, 9, 1, -72, b"")  # a negative resolution
    source = tmp_path / "data"
    source.mkdir()
    Image.new("RGB", (8, 8), "red").save(source / "dog.jpg", exif=exif)
    (source / "dog.txt").write_text("a dog")
    predictions = write_lines(tmp_path / "p.jsonl", [{"image_id": "dog", "caption": "a dog"}])
    report = tmp_path / "report.html"
    options = ["--references", str(source), "--split", "train", "--report", str(report)]
    cli.main(["score", predictions, *options])
    assert "data:image/jpeg" in report.read_text()
    rows = load_captions(str(source), "train")
    with pytest.raises(struct.error):
        rows[0]
    write_evaluation(
        tmp_path / "run", judge(["a dog"], rows.remove_columns("image"), {}), rows, "title", Measured(None, None, {})
    )
    assert "data:image/jpeg" in (tmp_path / "run" / "report.html").read_text()


@pytest.fixture
def report_of(files, tmp_path):
    """Write a report with pictures from a folder; return its page."""

    def write(folder):
        page = tmp_path / "report.html"
        command = ["score", files["good"], "--references", files["references"]]
        cli.main([*command, "--images", str(folder), "--report", str(page)])
        return page.read_text()

    return write


def test_pictures_of_a_report_are_those_that_can_be_read(report_of, tmp_path, scene_rows, caplog):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in ("1", "2"):
        scene_rows[int(number)]["image"].save(folder / f"{number}.png")
        (folder / f"{number}.caption").write_text("a file beside it")
        (folder / f"{number}.json").write_text("{}")
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:200])
    assert len(set(re.findall(r"data:image/jpeg[^\"]*", report_of(folder)))) == 1
    assert "2.png is left out of the report: " in caplog.text
    assert "no picture has the name" not in caplog.text


def test_pictures_whose_names_are_no_ids_are_a_warning(report_of, tmp_path, scene_rows, caplog):
    (tmp_path / "photos").mkdir()
    scene_rows[0]["image"].save(tmp_path / "photos" / "000001.png")
    assert "data:image/jpeg" not in report_of(tmp_path / "photos")
    assert "(first picture '000001.png', first id '1')" in caplog.text


@pytest.mark.parametrize(
    ("name", "lines", "split", "message"),
    [
        ("r.jsonl", [{"image_id": "1", "captions": ["a"]}], "test", "none of its lines has a `split`"),
        ("r.jsonl", [{"image_id": "1", "captions": ["a"], "split": "val"}], "test", "the file has validation"),
        ("r.json", [{"annotations": [{"image_id": 1, "caption": "a"}]}], "val", "COCO annotations have none"),
    ],
)
def test_a_split_that_a_file_does_not_have_is_refused(files, tmp_path, capsys, name, lines, split, message):
    references = write_lines(tmp_path / name, lines)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["score", files["good"], "--references", references, "--split", split])
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip()
    assert f"no split {split!r}" in error or f"no image in split {split!r}" in error
    assert message in error and error.count("\n") == 0


def test_a_column_says_the_split(files, tmp_path, capsys):
    splits = {"1": {"split": "val"}, "2": {"split": "validation"}, "3": {}}
    rows = [{"image_id": key, "captions": REFERENCES[key], **split} for key, split in splits.items()]
    references = write_lines(tmp_path / "r.jsonl", rows)
    two = write_lines(tmp_path / "two.jsonl", [{"image_id": key, "caption": GOOD[key]} for key in ("1", "2")])
    cli.main(["score", two, "--references", references, "--split", "validation"])
    assert "2 images\n" in capsys.readouterr().out
    three = write_lines(tmp_path / "three.jsonl", [{"image_id": "3", "caption": GOOD["3"]}])
    cli.main(["score", three, "--references", references, "--split", "train"])
    assert "1 image\n" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["score", "check"])
def test_an_output_of_the_wrong_kind_is_one_line(files, tmp_path, capsys, scene_rows, command):
    there = tmp_path / "there"
    if command == "score":
        there.mkdir()
        arguments = ["score", files["good"], "--references", files["references"]]
    else:
        there.write_text("")
        scene_rows[0]["image"].save(tmp_path / "1.png")
        write_lines(tmp_path / "train.jsonl", [{"image": "1.png", "captions": ["a dog"]}])
        arguments = ["data", "check", str(tmp_path / "train.jsonl")]
    with pytest.raises(SystemExit) as exit_:
        cli.main([*arguments, "--output", str(there)])
    assert exit_.value.code == 2
    said = {"score": "Is a directory", "check": "File exists"}[command]
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {there}: {said}; fix or change the path"


def test_a_warning_about_data_is_one_line_without_code(tmp_path, scene_rows):
    scene_rows[0]["image"].save(tmp_path / "1.png")
    source = write_lines(tmp_path / "train.jsonl", [{"image": "1.png", "captions": ["a dog", " "]}])
    code = f"""
import warnings
from hfcap.cli import main
warnings.warn("of others")
main(["data", "split", {source!r}, "--output", {str(tmp_path / "out")!r}, "--validation", "0"])
warnings.warn("of others again")
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.splitlines()
    said = [line for line in said if "warn" in line.lower()]
    assert said == [
        "<string>:4: UserWarning: of others",
        "warning: dropped 1 empty caption and 0 images without any caption (of 1 image); remove them from the "
        "source to silence this",
        "<string>:6: UserWarning: of others again",
    ]


def test_an_error_that_names_no_file_is_a_traceback():
    def broken():
        raise OSError("a bug")

    with pytest.raises(OSError, match="a bug"):
        run_main(broken)


def test_an_interrupted_command_is_one_line(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as exit_:
        run_main(interrupted)
    assert (exit_.value.code, capsys.readouterr().err) == (130, "interrupted\n")


@pytest.mark.parametrize("old", [["--predictions", "p.jsonl"], ["--compare", "a", "b"], ["--references=r.json"]])
def test_the_old_name_of_score_points_to_the_new_one(old):
    fix = "to score a file of captions, run hfcap score FILE --references SOURCE"
    with refused(option=old[0].removesuffix("=r.json"), fix=fix):
        run_command("evaluate", *old)


def test_commands_are_listed_with_what_they_take(capsys):
    for words, wanted in ((["--help"], "score the captions"), (["evaluate", "--help"], "usage: hfcap evaluate")):
        with pytest.raises(SystemExit) as exit_:
            cli.main(words)
        assert exit_.value.code == 0
        assert wanted in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("options", [["--load_in_8bit", "true"], ["--batch_size", "0"]])
def test_evaluate_refuses_what_the_recipe_refuses(options, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["evaluate", "owner/cap", *options])
    assert exit_.value.code == 2
    assert options[0].removeprefix("--") in capsys.readouterr().err


def test_scoring_files_loads_neither_torch_nor_transformers(files):
    code = (
        "import sys; from hfcap import cli; "
        f"cli.main(['score', {files['good']!r}, '--references', {files['references']!r}]); "
        "sys.exit(int('torch' in sys.modules or 'transformers' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["caption", "photo.png", "--model", ""], "model is ''; wanted a run folder"),
        (["score", "p.jsonl", "--references", "r.jsonl", "--metrics", ""], "unknown metrics (none)"),
        (["data", "check", ".", "--max_pixels", "0"], "max_pixels is 0; wanted 1 to"),
    ],
)
def test_an_empty_or_impossible_value_is_refused_and_not_taken_for_none(tmp_path, monkeypatch, capsys, command, says):
    """A variable of a shell that is empty would name the current folder, or choose what nobody asked for."""
    monkeypatch.chdir(tmp_path)
    load_scenes("test", 1, "caption", image_size=32)[0]["image"].save("photo.png")
    Path("photo.txt").write_text("a dog")
    Path("p.jsonl").write_text('{"image_id": "1", "caption": "a dog"}\n')
    Path("r.jsonl").write_text('{"image_id": "1", "captions": ["a dog"]}\n')
    with pytest.raises(SystemExit) as end:
        cli.main(command)
    assert end.value.code == 2 and says in capsys.readouterr().err
