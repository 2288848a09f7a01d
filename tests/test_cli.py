"""`hfcap evaluate` on files: figures, comparison, saved document frequencies, and one-line errors."""

import json
import struct
import subprocess
import sys

import pytest
from PIL import Image

from hfcap import cli
from hfcap.data.scenes import load_scenes
from hfcap.data.sources import load_captions
from hfcap.evaluation import judge, write_evaluation
from hfcap.metrics import compute_metrics

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


def test_figures_are_those_of_the_metrics(files, tmp_path, capsys):
    output = tmp_path / "metrics.json"
    cli.main(
        ["evaluate", "--predictions", files["good"], "--references", files["references"], "--output", str(output)]
    )
    record = json.loads(output.read_text())
    expected = compute_metrics(list(GOOD.values()), list(REFERENCES.values()))
    assert record["metrics"]["cider"]["value"] == pytest.approx(expected["cider"])
    assert record["num_images"] == 3
    assert f"{100 * expected['bleu_4']:.2f}" in capsys.readouterr().out


def test_two_systems_are_compared_image_by_image(files, tmp_path, capsys):
    report = tmp_path / "report.html"
    command = ["evaluate", "--compare", files["bad"], files["good"], "--references", files["references"]]
    cli.main([*command, "--report", str(report)])
    output = capsys.readouterr().out
    assert "B - A" in output
    assert "p = " in output
    page = report.read_text()
    assert "&lt;b&gt;&amp; a dog&lt;/b&gt;" in page
    assert "<b>& a dog" not in page


def test_saved_document_frequencies_give_one_image_a_score(files, tmp_path, capsys):
    idf, output = tmp_path / "idf.npz", tmp_path / "metrics.json"
    cli.main(["evaluate", "--predictions", files["good"], "--references", files["references"], "--save-idf", str(idf)])
    one = write_lines(tmp_path / "one.jsonl", [{"image_id": "1", "caption": GOOD["1"]}])
    of_one = write_lines(tmp_path / "of_one.jsonl", [{"image_id": "1", "captions": REFERENCES["1"]}])
    command = ["evaluate", "--predictions", one, "--references", of_one, "--output", str(output)]
    cli.main(command)
    assert json.loads(output.read_text())["metrics"]["cider"]["value"] == 0
    cli.main([*command, "--idf", str(idf)])
    record = json.loads(output.read_text())
    assert record["metrics"]["cider"]["value"] > 1
    assert record["idf"] == str(idf)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--metrics", "spice"], "spice"),
        (["--predictions", "missing.jsonl"], "missing.jsonl"),
        (["--references", "missing.json"], "missing.json"),
        (["--idf", "missing.npz"], "missing.npz"),
    ],
)
def test_a_wrong_file_or_metric_is_one_line_and_code_2(files, capsys, change, message):
    command = ["evaluate", "--predictions", files["good"], "--references", files["references"], *change]
    with pytest.raises(SystemExit) as exit_:
        cli.main(command)
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.count("\n") == 0


def test_missing_captions_are_counted_only_where_allowed(files, tmp_path, capsys):
    two = write_lines(tmp_path / "two.jsonl", [{"image_id": key, "caption": GOOD[key]} for key in ("1", "2")])
    command = ["evaluate", "--predictions", two, "--references", files["references"]]
    with pytest.raises(SystemExit):
        cli.main(command)
    assert "3" in capsys.readouterr().err
    cli.main([*command, "--allow-missing"])
    assert "2 images, 1 without a caption left out" in capsys.readouterr().out


def test_references_come_from_a_data_source_with_its_pictures(tmp_path, capsys):
    rows = load_scenes("test", 1, "caption", image_size=32)
    predictions = [{"image_id": rows[0]["image_id"], "caption": rows[0]["captions"][0]}]
    (tmp_path / "data").mkdir()
    rows.to_parquet(tmp_path / "data" / "test-00000.parquet")
    report = tmp_path / "report.html"
    source = ["--references", str(tmp_path / "data"), "--split", "test", "--report", str(report)]
    cli.main(["evaluate", "--predictions", write_lines(tmp_path / "p.jsonl", predictions), *source])
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
    cli.main(["evaluate", "--predictions", predictions, *options])
    assert "data:image/jpeg" in report.read_text()
    rows = load_captions(str(source), "train")
    with pytest.raises(struct.error):
        rows[0]
    write_evaluation(tmp_path / "run", judge(["a dog"], rows.remove_columns("image"), {}), rows, "title", None)
    assert "data:image/jpeg" in (tmp_path / "run" / "report.html").read_text()


def test_evaluating_files_loads_neither_torch_nor_transformers(files):
    code = (
        "import sys; from hfcap import cli; "
        f"cli.main(['evaluate', '--predictions', {files['good']!r}, '--references', {files['references']!r}]); "
        "sys.exit(int('torch' in sys.modules or 'transformers' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
