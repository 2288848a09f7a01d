"""Diversity figures against counts by hand."""

import pytest

from hfcap.metrics import describe_captions
from hfcap.metrics.diversity import distinct, has_repetition


def test_figures_by_hand():
    captions = ["A dog runs.", "a dog runs", "A man on a man on a horse!", "", "The cat"]
    result = describe_captions(captions, training_captions=["The cat.", "a zebra"])
    assert result == {
        "num_captions": 5,
        "vocabulary": 8,
        "distinct_1": 8 / 16,
        "distinct_2": 7 / 12,
        "mean_length": 16 / 5,
        "length_histogram": {0: 1, 2: 1, 3: 2, 8: 1},
        "empty": 1,
        "repetition": 1 / 5,
        "duplicates": 2 / 5,
        "most_common": [["a dog runs", 2]],
        "novel": 4 / 5,
    }


def test_novelty_is_left_out_without_training_captions():
    assert "novel" not in describe_captions(["a dog"])


@pytest.mark.parametrize(
    ("caption", "repeats"),
    [("a dog", False), ("a a dog", True), ("a man and a man", False), ("x a b a b", True), ("a b c d a b c d", True)],
)
def test_repetition(caption, repeats):
    assert has_repetition(caption.split()) is repeats


def test_five_words_twice_are_not_looked_for():
    assert not has_repetition(["a", "b", "c", "d", "e", "a", "b", "c", "d", "e"])


def test_distinct_without_ngrams():
    assert distinct([["a"], []], 2) == 0.0


def test_no_captions():
    with pytest.raises(ValueError, match="got 0 predictions"):
        describe_captions([])
