import pytest

from hfcap.data.scene_checking import ASPECTS, read_caption, wrong_facts
from hfcap.data.scene_facts import Group, Scene, scene_from_json
from hfcap.data.scenes import load_scenes

TWO = Scene(
    "light grey",
    (Group(1, "large", "black", "heart", "left"), Group(4, "small", "yellow", "triangle", "right")),
    "left of",
)
TWO_REFERENCES = [
    "On a pale grey background, four little yellow triangles are on the right of a big black heart.",
    "The picture shows a large black heart on the left and four small yellow triangles on the right side. "
    "The background is light grey.",
]
ONE = Scene("gradient", (Group(2, "small", "red", "ring", "bottom"),))
ONE_REFERENCES = [
    "The picture shows two small red rings in the lower half. "
    "The background fades from white at the top to grey at the bottom."
]


@pytest.mark.parametrize("style", ["caption", "alt_text"])
def test_every_reference_is_right_and_alt_text_always_states_positions(style):
    for split in ("train", "validation"):
        for row in load_scenes(split, 150, style, image_size=32):
            for text in row["captions"]:
                assert wrong_facts(text, scene_from_json(row["scene"]), row["captions"]) == [], text
                if style == "alt_text":
                    assert all(group.position is not None for group in read_caption(text).groups), text


HEART, TRIANGLES, GREY = "a big black heart", "four small yellow triangles", "a light grey background"


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        (f"{HEART} is to the left of {TRIANGLES} on {GREY}.", []),
        (f"Four little yellow triangles can be seen to the right of {HEART}, against {GREY}.", []),
        (f"On the right of {GREY} are {TRIANGLES}. To the left of them is {HEART}.", []),
        # The groups exchanged: in a relation, in two places, and in a relation that its own place belies.
        (f"{HEART} is to the right of {TRIANGLES} on {GREY}.", ["position"]),
        (f"{HEART} on the right and {TRIANGLES} on the left. The background is light grey.", ["position"]),
        (f"On the left of {GREY} are {TRIANGLES}. To the left of them is {HEART}.", ["position"]),
        (f"{HEART} is above {TRIANGLES} on {GREY}.", ["position"]),
        # No place at all, where the references name it.
        (f"{HEART} and {TRIANGLES} on {GREY}", ["position"]),
        # Each adjective is right for one of the groups, but not for its own.
        (f"a big yellow heart is to the left of four small black triangles on {GREY}.", ["color"]),
        (f"a big black triangle is to the left of four small yellow hearts on {GREY}.", ["shape"]),
        (f"a small black heart is to the left of three small yellow triangles on {GREY}.", ["count", "size"]),
        (f"{HEART} is to the left of {TRIANGLES} on a cream background.", ["background"]),
        (f"{HEART} sits on the left of the picture, on {GREY}.", ["count", "size", "color", "shape", "position"]),
        ("", list(ASPECTS)),
    ],
)
def test_what_is_wrong_is_named(caption, wrong):
    assert wrong_facts(caption, TWO, TWO_REFERENCES) == wrong


def test_the_sentence_on_the_gradient_states_no_place_of_the_shapes():
    assert wrong_facts(ONE_REFERENCES[0], ONE, ONE_REFERENCES) == []
    above = ONE_REFERENCES[0].replace("in the lower half", "in the upper half")
    assert wrong_facts(above, ONE, ONE_REFERENCES) == ["position"]
    unsaid = ONE_REFERENCES[0].replace(" in the lower half", "")
    assert wrong_facts(unsaid, ONE, ONE_REFERENCES) == ["position"]


def test_a_position_is_optional_where_references_leave_it_out_but_never_wrong():
    references = ["two little red rings on a grey gradient background"]
    assert wrong_facts(references[0], ONE, references) == []
    assert wrong_facts("two small red rings in the lower half on a grey gradient background", ONE, references) == []
    assert wrong_facts("two small red rings at the top on a grey gradient background", ONE, references) == ["position"]
