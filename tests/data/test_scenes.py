import hashlib
import re
import subprocess
import sys
from collections import Counter
from random import Random

import numpy as np
import pytest

from hfcap.data.scene_drawing import COLOR_VALUES, _varied, draw_scene, place_shapes
from hfcap.data.scene_facts import (
    BACKGROUNDS,
    COLORS,
    COUNTS,
    HELD_OUT_PAIRS,
    INVERSE,
    POSITIONS,
    POSITIONS_OF_RELATION,
    SHAPES,
    SIZES,
    Group,
    Scene,
    canonical,
    sample_scene,
    scene_from_json,
    split_of,
)
from hfcap.data.scene_wording import with_article, write_references
from hfcap.data.scenes import load_scenes, scene_captions

STYLES = ("caption", "alt_text")
WORD_COUNT = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4}
SIZE_OF_WORD = {"small": "small", "little": "small", "large": "large", "big": "large"}
PHRASE = re.compile(
    rf"\b(an|a|two|three|four) (small|little|large|big) ({'|'.join(COLORS)}) ({'|'.join(SHAPES)})(s?)\b", re.IGNORECASE
)
PLACE_WORDS = {
    "left": "left",
    "right": "right",
    "top": "upper|top",
    "bottom": "lower|bottom",
    "centre": "centre|middle",
}
HALVES = {
    "left": np.s_[:, :48],
    "right": np.s_[:, 48:],
    "top": np.s_[:48, :],
    "bottom": np.s_[48:, :],
    "centre": np.s_[12:84, 12:84],
}


@pytest.fixture(scope="module")
def rows():
    """120 rows of every split and style, as plain lists of dicts."""
    return {
        (split, style): list(load_scenes(split, 120, style))
        for split in ("train", "validation", "test")
        for style in STYLES
    }


def said_groups(text):
    """Return the facts of each noun phrase in a reference: (count, size, color, shape)."""
    return [
        (WORD_COUNT[number.lower()], SIZE_OF_WORD[size], color, shape)
        for number, size, color, shape, _ in PHRASE.findall(text)
    ]


def pixels_of(color, picture):
    """Return which pixels of (H, W, 3) have a color in one of the variants that drawing may give it."""
    variants = {_varied(COLOR_VALUES[color], Random(seed)) for seed in range(150)}
    return np.any([np.abs(picture - np.array(one)).max(axis=-1) <= 12 for one in variants], axis=0)


def true_groups(scene):
    return [(group.count, group.size, group.color, group.shape) for group in scene.groups]


def test_columns_and_ids(rows):
    row = rows["train", "caption"][7]
    assert row["image_id"] == "scenes-train-000007"
    assert row["image"].size == (96, 96) and row["image"].mode == "RGB"
    assert set(row) == {"image_id", "image", "captions", "held_out", "scene"}
    ids = [row["image_id"] for split in ("train", "validation", "test") for row in rows[split, "caption"]]
    assert len(set(ids)) == 360


def test_image_i_is_the_same_in_a_larger_set_and_in_both_styles(rows):
    small = load_scenes("validation", 9, "caption")
    for style in STYLES:
        for mine, theirs in zip(small, rows["validation", style], strict=False):
            assert mine["scene"] == theirs["scene"]
            assert mine["image"].tobytes() == theirs["image"].tobytes()
    assert small["captions"][:] == [row["captions"] for row in rows["validation", "caption"][:9]]


def test_another_seed_draws_other_scenes_under_other_ids(rows):
    other = load_scenes("train", 20, "caption", seed=1)
    assert {row["image_id"] for row in other}.isdisjoint(row["image_id"] for row in rows["train", "caption"])
    assert other["scene"][:] != [row["scene"] for row in rows["train", "caption"][:20]]


def test_another_process_with_another_hash_seed_draws_the_same():
    code = (
        "import hashlib; from hfcap.data.scenes import load_scenes; rows = load_scenes('test', 12, 'alt_text');"
        "found = [(row['scene'], row['captions'], row['image'].tobytes()) for row in rows];"
        "print(hashlib.sha256(repr(found).encode()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = [(row["scene"], row["captions"], row["image"].tobytes()) for row in load_scenes("test", 12, "alt_text")]
    assert done.stdout.strip() == hashlib.sha256(repr(here).encode()).hexdigest()


def test_no_scene_is_in_two_splits():
    scenes = {
        split: {canonical(sample_scene(split, index, seed)) for index in range(600) for seed in (0, 1)}
        for split in ("train", "validation", "test")
    }
    assert min(len(found) for found in scenes.values()) > 500
    assert scenes["train"].isdisjoint(scenes["validation"])
    assert scenes["train"].isdisjoint(scenes["test"])
    assert scenes["validation"].isdisjoint(scenes["test"])


def test_split_does_not_depend_on_which_group_is_named_first():
    first, second = Group(1, "small", "red", "circle", "left"), Group(2, "large", "pink", "star", "right")
    scene = Scene("white", (first, second), "left of")
    turned = Scene("white", (second, first), "right of")
    assert canonical(scene) == canonical(turned)
    assert split_of(scene) == split_of(turned)


def test_held_out_pairs_are_absent_from_train_and_present_elsewhere():
    train = [sample_scene("train", index, 0) for index in range(1500)]
    assert not any((group.color, group.shape) in HELD_OUT_PAIRS for scene in train for group in scene.groups)
    seen = {word for scene in train for group in scene.groups for word in (group.color, group.shape)}
    assert seen == set(COLORS) | set(SHAPES)
    for split in ("validation", "test"):
        scenes = [sample_scene(split, index, 0) for index in range(600)]
        pairs = [{(group.color, group.shape) for group in scene.groups} & HELD_OUT_PAIRS for scene in scenes]
        assert [bool(found) for found in pairs] == [scene.held_out for scene in scenes]
        assert 0.2 < np.mean([scene.held_out for scene in scenes]) < 0.3
        assert set().union(*pairs) == HELD_OUT_PAIRS


def test_held_out_column_and_captions_agree(rows):
    for (split, _), found in rows.items():
        for row in found:
            said = {(color, shape) for text in row["captions"] for _, _, color, shape in said_groups(text)}
            assert bool(said & HELD_OUT_PAIRS) == row["held_out"]
            assert not (split == "train" and row["held_out"])


def test_every_value_occurs():
    scenes = [sample_scene("train", index, 0) for index in range(1500)]
    groups = [group for scene in scenes for group in scene.groups]
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {scene.relation for scene in scenes} == {None, *INVERSE}
    assert {group.count for group in groups} == set(COUNTS)
    assert {group.size for group in groups} == set(SIZES)
    assert {group.position for group in groups} == set(POSITIONS)
    assert max(Counter(canonical(scene) for scene in scenes).values()) <= 4


@pytest.mark.parametrize("style", STYLES)
def test_references_are_five_different_wordings(rows, style):
    for row in rows["train", style] + rows["test", style]:
        assert len(row["captions"]) == 5
        # Different in what is left when the words that only vary as synonyms are taken out.
        frames = {re.sub(r"\W+", " ", PHRASE.sub("X", text)).lower() for text in row["captions"]}
        assert len(frames) == 5


@pytest.mark.parametrize("style", STYLES)
def test_facts_can_be_read_back_from_every_reference(rows, style):
    for row in rows["train", style] + rows["validation", style]:
        scene = scene_from_json(row["scene"])
        for text in row["captions"]:
            assert sorted(said_groups(text)) == sorted(true_groups(scene)), text
            words = "gradient|fades from white" if scene.background == "gradient" else scene.background
            assert re.search(words.replace("light grey", "(light|pale) grey"), text), text


def test_captions_name_the_left_or_upper_group_first(rows):
    for row in rows["train", "caption"]:
        groups = true_groups(canonical(scene_from_json(row["scene"])))
        for text in row["captions"]:
            if not re.search(r"(left|right) of|above|below|beneath", text):
                assert said_groups(text) == groups, text


def test_references_without_pictures_are_the_same(rows):
    for split, style in rows:
        assert scene_captions(split, 20, style) == [row["captions"] for row in rows[split, style][:20]]


def test_alt_text_says_where_single_groups_are(rows):
    for row in rows["train", "alt_text"]:
        scene = scene_from_json(row["scene"])
        if scene.relation is None:
            place = scene.groups[0].position
            for text in row["captions"]:
                # The gradient sentence speaks of top and bottom itself.
                text = text.removesuffix(" The background fades from white at the top to grey at the bottom.")
                told = {name for name, words in PLACE_WORDS.items() if re.search(rf"\b({words})\b", text.lower())}
                assert told == {place}, text


def test_alt_text_relations_are_true(rows):
    relation_words = {
        "to the left of": "left of",
        "on the left of": "left of",
        "to the right of": "right of",
        "on the right of": "right of",
        "above": "above",
        "below": "below",
        "beneath": "below",
    }
    pattern = rf"{PHRASE.pattern}[a-z ]*? ({'|'.join(relation_words)}) {PHRASE.pattern}"
    checked = 0
    for row in rows["train", "alt_text"] + rows["validation", "alt_text"]:
        scene = scene_from_json(row["scene"])
        for text in row["captions"]:
            match = re.search(pattern, text, re.IGNORECASE)
            if match:
                words = match.groups()
                first_named = (WORD_COUNT[words[0].lower()], SIZE_OF_WORD[words[1]], words[2], words[3])
                expected = scene.relation if first_named == true_groups(scene)[0] else INVERSE[scene.relation]
                assert relation_words[words[5]] == expected, text
                checked += 1
    assert checked > 300


def test_two_groups_are_where_their_relation_says():
    for index in range(300):
        scene = sample_scene("test", index, 0)
        if scene.relation:
            assert tuple(group.position for group in scene.groups) == POSITIONS_OF_RELATION[scene.relation]


@pytest.mark.parametrize("style", STYLES)
def test_english(rows, style):
    for row in rows["train", style] + rows["test", style]:
        for text in row["captions"]:
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text, re.IGNORECASE), text
            for number, _, _, _, plural in PHRASE.findall(text):
                assert (WORD_COUNT[number.lower()] > 1) == bool(plural), text
            assert all(re.fullmatch(r"[A-Z][^.]+", part) for part in text.rstrip(".").split(". ")), text
            assert text.endswith(".") and "  " not in text
            assert style == "alt_text" or text.count(".") == 1
            for verb_first in re.findall(r"\b(is|are) (?=(an|a|two|three|four)\b)", text):
                assert (verb_first[0] == "is") == (verb_first[1] in ("a", "an")), text
            for pronoun in re.findall(r"\b(it|them)\b", text):  # stands for the group of the sentence before
                assert (pronoun == "it") == (said_groups(text)[0][0] == 1), text
            for number, _, _, _, _, verb in re.findall(rf"{PHRASE.pattern} (is|are|sit|sits)\b", text, re.IGNORECASE):
                assert (verb in ("is", "sits")) == (WORD_COUNT[number.lower()] == 1), text


def test_article():
    assert with_article("orange star") == "an orange star"
    assert with_article("small orange star") == "a small orange star"


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("position", POSITIONS)
def test_stated_color_is_where_the_scene_says(color, position):
    for shape in SHAPES:
        for size in SIZES:
            group = Group(2, size, color, shape, position)
            picture = np.asarray(draw_scene(Scene("white", (group,)), Random(f"{shape}{size}"), 96), dtype=int)
            of_color = pixels_of(color, picture)
            inside = of_color[HALVES[position]].sum()
            assert inside > 60, (shape, size)
            assert inside == of_color.sum(), (shape, size)


def test_drawn_scenes_show_their_colors_in_the_stated_half(rows):
    for row in rows["validation", "caption"]:
        picture = np.asarray(row["image"], dtype=int)
        for group in scene_from_json(row["scene"]).groups:
            of_color = pixels_of(group.color, picture)
            assert of_color[HALVES[group.position]].sum() > 25


def test_groups_stay_in_their_part_and_shapes_do_not_touch():
    for count in COUNTS:
        for size in SIZES:
            for position in POSITIONS:
                for seed in range(5):
                    places = place_shapes(Group(count, size, "red", "circle", position), Random(seed))
                    assert len(places) == count
                    low = np.array([(x - d / 2, y - d / 2) for x, y, d in places]).min()
                    high = np.array([(x + d / 2, y + d / 2) for x, y, d in places]).max()
                    assert low >= 0 and high <= 1
                    for i, (x, y, diameter) in enumerate(places):
                        for other_x, other_y, _ in places[:i]:
                            assert np.hypot(x - other_x, y - other_y) > diameter


def test_pictures_of_the_same_scene_differ_by_jitter():
    scene = Scene("cream", (Group(1, "large", "blue", "square", "left"),))
    pictures = {draw_scene(scene, Random(seed), 64).tobytes() for seed in range(10)}
    assert len(pictures) == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "dev"}, "train, validation, test"),
        ({"style": "poem"}, "caption, alt_text"),
        ({"num_images": 0}, "num_images is 0"),
        ({"image_size": 8}, "image_size is 8"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"split": "train", "num_images": 2, "style": "caption", **change}
    with pytest.raises(ValueError, match=message):
        load_scenes(**arguments)


def test_unknown_style_is_refused_by_the_writer():
    with pytest.raises(ValueError, match="unknown style"):
        write_references(sample_scene("train", 0, 0), "poem", Random(0))
