"""What must hold for any captions."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hfcap.metrics import compute_metrics, tokenize
from hfcap.metrics._ptb_lexer import lex
from hfcap.metrics.ptb_tokenizer import PUNCTUATION

METRICS = ("bleu", "rouge_l", "cider")
pytestmark = pytest.mark.filterwarnings("ignore:CIDEr weighs")

# Words without a full stop: after "S." the original looks at the next caption, so there order does matter.
words = st.sampled_from(
    ["a", "the", "dog", "cats", "isn't", "red-brown,", "1/2", "(old)", "man's", "12:30", "bus", "über", "!"]
)
captions = st.lists(words, max_size=8).map(" ".join)
images = st.tuples(captions, st.lists(captions, min_size=1, max_size=4))


@settings(max_examples=60, deadline=None)
@given(st.lists(images, min_size=1, max_size=6), st.randoms())
def test_order_of_images_does_not_matter(rows, random):
    order = list(range(len(rows)))
    random.shuffle(order)
    straight = compute_metrics([row[0] for row in rows], [row[1] for row in rows], METRICS)
    shuffled = compute_metrics([rows[i][0] for i in order], [rows[i][1] for i in order], METRICS)
    for key, value in straight.items():
        wanted = [value[i] for i in order] if key.endswith("_per_image") else value
        assert shuffled[key] == pytest.approx(wanted, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(images, min_size=1, max_size=6))
def test_ranges_and_means(rows):
    result = compute_metrics([row[0] for row in rows], [row[1] for row in rows], METRICS)
    for key in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"):
        top = 10 if key == "cider" else 1
        assert all(0 <= value <= top + 1e-9 for value in [result[key], *result[f"{key}_per_image"]])
    for key in ("rouge_l", "cider"):
        per_image = result[f"{key}_per_image"]
        assert result[key] == pytest.approx(sum(per_image) / len(per_image), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(words.filter(lambda word: word != "!"), min_size=4, max_size=9), min_size=1, max_size=5))
def test_a_copy_of_the_only_reference_scores_the_maximum(rows):
    texts = [" ".join(row) for row in rows]
    result = compute_metrics(texts, [[text] for text in texts], ("bleu", "rouge_l"))
    for key in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l"):
        assert result[key] == pytest.approx(1, abs=1e-8)


def test_a_copy_of_all_references_scores_ten_in_cider():
    texts = [f"word{i} other{i} third{i} fourth{i} fifth{i}" for i in range(4)]
    result = compute_metrics(texts, [[text, text] for text in texts], ("cider",))
    assert result["cider_per_image"] == pytest.approx([10.0] * 4)


@settings(max_examples=120, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_no_text_crashes(texts):
    result = compute_metrics(texts, [[text, *texts] for text in texts], METRICS)
    assert all(value == value for value in result.values() if isinstance(value, float))  # no NaN


@settings(max_examples=120, deadline=None)
@given(st.text(st.characters(codec="utf-8", max_codepoint=0x2100), max_size=60))
@example("0@\x1e")
def test_remembered_words_give_what_the_rules_give(text):
    # What breaks a line of the original's file; U+001C to U+001F and U+0085 do not, though `splitlines` splits there.
    line = re.sub("[\n\r\x0b\x0c\u2028\u2029]", " ", text)
    whole = " ".join(lex(line, "\n")).rstrip().split(" ")
    assert tokenize([text], isolated=True) == [" ".join(token for token in whole if token not in PUNCTUATION)]


@settings(max_examples=100, deadline=None)
@given(st.lists(captions, min_size=1, max_size=5))
def test_isolated_captions_do_not_depend_on_their_neighbours(texts):
    assert tokenize(texts, isolated=True) == [tokenize([text], isolated=True)[0] for text in texts]
