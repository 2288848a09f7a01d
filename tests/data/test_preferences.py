"""Pairs of captions: references with a word exchanged, columns, and what is refused."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.data.preferences import Preferences, WordExchange, check_pairs
from hfcap.data.scene_checking import wrong_facts
from hfcap.data.scene_facts import sample_scene
from hfcap.data.scenes import scene_captions
from hfcap.data.sources import load_captions
from hfcap.runs import data_fingerprint
from refusals import refused

CAPTIONS = [
    ["A dog runs on lawn.", "Brown dogs run."],
    ["A cat runs on sand.", "Two dogs sleep."],
    ["A puppy runs on lawn."],
    ["The sea."],
]


def chance(seed=0):
    return np.random.default_rng(seed)


def test_one_content_word_is_exchanged_for_one_that_stands_there_elsewhere():
    exchange = WordExchange(CAPTIONS)
    found = exchange.candidates(CAPTIONS[0][0], CAPTIONS[0])
    # "on" is a function word; "sand." ends a caption behind "on" as "lawn." does; "runs" has no rival.
    assert found == {1: {"cat": 1, "puppy": 1}, 4: {"sand.": 1}}
    made = {exchange(CAPTIONS[0][0], CAPTIONS[0], chance(seed)) for seed in range(40)}
    assert made == {"A cat runs on lawn.", "A puppy runs on lawn.", "A dog runs on sand."}


def test_a_word_of_the_references_is_not_put_in():
    exchange = WordExchange([*CAPTIONS, ["A hound runs on snow."]])
    references = ["A dog runs on lawn.", "The CAT, a hound."]
    assert set(exchange.candidates(references[0], references)[1]) == {"puppy"}


def test_a_plural_stays_one():
    exchange = WordExchange([["Two red dogs sleep."], ["Two red cat sleep."], ["Two red birds sleep."]])
    assert exchange.candidates("Two red dogs sleep.", ["Two red dogs sleep."])[2] == {"birds": 1}


def test_words_are_drawn_as_often_as_they_stand_there():
    exchange = WordExchange([["A dog."], *[["A cat."]] * 3, ["A cow."]])
    drawn = Counter(exchange("A dog.", ["A dog."], chance(seed)) for seed in range(400))
    assert drawn.keys() == {"A cat.", "A cow."}
    assert 260 < drawn["A cat."] < 340


def test_a_caption_without_an_exchange_is_rejected_for_one_of_another_picture():
    exchange = WordExchange(CAPTIONS)
    made = {exchange("The sea.", ["The sea.", "A cat runs on sand."], chance(seed)) for seed in range(60)}
    assert made == {text for own in CAPTIONS for text in own} - {"The sea.", "A cat runs on sand."}


def test_pictures_that_all_have_the_same_captions_are_refused():
    with refused(option="rejected", got="corrupted"):
        WordExchange([["A dog.", "A pet."], ["A pet.", "A dog."]])


def test_exchanged_words_of_scenes_are_wrong():
    """Of 300 references at least nine in ten; the others have a synonym, such as "drawing" for "picture"."""
    captions = scene_captions("train", 1000, "caption")
    exchange = WordExchange(captions)
    wrong = Counter()
    for index in range(60):
        for own in captions[index]:
            made = exchange(own, captions[index], chance(index))
            assert sum(a != b for a, b in zip(own.split(), made.split(), strict=True)) == 1
            facts = wrong_facts(made, sample_scene("train", index, 0), captions[index])
            wrong[len(facts)] += 1
    assert wrong[1] > 270


def test_pairs_depend_on_seed_epoch_and_picture_alone(scene_rows):
    exchange = WordExchange(scene_rows["captions"])

    def items(seed, epoch, order):
        data = CaptionDataset(scene_rows)
        data.augmentation = Preferences(references=2, seed=seed, exchange=exchange)
        return {index: data[epoch, index]["captions"] for index in order}

    first = items(0, 1, range(8))
    assert items(0, 1, reversed(range(8))) == first
    assert items(0, 2, range(8)) != first
    assert items(1, 1, range(8)) != first
    for index, captions in first.items():
        assert len(captions) == 4
        references = scene_rows["captions"][index]
        assert all(text in references for text in captions[::2])
        assert not any(text in references for text in captions[1::2])


def test_columns_are_pairs_in_order_and_drawn_together():
    row = {"image_id": "7", "captions": ["c"], "chosen": list("abcd"), "rejected": list("ABCD")}
    assert Preferences().item(row, 0)["captions"] == ["a", "A", "b", "B", "c", "C", "d", "D"]
    drawn = {tuple(Preferences(references=2).pairs(row, epoch)) for epoch in range(40)}
    assert len(drawn) == 6
    assert all(chosen.upper() == rejected for pairs in drawn for chosen, rejected in pairs)
    assert Preferences().pairs({"image_id": "7", "captions": ["a"], "rejected": "A"}, 0) == [("a", "A")]


def folder_of(tmp_path, lines):
    for name in {line["file_name"] for line in lines}:
        Image.new("RGB", (8, 8), (ord(name[0]), 0, 0)).save(tmp_path / name)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(tmp_path)


def test_pairs_of_an_image_in_several_rows_are_kept(tmp_path):
    lines = [
        {"file_name": "a.png", "caption": "A dog.", "chosen": "a", "rejected": ["b"]},
        {"file_name": "b.png", "caption": "A cow.", "chosen": "x", "rejected": ["y"]},
        {"file_name": "a.png", "caption": "A pet.", "chosen": "c", "rejected": ["d"]},
    ]
    rows = load_captions(folder_of(tmp_path, lines), "train")
    assert rows["chosen"][:] == [["a", "c"], ["x"]]
    assert rows["rejected"][:] == [["b", "d"], ["y"]]
    check_pairs(rows)
    assert Preferences().pairs(rows[0], 0) == [("a", "b"), ("c", "d")]
    changed = data_fingerprint([row | {"rejected": ["z"]} for row in rows])
    assert changed["sha256"] != data_fingerprint(rows)["sha256"]


def test_some_rows_may_have_a_text_and_others_a_list(tmp_path):
    lines = [
        {"file_name": "a.png", "caption": "A dog.", "chosen": "a", "rejected": "b"},
        {"file_name": "b.png", "caption": "A cow.", "chosen": ["x", "y"], "rejected": ["z", "w"]},
    ]
    rows = load_captions(folder_of(tmp_path, lines), "train")
    check_pairs(rows)
    assert [Preferences().pairs(row, 0) for row in rows] == [[("a", "b")], [("x", "z"), ("y", "w")]]


@pytest.mark.parametrize("odd", [5, True, [5], {"role": "user"}, [{"role": "user"}]])
def test_a_chosen_caption_of_another_type_does_not_let_the_captions_be_the_chosen_ones(tmp_path, odd):
    lines = [
        {"file_name": "a.png", "caption": "A dog.", "chosen": "a", "rejected": "b"},
        {"file_name": "b.png", "caption": "A cow.", "chosen": odd, "rejected": "z"},
    ]
    with pytest.warns(UserWarning, match="'chosen'.* 1 value .*line 2"):
        rows = load_captions(folder_of(tmp_path, lines), "train")
    with refused(option="chosen", says="image b"):
        check_pairs(rows)


def test_the_column_of_captions_may_be_the_chosen_ones(tmp_path):
    lines = [{"file_name": "a.png", "chosen": "A dog.", "rejected": "A cat."}]
    rows = load_captions(folder_of(tmp_path, lines), "train", captions_column="chosen")
    check_pairs(rows)
    assert Preferences().pairs(rows[0], 0) == [("A dog.", "A cat.")]


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ({"chosen": "a"}, {"option": "rejected", "says": ("image_id", "--rejected corrupted")}),
        ({"chosen": "a", "rejected": " "}, {"option": "rejected", "got": " ", "says": "image a"}),
        ({"chosen": "a", "rejected": None}, {"option": "rejected", "says": "blank"}),
        ({"chosen": "nan", "rejected": "a"}, {"option": "chosen", "got": "nan"}),
        ({"chosen": "a", "rejected": "a"}, {"option": "rejected", "got": "a", "says": "the chosen caption itself"}),
        ({"chosen": ["a", "b"], "rejected": "c"}, {"option": "rejected", "says": "1 of them for 2"}),
        ({"chosen": [], "rejected": []}, {"option": "rejected", "says": "image a has no pair"}),
        ({"chosen": "a", "rejected": 5}, {"option": "rejected", "got": 5, "wanted": "a text, or a list of texts"}),
    ],
)
def test_rows_that_are_no_pairs_are_one_error(line, fields, tmp_path):
    rows = load_captions(folder_of(tmp_path, [{"file_name": "a.png", "caption": "A dog."} | line]), "train")
    with refused(**fields):
        check_pairs(rows)


@pytest.mark.parametrize(("word", "same"), [("كلب", "كلب،"), ("Hund", "„Hund“"), ("狗", "狗。"), ("chien", "chien…")])
def test_a_word_with_the_signs_of_another_script_is_the_same_word(word, same):
    exchange = WordExchange([[f"a {word} b"], [f"a {same} b"], ["a other b"]])
    assert exchange.candidates(f"a {word} b", [f"a {word} b"]) == {1: {"other": 1}}
