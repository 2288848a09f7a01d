"""METEOR's own alignment: what the jar answered to such sentences, on word lists and a paraphrase table made here."""

import gzip
import zipfile

import numpy as np
import pytest

from hfcap.metrics.meteor_alignment import Sentence, align
from hfcap.metrics.meteor_paraphrases import Paraphrases, load_table
from hfcap.metrics.meteor_words import WordNet, normalize, read_function_words

# Words of each group match each other; kinds as the jar has them (1 stem, 2 synonym).
KIN = {("travelers", "traveling"): (1,), ("attic", "beans"): (2,), ("hydrant", "hydrants"): (1, 2)}
PARTNERS = {("collect", "picking up"): 1, ("an old", "two"): 1, ("men", "people"): 2}


def sentence(text: str) -> Sentence:
    words = text.split()
    places, phrases = {}, {}
    for place, word in enumerate(words):
        places.setdefault(word, []).append(place)
    for phrase in {phrase for pair in PARTNERS for phrase in pair}:
        parts = phrase.split()
        for start in range(len(words) - len(parts) + 1):
            if words[start : start + len(parts)] == parts:
                phrases.setdefault(phrase, []).append((start, len(parts)))
    return Sentence(words, places, phrases)


def aligned(candidate: str, reference: str) -> tuple[list[tuple[int, ...]], int]:
    kin = {word: {word: (0,)} for word in candidate.split()}
    for pair, kinds in KIN.items():
        for one, other in (pair, pair[::-1]):
            if one in kin:
                kin[one][other] = kinds
    partners = {}
    for (one, other), rows in PARTNERS.items():
        partners.setdefault(one, {})[other] = rows
        partners.setdefault(other, {})[one] = rows
    matches, chunks = align(sentence(candidate), sentence(reference), kin, partners)
    return [(begin, words, start, length, kind) for start, kind, begin, words, length in matches], chunks


@pytest.mark.parametrize(
    ("candidate", "reference", "matches", "chunks"),
    [
        ("a dog", "no cat", [], 0),
        ("travelers", "traveling", [(0, 1, 0, 1, 1)], 1),
        # A word matched by two kinds, or in two places, competes with itself: it is left out unless beside another.
        ("hydrant", "hydrants", [], 0),
        ("zebra hydrant", "zebra hydrants", [(0, 1, 0, 1, 0), (1, 1, 1, 1, 1)], 1),
        ("hydrant zebra", "hydrants zebra", [(0, 1, 0, 1, 1), (1, 1, 1, 1, 0)], 1),
        ("zebra hydrant xx", "zebra qq hydrants", [(0, 1, 0, 1, 0)], 1),
        ("attic xx attic", "beans", [], 0),
        ("zebra xx zebra", "zebra qq zebra", [(0, 1, 0, 1, 0), (2, 1, 2, 1, 0)], 2),
        # Fewest chunks.
        ("a b c a d", "x a d", [(3, 1, 1, 1, 0), (4, 1, 2, 1, 0)], 1),
        # Phrases of differing length; a table that says a pair twice makes two matches of it.
        ("collect xx collect", "picking up", [(0, 1, 0, 2, 3)], 1),
        ("men", "people", [], 0),
    ],
)
def test_alignments_of_the_jar(candidate, reference, matches, chunks):
    assert aligned(candidate, reference) == (matches, chunks)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("a dog 's tail", "a dog ' s tail"),
        ("it does n't run", "it does n 't run"),
        ("at 12:30 p.m. in the u.s.", "at 12 : 30 pm in the us"),
        ("a 3-year-old in a t-shirt , a-b-c", "a 3 year old in a t shirt , a b-c"),
        ("mr. smith took no. 5 of 1,000 on 5th st.", "mr. smith took no . 5 of 1,000 on 5th st ."),
        ("1/2 `` o'clock '' -- -lrb- w/ 1.5 -rrb-", '1 / 2 " o \'clock " - -lrb- w / 1.5 -rrb-'),
        ("u.s.-based a... b ,5 日本", "us based a ... b , 5 日 本"),
    ],
)
def test_normalization_is_that_of_the_jar(caption, words):
    assert normalize(caption) == words.split()


@pytest.fixture
def jar(tmp_path):
    path = tmp_path / "meteor-1.5.jar"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("synonym/english.synsets", "woman\n1 2\nman\n3\npasse\n4\npass\n5\nglas\n6\nbe\n7\n")
        archive.writestr("synonym/english.exceptions", "be\nis are\n")
        archive.writestr("function/english.words", "the\na\n")
    return path


def test_base_forms_are_irregular_ones_or_the_first_in_wordnet(jar):
    wordnet = WordNet(jar)
    assert wordnet.synset_ids("women") == {"1", "2"} and wordnet.synset_ids("men") == {"3"}
    assert wordnet.synset_ids("passes") == {"4"}  # not "pass", which comes later
    assert wordnet.synset_ids("glass") == set()  # an ending stays on after ss
    assert wordnet.synset_ids("is") == {"7"}
    assert read_function_words(jar) == {"the", "a"}


def test_paraphrases_of_a_corpus_and_their_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "paraphrase-en.gz"
    rows = [("in front of", "before"), ("before", "in front of"), ("dog", "puppy"), ("cat", "kitten")]
    with gzip.open(source, "wt") as file:
        file.writelines(f"0.5\n{one}\n{other}\n" for one, other in rows)
    table = load_table(source)
    paraphrases = Paraphrases(table, [["a", "dog", "in", "front", "of", "it"], ["before", "a", "puppy", "cat"]])
    first, second = paraphrases.phrases
    assert sorted(first.values()) == [[(1, 1)], [(2, 3)]] and sorted(second.values()) == [[(0, 1)], [(2, 1)]]
    counts = sorted(count for partners in paraphrases.partners.values() for count in partners.values())
    assert counts == [1, 1, 2, 2]  # both directions of the table count, and "cat" has no partner here
    (compiled,) = (tmp_path / "cache").rglob("*.npy")
    modified = compiled.stat().st_mtime_ns
    assert np.array_equal(load_table(source), table) and compiled.stat().st_mtime_ns == modified
    with gzip.open(source, "wt") as file:
        file.write("0.5\nx\ny\n")
    assert load_table(source).shape == (2, 1)  # another source is another table
