"""METEOR: the formula on statistics of the jar, the errors where it cannot run, and both aligners compared (slow)."""

import gzip
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from make_golden import made_captions, original_meteor, original_tokens, read_images

from hfcap.errors import WorkError
from hfcap.metrics import compute_metrics, confidence_intervals
from hfcap.metrics.meteor import MeteorUnavailableError, _without_whole_matches, meteor_from_statistics
from hfcap.metrics.meteor_paraphrases import load_table
from refusals import refused, run_command

# What meteor-1.5.jar (pycocoevalcap 1.2, Java 17) answers to SCORE and, for these six at once, to EVAL.
STATISTICS = """
4 5 1 2 1 1 1 1 1 1 0 0 0 0 0 0 0 0 0 0 1 3 3
0 2 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
2 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
2 2 1 1 1 1 1 1 0 0 0 0 0 0 0 0 0 0 0 0 1 2 2
6 6 3 3 3 3 3 3 0 0 0 0 0 0 0 0 0 0 0 0 1 6 6
2 2 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
"""
SCORES = [0.27709302903911487, 0.0, 0.0, 1.0, 1.0, 0.0]
CORPUS_SCORE = 0.3898408397569076

CAPTIONS = Path(__file__).parents[3] / "shared" / "data" / "coco" / "captions_val2017.json"

missing = shutil.which("java") is None or importlib.util.find_spec("pycocoevalcap") is None
needs_original = pytest.mark.skipif(missing, reason="METEOR needs Java and pycocoevalcap")


def test_formula_equals_the_jar():
    statistics = np.array([line.split() for line in STATISTICS.strip().splitlines()], dtype=np.float64)
    statistics = _without_whole_matches(statistics)
    assert meteor_from_statistics(statistics) == pytest.approx(SCORES, abs=1e-15)
    assert float(meteor_from_statistics(statistics.sum(axis=0))) == pytest.approx(CORPUS_SCORE, abs=1e-15)


def test_an_unknown_aligner_and_one_without_its_metric_are_refused(tmp_path):
    with refused(option="meteor", got="ruby", wanted="python or jar"):
        compute_metrics(["a"], [["a"]], ("meteor",), meteor="ruby")
    (tmp_path / "c.jsonl").write_text('{"image_id": "1", "caption": "a dog", "captions": ["a dog"]}\n')
    with refused(option="--meteor", got="jar", fix="add meteor to the metrics, or remove it"):
        run_command("score", str(tmp_path / "c.jsonl"), "--references", str(tmp_path / "c.jsonl"), "--meteor", "jar")


def test_without_java_one_clear_error(monkeypatch):
    monkeypatch.setenv("PATH", "")
    fix = "install a Java runtime (8 or newer), or use --meteor python"
    with refused(MeteorUnavailableError, option="meteor", says="`java`", fix=fix):
        compute_metrics(["a"], [["a"]], ("meteor",), meteor="jar")


def test_without_java_the_command_line_says_so_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    (tmp_path / "c.jsonl").write_text('{"image_id": "1", "caption": "a dog", "captions": ["a dog"]}\n')
    command = ["score", str(tmp_path / "c.jsonl"), "--references", str(tmp_path / "c.jsonl")]
    with refused(MeteorUnavailableError, option="meteor"):  # with its fields
        run_command(*command, "--metrics", "meteor", "--meteor", "jar")


def test_without_the_package_one_clear_error(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/java")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refused(MeteorUnavailableError, option="meteor", fix='pip install "hfcap[meteor]"'):
        compute_metrics(["a"], [["a"]], ("meteor",))


@needs_original
def test_a_failing_jar_is_one_clear_error(monkeypatch, tmp_path):
    # A `java` that ends at once, as one that finds too little memory does.
    fake = tmp_path / "java"
    fake.write_text("#!/bin/sh\necho 'Could not reserve enough space' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with refused(WorkError, option="meteor", says=("code 1 and 0 answers for 1 images", "Could not reserve")):
        compute_metrics(["a"], [["a"]], ("meteor",), meteor="jar")


@pytest.mark.slow
@needs_original
def test_equal_to_pycocoevalcap():
    candidates, references = made_captions()
    result = compute_metrics(candidates, references, ("meteor",), meteor="jar")
    flat = iter(original_tokens([caption for captions in references for caption in captions]))
    tokenized = [[next(flat) for _ in captions] for captions in references]
    original = original_meteor(original_tokens(candidates), tokenized)
    assert result["meteor"] == pytest.approx(original["value"], abs=1e-9)
    assert result["meteor_per_image"] == pytest.approx(original["per_image"], abs=1e-9)
    low, high = confidence_intervals(candidates, references, ("meteor",), meteor="jar")["meteor"]["ci95"]
    assert low < result["meteor"] < high


@pytest.mark.slow
@needs_original
@pytest.mark.skipif(not CAPTIONS.exists(), reason=f"no captions at {CAPTIONS}")
def test_the_two_aligners_agree_on_photos(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp()))
    images = read_images(CAPTIONS)[:1000]
    candidates, references = [captions[0] for captions in images], [captions[1:] for captions in images]
    ours = compute_metrics(candidates, references, ("meteor",))
    jar = compute_metrics(candidates, references, ("meteor",), meteor="jar")
    difference = np.abs(np.subtract(ours["meteor_per_image"], jar["meteor_per_image"]))
    assert abs(ours["meteor"] - jar["meteor"]) < 5e-4
    assert (difference < 1e-6).mean() > 0.975


@pytest.fixture
def table_source(tmp_path, monkeypatch):
    """A paraphrase table of two pairs, and a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "paraphrase-en.gz"
    source.write_bytes(gzip.compress(b"0.5\na dog\none dog\n0.2\na cat\nsome cat\n"))
    return source


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-8], lambda b: b[:40], lambda b: b"hello", lambda b: b"", bytes.upper]
)
def test_a_damaged_table_of_paraphrases_is_made_again(table_source, tmp_path, damage):
    whole = np.array(load_table(table_source))
    (path,) = (tmp_path / "cache").rglob("*.npy")
    good = path.read_bytes()
    for broken in (damage(good), good[:128] + bytes(len(good) - 128)):  # the second: zeros, after a power cut
        path.write_bytes(broken)
        np.testing.assert_array_equal(load_table(table_source), whole)
        assert path.read_bytes() == good


def test_without_a_folder_to_write_the_table_is_in_memory(table_source, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file")
    assert load_table(table_source).shape == (2, 2)
    assert "paraphrases are compiled each time" in caplog.text


def test_two_processes_that_compile_at_once_get_the_same_table(table_source, tmp_path):
    code = "import pathlib, sys; from hfcap.metrics.meteor_paraphrases import load_table"
    code += "; load_table(pathlib.Path(sys.argv[1]))"
    both = [subprocess.Popen([sys.executable, "-c", code, table_source]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert len(list((tmp_path / "cache").rglob("*"))) == 3  # two folders, one table
    assert load_table(table_source).shape == (2, 2)
