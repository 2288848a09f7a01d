"""benchmarks/human_agreement.py on captions made for it: right order gives a high tau, one JSON line comes last."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "human_agreement.py"
pytest.importorskip("scipy", reason='the benchmark needs scipy (pip install "hfcap[benchmarks]")')
REFERENCE = "a brown dog runs over the wet sand of a beach"


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture
def files(tmp_path):
    words = REFERENCE.split()
    lines = [
        {"image": f"{image}", "caption": " ".join(words[: 2 + 3 * right]), "ratings": [right, right]}
        for image in range(6)
        for right in range(4)
    ]
    ratings, references = tmp_path / "ratings.jsonl", tmp_path / "references.jsonl"
    ratings.write_text("".join(json.dumps(line) + "\n" for line in lines))
    captions = [{"image_id": str(image), "captions": [REFERENCE]} for image in range(6)]
    references.write_text("".join(json.dumps(line) + "\n" for line in captions))
    return ratings, references


def test_tau_c_of_captions_that_grow_better(files):
    ratings, references = files
    done = run(ratings, "--references", references, "--metrics", "rouge_l", "--num_resamples", "20")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["images"], result["captions"], result["ratings"]) == (6, 24, 48)
    assert result["rouge_l"] == {"tau_c": pytest.approx(1.0), "ci95": pytest.approx([1.0, 1.0])}
    lines = [json.loads(line) for line in ratings.read_text().splitlines()]
    reversed_lines = [line | {"ratings": [3 - rating for rating in line["ratings"]]} for line in lines]
    ratings.write_text("".join(json.dumps(line) + "\n" for line in reversed_lines))
    done = run(ratings, "--references", references, "--metrics", "rouge_l", "--num_resamples", "20")
    assert json.loads(done.stdout.splitlines()[-1])["rouge_l"]["tau_c"] == pytest.approx(-1.0)


def test_numbers_match_with_and_without_leading_zeros(files):
    ratings, references = files
    lines = [json.loads(line) for line in ratings.read_text().splitlines()]
    padded = [line | {"image": f"COCO_val2014_{int(line['image']):012}"} for line in lines]
    ratings.write_text("".join(json.dumps(line) + "\n" for line in padded))
    done = run(ratings, "--references", references, "--metrics", "rouge_l", "--num_resamples", "2")
    assert json.loads(done.stdout.splitlines()[-1])["images"] == 6, done.stderr


def test_what_is_wrong_is_one_line(files):
    ratings, references = files
    ratings.write_text('{"image": "9", "caption": "a dog", "ratings": [1]}\n')
    done = run(ratings, "--references", references)
    assert done.returncode == 2 and "no references of 1 rated image (first: 9)" in done.stderr
    ratings.write_text('{"image": "1", "caption": "a dog", "ratings": ["good"]}\n')
    done = run(ratings, "--references", references)
    assert done.returncode == 2 and "ratings" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "options", "says"),
    [
        (None, ["--metrics", "bleu,best"], "unknown metrics best"),
        (None, ["--metrics", ""], "unknown metrics (none)"),
        (None, ["--metrics", "cider,clip_score"], "it looks at images"),
        (None, ["--chair_synonyms", "words.txt"], "--chair_synonyms is 'words.txt': no metric asked for uses it"),
        (None, ["--num_resamples", "-3"], "--num_resamples"),
        ("[1, 2]", [], "a JSON list"),
        ('{"image": "1", "caption": "a", "ratings": [1' + 400 * "0" + "]}", [], "wanted"),
    ],
)
def test_options_and_ratings_that_cannot_be_are_one_line(files, line, options, says):
    ratings, references = files
    if line is not None:
        ratings.write_text(line + "\n")
    done = run(ratings, "--references", references, *options)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr
