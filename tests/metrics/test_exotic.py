"""Where the tokenizer does not do what the original does, on purpose or for want of a rule; see docs/metrics.md."""

import pytest
from test_golden import needs_original

from hfcap.metrics import compute_metrics, tokenize


@pytest.mark.parametrize("line_break", ["\r", "\r\n", "\x0b", "\x0c", "\u2028", "\u2029"])
def test_a_line_break_is_a_space(line_break):
    # The original replaces "\n" alone: any other line break begins a new caption and shifts all that follow.
    assert tokenize([f"a dog{line_break}runs", "a cat"]) == ["a dog runs", "a cat"]


def test_empty_captions_at_the_end_stay():
    # The original prints no line for them, and their images are missing from its result.
    assert tokenize(["a dog", "", ""]) == ["a dog", "", ""]


def test_a_lone_surrogate_is_deleted():
    # The original cannot encode it and stops.
    assert tokenize(["a \ud83d dog"]) == ["a dog"]
    assert compute_metrics(["a \ud83d dog"], [["a dog"]], ("rouge_l",))["rouge_l"] == 1.0


EXOTIC = [
    # (caption, the original's tokens, ours, why)
    (
        "10\u03a310\u03a3",
        "10\u03c310\u03c2",
        "10\u03c310\u03c3",
        "Java's final sigma after a digit",
    ),
    ("a\u03a3-a\u03a3", "a\u03c3-a\u03c2", "a\u03c2-a\u03c2", "Java takes a hyphen for the middle of a word"),
    ("Mi\u017fs.A", "mi\u017fs. a", "mi\u017fs.a", "a long s in an abbreviation that must be capitalised"),
    ("ArK.A", "ark. a", "ark.a", "an abbreviation in mixed case"),
    ("x\u2c2f.com", "x\u2c2f.com", "x\u2c5f.com", "a capital newer than the Unicode tables of Java 17"),
]


@pytest.mark.parametrize(("caption", "original", "ours", "why"), EXOTIC, ids=[entry[3] for entry in EXOTIC])
def test_pinned_differences(caption, original, ours, why):
    assert tokenize([caption]) == [ours]


def test_a_full_stop_looks_at_the_next_caption_unless_isolated():
    # As the original: the captions are lines of one file, and "S." at the end of a sentence is an "S".
    captions = ["on 5th Ave S.", "The bus stops."]
    assert tokenize(captions) == ["on 5th ave s", "the bus stops"]
    assert tokenize(captions, isolated=True) == ["on 5th ave s.", "the bus stops"]
    assert tokenize(captions[:1]) == ["on 5th ave s."]


@pytest.mark.slow
@needs_original
def test_the_original_differs_as_written():
    from make_golden import original_tokens

    captions = [*(caption for caption, *_ in EXOTIC), "the end"]  # the very last line of a file has rules of its own
    assert original_tokens(captions)[:-1] == [original for _, original, *_ in EXOTIC]
    assert original_tokens(["a dog\rruns", "a cat"]) == ["a dog", "runs"]
    assert original_tokens(["on 5th Ave S.", "The bus stops."]) == ["on 5th ave s", "the bus stops"]
