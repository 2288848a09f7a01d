"""Wording of proposals, rule by rule."""

import pytest

from hfcap.applications.lint import AIM, LONGEST, alt_findings
from hfcap.applications.people import neutral
from hfcap.applications.wording import as_sentence, fitted, plain, says_something, with_quotes, without_opening, worded


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "  ",
        "image",
        "An image.",
        "photo",
        "IMG_2034",
        "DSC00012.JPG",
        "a-b.png",
        "untitled",
        "Figure 3",
        ".",
        "<",
        '"',
    ],
)
def test_rule_5_nothing_is_proposed_where_nothing_is_said(caption):
    assert worded(caption) is None


@pytest.mark.parametrize(
    "text", ["A photo album on a table.", "Dog", "An image is projected on a wall.", "Icon painter."]
)
def test_rule_5_words_for_pictures_may_be_the_content(text):
    assert says_something(text)


@pytest.mark.parametrize(
    ("caption", "rest"),
    [
        ("a photo of a dog", "a dog"),
        ("This is a picture of a dog", "a dog"),
        ("this is an image showing two dogs", "two dogs"),
        ("There are two dogs", "two dogs"),
        ("In this image we can see a dog", "a dog"),
        ("The image shows a dog", "a dog"),
        ("a black and white photo of a dog", "a dog"),
        ("a close up of a dog", "a dog"),
        ("a photo album", "a photo album"),
        ("the picture frame hangs", "the picture frame hangs"),
    ],
)
def test_rule_6_the_main_thing_comes_first(caption, rest):
    assert without_opening(caption) == rest


def test_rule_7_what_is_long_is_cut_at_sentences_and_kept_whole_beside():
    first, second = "A dog runs on the beach.", "Behind it, " + "very " * 20 + "high waves break on the rocks."
    found = worded(f"{first} {second}")
    assert (found.alt, found.extended) == (first, f"{first} {second}")
    assert worded(first).extended == ""
    short = "A dog runs. A cat sits."
    assert fitted(short) == short
    middle = "A dog " + "and a cat " * 15 + "run."
    assert AIM < len(middle) < LONGEST
    assert fitted(middle) == middle
    endless = "A dog runs on the beach with a red ball, " + "word " * 100 + "end."
    assert fitted(endless) == "A dog runs on the beach with a red ball."
    assert len(fitted("word " * 100)) <= LONGEST
    assert len(fitted("x" * 1000)) <= LONGEST


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a dog runs .", "A dog runs."),
        ("a dog , a cat", "A dog, a cat."),
        ("émile's dog", "Émile's dog."),
        ("what a dog !", "What a dog!"),
        ("a sign reads “stop.”", "A sign reads “stop.”"),
        ("a dog and -", "A dog and."),
        ("a dog ...", "A dog."),
        ("一只狗在跑", "一只狗在跑。"),
        ("一只狗在跑。", "一只狗在跑。"),
        ("「止まれ。」", "「止まれ。」"),
        ("หมาวิ่ง", "หมาวิ่ง"),  # Thai has no full stop
        ("كلب يركض", "كلب يركض."),
        ("ما هذا؟", "ما هذا؟"),
    ],
)
def test_rule_8_a_capital_first_and_punctuation_last(text, sentence):
    assert as_sentence(text) == sentence


@pytest.mark.parametrize(
    ("caption", "said"),
    [
        ("a man and a woman sit", "two people sit"),
        ("a man, a woman and a dog", "two people and a dog"),
        ("a young man and a young woman", "two young people"),
        ("two men and a woman", "three people"),
        ("man and woman on a bench", "two people on a bench"),
        ("men and women dance", "people dance"),
        ("boys and girls play", "children play"),
        ("a boy and his dog", "a child and their dog"),
        ("a woman holds her child in front of her", "a person holds their child in front of them"),
        ("he jumps while she watches", "they jump while they watch"),
        ("she carries it as he is asleep", "they carry it as they are asleep"),
        ("an old black man", "an old person"),
        ("an asian woman in a white dress", "a person in a white dress"),
        ("a beautiful young woman", "a young person"),
        ("a muslim in a hat", "a person in a hat"),
        ("a black and white dog with a man in black", "a black and white dog with a person in black"),
        ("a male athlete", "an athlete"),
        ("a female tennis player", "a tennis player"),
        ("a male dives for a ball", "a person dives for a ball"),
        ("a female lion and a male deer", "a female lion and a male deer"),
        ("a snowman and a snow man and Spider-Man", "a snowman and a snow man and Spider-Man"),
        ("a man-made lake", "a man-made lake"),
        ("the woman's hat", "the person's hat"),
        ("a fireman and an actress", "a firefighter and an actor"),
        ("a mother with her daughter", "a parent with their child"),
        ("a teenage girl", "a teenager"),
        ("Women walk", "People walk"),
        ("a red ball", "a red ball"),
    ],
)
def test_rule_9_no_guess_at_who_people_are(caption, said):
    assert neutral(caption) == said
    assert neutral(said) == said


def test_rule_9_can_be_turned_off():
    assert worded("a man runs .", people="as_seen").alt == "A man runs."
    assert worded("a man runs .").alt == "A person runs."


def test_rule_10_text_in_the_picture_is_quoted_as_it_is():
    assert with_quotes("A red sign.", ["STOP", "All  WAY"]) == "A red sign. Text: “STOP”, “All WAY”."
    assert worded("a man beside a sign", quotes=["MEN at work"]).alt == "A person beside a sign. Text: “MEN at work”."


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("a dog \U0001f415\ufe0f runs", "a dog runs"),
        ("a\ndog\x00 <unk>\tr\u200buns</s>", "a dog r uns"),
        ('"a dog"', "a dog"),
        ('"a dog', "a dog"),
        ("'a man's dog'", "a man's dog"),
        ('a sign says "STOP"', 'a sign says "STOP"'),
        ("“Stop” is on a sign", "“Stop” is on a sign"),
        ("a man's hat says 'GO'", "a man's hat says 'GO'"),
    ],
)
def test_rule_13_no_symbols(caption, text):
    assert plain(caption) == text


@pytest.mark.parametrize("word", ["می\u200cرود", "ශ්\u200dරී"])
def test_joiners_within_words_are_letters(word):
    assert plain(f"{word}\n\u200b x 👨\u200d👩\ufe0f") == f"{word} x"
    assert alt_findings(f"{word} x") == []
    assert [rule for rule, _ in alt_findings("a 👨\u200d👩")] == ["emoji"]


def test_the_result_breaks_no_rule():
    assert alt_findings(worded("a photo of a man riding a horse on the beach .").alt) == []
