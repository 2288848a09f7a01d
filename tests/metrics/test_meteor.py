"""METEOR: the formula on statistics of the jar, the errors where it cannot run, and the original itself (slow)."""

import importlib.util
import shutil

import numpy as np
import pytest
from make_golden import made_captions, original_meteor, original_tokens

from hfcap.errors import WorkError
from hfcap.metrics import compute_metrics, confidence_intervals
from hfcap.metrics.meteor import MeteorUnavailableError, _without_whole_matches, meteor_from_statistics
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

missing = shutil.which("java") is None or importlib.util.find_spec("pycocoevalcap") is None
needs_original = pytest.mark.skipif(missing, reason="METEOR needs Java and pycocoevalcap")


def test_formula_equals_the_jar():
    statistics = np.array([line.split() for line in STATISTICS.strip().splitlines()], dtype=np.float64)
    statistics = _without_whole_matches(statistics)
    assert meteor_from_statistics(statistics) == pytest.approx(SCORES, abs=1e-15)
    assert float(meteor_from_statistics(statistics.sum(axis=0))) == pytest.approx(CORPUS_SCORE, abs=1e-15)


def test_without_java_one_clear_error(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with refused(MeteorUnavailableError, option="meteor", says="`java`", fix="install a Java runtime (8 or newer)"):
        compute_metrics(["a"], [["a"]], ("meteor",))


def test_without_java_the_command_line_says_so_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    (tmp_path / "c.jsonl").write_text('{"image_id": "1", "caption": "a dog", "captions": ["a dog"]}\n')
    command = ["score", str(tmp_path / "c.jsonl"), "--references", str(tmp_path / "c.jsonl")]
    with refused(MeteorUnavailableError, option="meteor"):  # with its fields
        run_command(*command, "--metrics", "meteor")


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
        compute_metrics(["a"], [["a"]], ("meteor",))


@pytest.mark.slow
@needs_original
def test_equal_to_pycocoevalcap():
    candidates, references = made_captions()
    result = compute_metrics(candidates, references, ("meteor",))
    flat = iter(original_tokens([caption for captions in references for caption in captions]))
    tokenized = [[next(flat) for _ in captions] for captions in references]
    original = original_meteor(original_tokens(candidates), tokenized)
    assert result["meteor"] == pytest.approx(original["value"], abs=1e-9)
    assert result["meteor_per_image"] == pytest.approx(original["per_image"], abs=1e-9)
    low, high = confidence_intervals(candidates, references, ("meteor",))["meteor"]["ci95"]
    assert low < result["meteor"] < high
