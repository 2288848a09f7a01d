"""compute_metrics: its keys, its errors, and figures published elsewhere."""

import subprocess
import sys

import pytest

from hfcap.metrics import compute_metrics


@pytest.mark.filterwarnings("ignore:CIDEr weighs")
def test_keys_and_per_image_lengths():
    result = compute_metrics(["a dog", "a cat"], [["a dog runs"], ["the cat", "a cat sits"]], ("bleu", "cider"))
    assert set(result) == {
        key + suffix for key in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "cider") for suffix in ("", "_per_image")
    }
    assert all(len(value) == 2 for key, value in result.items() if key.endswith("_per_image"))


@pytest.mark.parametrize(
    ("predictions", "references", "error", "message"),
    [
        (["a"], [["a"], ["b"]], ValueError, "got 1 predictions and references for 2 images"),
        ([], [], ValueError, "got 0 predictions"),
        (["a"], [[]], ValueError, "image 0 has 0 references"),
        (["a"], ["a dog"], TypeError, "references of image 0 are one str"),
        ([None], [["a"]], TypeError, "prediction 0 is NoneType"),
        (["a"], [[3]], TypeError, "a reference of image 0 is int"),
    ],
)
def test_bad_input_is_one_clear_error(predictions, references, error, message):
    with pytest.raises(error, match=message):
        compute_metrics(predictions, references)


def test_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="unknown metrics spice; wanted some of cider"):
        compute_metrics(["a"], [["a"]], ("bleu", "spice"))


def test_one_image_gives_zero_and_a_small_set_warns_once(monkeypatch):
    monkeypatch.setattr("hfcap.metrics.cider._has_warned", False)
    with pytest.warns(UserWarning, match=r"with 1 image.* --max_eval_images, .*--idf") as caught:
        assert compute_metrics(["a dog"], [["a dog"]], ("cider",))["cider"] == 0.0
        compute_metrics(["a dog", "a cat"], [["a dog"], ["a cat"]], ("cider",))
    assert len(caught) == 1


@pytest.mark.filterwarnings("ignore:CIDEr weighs")
def test_empty_captions_score_zero():
    result = compute_metrics(["", "..."], [["", ""], ["a dog"]])
    assert result["bleu_4"] < 1e-6
    assert result["cider"] == 0.0


def test_import_needs_neither_torch_nor_transformers():
    code = "import sys, hfcap.metrics; print([m for m in ('torch', 'transformers', 'evaluate') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
