"""Moderation policies: what is refused with which line, what words match, labels from captions, and the hash."""

from pathlib import Path

import pytest

from hfcap.applications.policy import read_policy, share
from refusals import refused

CONFIGS = Path(__file__).parents[2] / "configs" / "policy"
GOOD = """\
# a comment
tags:
  weapon:
    means: a real gun
    words:
      - guns?
      - machine guns?
      - no
    not_words:
      - water guns?
      - .*\\btoy\\b.*
    target: {precision: 0.9}
    action: review
slices:
  child:
    - child|kids?
"""


def policy_of(tmp_path, text):
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    return read_policy(path)


def test_words_are_whole_words_and_what_not_words_match_does_not_count(tmp_path):
    words_in = policy_of(tmp_path, GOOD).tags["weapon"].words_in
    assert words_in("A man with a GUN and two  machine\nguns , a gun") == ["gun", "machine guns"]
    assert words_in("gunpowder, a shotgun, begun") == []
    assert words_in("A water gun .") == []
    assert words_in("A water gun beside a gun.") == ["gun"]
    assert words_in("A gun that is a toy, they say") == []
    assert words_in("there is no dog") == ["no"]  # YAML 1.1 takes `no` for false


def test_letters_of_scripts_without_spaces_end_words(tmp_path):
    text = GOOD.replace("guns?\n      - machine guns?\n      - no", "狗\n      - 小狗\n      - T恤")
    words_in = policy_of(tmp_path, text.replace("water guns?", "热狗")).tags["weapon"].words_in
    assert words_in("一只小狗和一只狗") == ["小狗", "狗"]
    assert words_in("一个穿T恤的人") == ["t恤"]
    assert words_in("hot狗 2狗") == ["狗"]
    assert words_in("热狗") == words_in("猫") == []
    text = GOOD.replace("      - no\n", "      - T\n")
    assert policy_of(tmp_path, text).tags["weapon"].words_in("The T恤, AT, T") == ["t"]


def test_words_that_not_words_share_do_not_depend_on_the_order(tmp_path):
    text = GOOD.replace("      - water guns?\n", "      - red water\n      - water guns?\n")
    other = GOOD.replace("      - water guns?\n", "      - water guns?\n      - red water\n")
    one, two = (policy_of(tmp_path, text) for text in (text, other))
    assert one.sha256 == two.sha256
    for policy in (one, two):
        assert policy.tags["weapon"].words_in("a red water gun") == []


def test_two_captions_make_a_label_and_one_leaves_it_open(tmp_path):
    policy = policy_of(tmp_path, GOOD)
    labels = [policy.labels_from_captions(["a gun", *others])["weapon"] for others in (["guns"], ["a dog"])]
    assert [*labels, policy.labels_from_captions(["a water gun", "a dog"])["weapon"]] == [True, None, False]
    assert policy.words_in("a gun") == {"weapon": ["gun"]}
    assert policy.slices_in(["a dog", "two KIDS"]) == ["child"]


def test_the_hash_ignores_layout_and_nothing_that_means_something(tmp_path):
    sha256 = policy_of(tmp_path, GOOD).sha256
    layout = GOOD.replace("# a comment\n", "\n\n").replace("{precision: 0.9}", "\n      precision: 90%  # why")
    layout = layout.replace("      - guns?\n      - machine guns?\n", "      - 'machine guns?'\n      - guns?\n")
    assert policy_of(tmp_path, layout).sha256 == sha256
    for old, new in (
        ("a real gun", "any gun"),
        ("- guns?", "- gun"),
        ("water guns?", "squirt guns?"),
        ("0.9", "0.91"),
        ("precision", "recall"),
        ("child|kids?", "child"),
        ("    action: review\n", "    action: review\n    scorer: opennsfw\n"),
        ("  weapon:", "  firearm:"),
    ):
        assert old in GOOD
        assert policy_of(tmp_path, GOOD.replace(old, new)).sha256 != sha256, new


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("means: a real gun", "meaning: a gun", 4, "unknown key 'meaning'"),
        ("    means: a real gun\n", "", 3, "no means"),
        ("    means: a real gun\n", "    means: a\n    means: b\n", 5, "twice"),
        ("  weapon:", "  gender:", 3, "people are never a tag"),
        ("  weapon:", "  black_people:", 3, "people are never a tag"),
        ("  weapon:", "  old_age:", 3, "people are never a tag"),
        ("  weapon:", "  faith_symbols:", 3, "people are never a tag"),
        ("  weapon:", "  nsfw_score:", 3, "no tag is a verdict"),
        ("  weapon:", "  safe:", 3, "no tag is a verdict"),
        ("  weapon:", "  Weapon:", 3, "a name that cannot be used"),
        ("- machine guns?", "- (hijab|turban)s?", 7, "people are never a tag"),
        ("- machine guns?", "- wom[ae]n", 7, "people are never a tag"),
        ("- machine guns?", "- gun(s", 7, "no regular expression"),
        ("- machine guns?", "- x*", 7, "empty text"),
        ("- machine guns?", '- ""', 7, "not empty"),
        ("- machine guns?", "- (a)\\1", 7, "references"),
        ("    words:\n      - guns?\n      - machine guns?\n      - no\n", "    words: []\n", 5, "one word or more"),
        ("{precision: 0.9}", "{precision: 1.5}", 12, "'1.5'"),
        ("{precision: 0.9}", "{precision: 0.9, recall: 0.5}", 12, "2 targets"),
        ("{precision: 0.9}", "{accuracy: 0.9}", 12, "unknown key 'accuracy'"),
        ("action: review", "action: delete", 13, "removes nothing"),
        ("action: review", "action: review\n    scorer: nudenet", 14, "opennsfw"),
        ("slices:", "extras:", 14, "unknown key 'extras'"),
        ("    - child|kids?", "    child", 15, "one word or more"),
        ("  weapon:", "  - weapon:", 2, "`key: value` lines"),
        ("means: a real gun", "means: [a?, b", 4, "one word per line"),
        (GOOD, "tags: {}", 1, "no tag"),
        (GOOD, "- a", 1, "lines"),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused_with_its_line(tmp_path, old, new, line, says):
    assert GOOD.count(old) >= 1
    with refused(says=(f"policy.yaml, line {line}", says)):
        policy_of(tmp_path, GOOD.replace(old, new, 1))


def test_a_file_that_is_no_policy_is_refused(tmp_path):
    with refused(says="No such file"):
        read_policy(tmp_path / "none.yaml")
    with refused(says="the file is empty"):
        policy_of(tmp_path, "# nothing\n")
    (tmp_path / "bytes.yaml").write_bytes(b"tags:\n  \xff: 1\n")
    with refused(says="line 2"):
        read_policy(tmp_path / "bytes.yaml")


def test_shares_are_read_as_numbers_and_percent():
    assert share("5%") == share("0.05") == share(" .05 ") == 0.05
    for text in ("5", "0", "100%", "-5%", "five", "nan", "1e-3", ""):
        with pytest.raises(ValueError, match="above 0 and below 1"):
            share(text)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_policies_of_the_repository_can_be_read(path):
    assert all(tag.words for tag in read_policy(path).tags.values())


def test_the_flickr8k_policy_leaves_out_toys_water_guns_cutlery_and_players():
    policy = read_policy(CONFIGS / "flickr8k.yaml")
    for caption, tags in {
        "A boy with a water gun": [],
        "A man shoots a handgun": ["weapon"],
        "She eats with fork and knife": [],
        "Two players fight for the ball": [],
        "Two boys wrestle in the sand as a dog walks by": ["people_fighting"],
        "Two brown dogs wrestle": [],
        "A race car is smoking its tires": [],
        "An old man smokes": ["smoking"],
        "A root beer advertisement": [],
        "Friends hold glasses of beer": ["alcohol"],
        "A shirtless man in boxer shorts": ["bare_skin"],
        "Diapers in a basket": [],
    }.items():
        assert [tag for tag, words in policy.words_in(caption).items() if words] == tags, caption
