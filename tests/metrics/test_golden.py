"""The same digits as pycocoevalcap: golden values, always; the original side by side, where it can run (slow)."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hostile_strings import hostile_strings, random_captions
from make_golden import made_captions, original_metrics, original_tokens, read_images

from hfcap.metrics import compute_metrics, tokenize

FOLDER = Path(__file__).parent
DATA = FOLDER.parents[2] / "shared" / "data"
TOLERANCE = 1e-9
FOUND = {"java": shutil.which("java"), "pycocoevalcap": importlib.util.find_spec("pycocoevalcap")}
MISSING = [name for name, found in FOUND.items() if not found]
needs_original = pytest.mark.skipif(bool(MISSING), reason=f"the original needs {' and '.join(MISSING)}")


def read(name: str) -> dict:
    return json.loads((FOLDER / name).read_text())


def test_tokens_of_hostile_strings():
    pairs = read("golden_tokens.json")["pairs"]
    assert len(pairs) > 1000
    tokens = tokenize([caption for caption, _ in pairs])
    differing = [(caption, wanted, got) for (caption, wanted), got in zip(pairs, tokens, strict=True) if wanted != got]
    assert not differing


def test_golden_strings_are_those_of_the_suite():
    wanted = [caption for caption in hostile_strings() if len(caption) < 1000]
    assert [caption for caption, _ in read("golden_tokens.json")["pairs"]] == wanted


@pytest.mark.parametrize("option", ["closest", "shortest", "average"])
def test_metrics_of_made_captions(option):
    golden = read("golden_metrics.json")["metrics"]
    result = compute_metrics(*made_captions(), ("bleu", "rouge_l", "cider", "cider_d"), reference_length=option)
    for key in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider", "cider_d"):
        name = key.replace("_d", "") + (f"_{option}" if key.startswith("bleu") and option != "closest" else "")
        assert result[key] == pytest.approx(golden[name]["value"], abs=TOLERANCE)
        assert result[f"{key}_per_image"] == pytest.approx(golden[name]["per_image"], abs=TOLERANCE)


def read_source(*parts: str) -> list[list[str]]:
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no captions at {path}")
    return read_images(path)


SOURCES = pytest.mark.parametrize("source", [("coco", "captions_val2017.json"), ("flickr8k", "data")], ids="/".join)


@pytest.mark.slow
@needs_original
@SOURCES
def test_tokens_side_by_side(source):
    captions = [caption for image in read_source(*source) for caption in image]
    assert tokenize(captions) == original_tokens(captions)


@pytest.mark.slow
@needs_original
@SOURCES
@pytest.mark.parametrize("candidate", [0, 3])
def test_metrics_side_by_side(source, candidate):
    images = read_source(*source)
    candidates = [captions[candidate] for captions in images]
    references = [captions[:candidate] + captions[candidate + 1 :] for captions in images]
    flat = iter(original_tokens([caption for captions in references for caption in captions]))
    tokenized = [[next(flat) for _ in captions] for captions in references]
    originals = original_metrics(original_tokens(candidates), tokenized)
    for option in ("closest", "shortest", "average"):
        result = compute_metrics(candidates, references, reference_length=option)
        for key in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"):
            original = originals[key if option == "closest" or "bleu" not in key else f"{key}_{option}"]
            assert abs(result[key] - original["value"]) < TOLERANCE
            assert np.abs(np.subtract(result[f"{key}_per_image"], original["per_image"])).max() < TOLERANCE


@pytest.mark.slow
@needs_original
def test_golden_values_are_still_what_the_original_gives():
    strings = hostile_strings()
    assert tokenize(strings) == original_tokens(strings)


@pytest.mark.slow
@needs_original
def test_random_captions_side_by_side():
    captions = random_captions(50_000, seed=1)
    pairs = zip(captions, tokenize(captions), original_tokens(captions), strict=True)
    differing = [pair for pair in pairs if pair[1] != pair[2]]
    assert not differing
