"""Invented things: hand-made WordNet and captions, and the real one where pycocoevalcap is installed."""

import importlib.util

import pytest

from hfcap.metrics import compute_metrics
from hfcap.metrics.chair import CHAIR
from hfcap.metrics.invented import INVENTED, Things, load_things
from hfcap.metrics.meteor import METEOR
from hfcap.metrics.metric import Inputs, Options
from hfcap.metrics.wordnet_nouns import Nouns
from refusals import refused
from tiny.wordnet import write_jar


@pytest.fixture
def jar(tmp_path):
    path = tmp_path / "meteor-1.5.jar"
    write_jar(path)
    return path


def test_what_nouns_can_name(jar):
    nouns = Nouns(jar)
    assert nouns.ancestors("15") == {"15", "13", "06", "20", "19", "02", "01"}
    assert nouns.ancestors("05") == {"05", "20", "19", "02", "01"}
    assert nouns.things("puppy") == {"15"} and nouns.things("man") == {"05"}  # all persons are one thing
    assert nouns.things("dog") == {"13"}  # no more than half of its senses are persons
    assert nouns.things("jump") == {"17"} and not nouns.is_thing("jump")  # mostly an act
    assert nouns.things("park") == nouns.things("unknown") == set()


def test_nouns_of_captions_and_what_supports_them(jar):
    things = Things(Nouns(jar))
    assert [name for name, _ in things.named("a puppy wears two shirts and jumps in a park")] == ["puppy", "shirts"]
    assert [name for name, _ in things.named("the fire dog is made of iron")] == ["fire dog"]
    assert things.named("") == ()

    def unsupported(caption, *references):
        return things.unsupported(caption, things.evidence(references))

    assert unsupported("a puppy in a shirt", "an animal") == ["shirt"]  # more general
    assert unsupported("an animal in a garment", "the puppy 's shirt") == []  # more special
    assert unsupported("a man", "a crowd") == [] and unsupported("a man", "a puppy") == ["man"]
    assert unsupported("a puppy", "a man") == ["puppy"]


def test_shares_of_captions_and_of_nouns(jar, monkeypatch):
    monkeypatch.setattr("hfcap.metrics.invented.find_jar", lambda *_: jar)
    captions = ["A puppy in a shirt, and a man.", "a man", "it jumps"]
    result = compute_metrics(captions, [["a puppy"], ["someone"], ["a puppy"]], ("invented",))
    assert result["invented_s"] == pytest.approx(2 / 3) and result["invented_i"] == pytest.approx(3 / 4)
    assert result["invented_i_per_image"] == pytest.approx([2 / 3, 1, 0])
    assert not INVENTED.greater_is_better


@pytest.mark.parametrize("metric", [INVENTED, CHAIR, METEOR], ids=lambda metric: metric.key)
def test_references_that_do_not_look_like_english_are_a_warning(metric, jar, tmp_path, monkeypatch, recwarn):
    for module in ("invented", "chair"):
        monkeypatch.setattr(f"hfcap.metrics.{module}.find_jar", lambda: jar)
    monkeypatch.setattr("hfcap.metrics.meteor.meteor_statistics", lambda corpus: None)
    (tmp_path / "synonyms.txt").write_text("shirt\n")
    options = Options(chair_synonyms=tmp_path / "synonyms.txt")
    metric.statistics(Inputs(["a puppy"], [["a puppy in a shirt", "an animal"]], options))
    assert not recwarn.list
    with pytest.warns(UserWarning, match=f"{metric.key} knows the words of English only"):
        metric.statistics(Inputs(["ein Hund"], [["ein Hund läuft", "ein Tier im Gras"]], options))


def test_other_languages_are_refused():
    with refused(option="tokenizer", got="zh", wanted="ptb", fix="remove invented"):
        INVENTED.require(Options(tokenizer="zh"))


def test_words_that_are_missing_are_said_to_be_for_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refused(option="invented", fix='pip install "hfcap[meteor]"'):
        INVENTED.require(Options(tokenizer="ptb"))


@pytest.mark.skipif(importlib.util.find_spec("pycocoevalcap") is None, reason="needs pip install 'hfcap[meteor]'")
def test_wordnet_of_the_jar():
    from hfcap.metrics.meteor_jar import find_jar

    things = load_things(find_jar())
    assert len(things.nouns._depth) == 82115  # the synsets of WordNet 3.0's noun file
    for caption, references, unsupported in (
        ("a brown dog catches a frisbee", ["a puppy plays"], ["frisbee"]),
        ("a boy on a bike", ["a cyclist on his bicycle"], []),
        ("a man holds a tennis racket", ["a woman with a racquet"], []),
        ("a dog eats a hot dog", ["a cat and a bun"], ["dog", "hot dog"]),
        ("a group of people in front of a couch", ["a crowd", "a sofa"], []),
        ("a child swings in the background", ["a girl"], []),
        ("a dog", ["a cat by a tree"], ["dog"]),
        ("a man with an apple", ["a giraffe on the grass"], ["man", "apple"]),
        ("a computer and a fence", ["a man"], ["computer", "fence"]),
        ("a puppy", ["an animal"], []),
        # Known failures: words of one kind are no synonyms, "guy" is a rope as well, and most senses of "face" and
        # "building" are no things.
        ("a man in a hat", ["a man in a cap"], ["hat"]),
        ("a guy", ["a man"], ["guy"]),
        ("the face of a dog in a building", ["a dog"], []),
        ("a dog", ["a hot dog"], []),
        ("a hot dog", ["a dog"], []),  # one of the senses of "dog"
        ("a batter", ["a man"], ["batter"]),  # half of its senses are persons
    ):
        assert things.unsupported(caption, things.evidence(references)) == unsupported, caption
