"""`hfcap suggest`: which samples are suggested, and the command."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from hfcap import cli
from hfcap.applications.suggest_captions import is_cider_optimised, phrases_of, token_lists
from hfcap.applications.suggestions import LENGTHS, suggestions, within_one_word
from hfcap.errors import ConfigError
from hfcap.samples import Sample
from hfcap.training.tokenizer_training import train_tokenizer


def sample(caption, log_probability=-1.0, is_cut=False):
    return Sample(caption, (0,), (log_probability,), is_cut)


def captions_of(samples, number=4, **options):
    return [suggestion.caption for suggestion in suggestions(samples, number, **options)]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("a dog runs", "a dog runs", True),
        ("a dog runs", "a cat runs", True),
        ("a dog runs", "a dog", True),
        ("a dog runs", "the a dog runs", True),
        ("a dog runs", "a brown dog runs", True),
        ("a dog runs", "a cat sleeps", False),
        ("a dog runs", "dog a runs", False),
        ("a dog runs", "a dog runs on grass", False),
        ("a b c d", "a c d e", False),
        ("", "", True),
        ("", "a", True),
    ],
)
def test_one_word_apart(first, second, expected):
    assert within_one_word(first.split(), second.split()) is expected
    assert within_one_word(second.split(), first.split()) is expected


def test_the_first_is_what_most_samples_say_and_the_others_are_unlike_it():
    samples = [
        sample("a dog runs on the grass"),
        sample("a dog runs on green grass"),
        sample("a brown dog runs on the grass"),
        sample("two people stand near a red car"),
        sample("children play in some water", -1.5),
    ]
    found = captions_of(samples, number=3)
    assert found == [
        "A dog runs on the grass.",
        "Two people stand near a red car.",
        "Children play in some water.",
    ]


def test_without_agreement_the_most_probable_comes_first():
    samples = [sample("a dog runs on the grass"), sample("a dog runs on grass"), sample("two red cars", -0.1)]
    assert captions_of(samples)[0] == "A dog runs on the grass."
    assert captions_of(samples, agreement=0.0)[0] == "Two red cars."


def test_what_says_nothing_is_cut_or_stutters_is_no_suggestion():
    samples = [
        sample("a dog is lying on the", -0.1, is_cut=True),
        sample(""),
        sample(" . "),
        sample("a man on a man on a horse"),
        sample("A  black dog ."),
        sample("a black dog", -2.0),
        sample("the black dog"),
    ]
    (found,) = suggestions(samples, 4)
    assert (found.caption, found.words, found.log_probability) == ("A black dog.", 3, -1.0)
    assert suggestions(samples[:3], 4) == []


def test_agreement_is_the_mean_over_the_others_and_copies_count():
    found = suggestions([sample("a dog"), sample("a dog"), sample("two cats")], 2)
    assert [suggestion.agreement for suggestion in found] == pytest.approx([10 * 0.5 / 2, 0])  # no 3- and 4-grams


def test_length_and_words_to_avoid():
    samples = [
        sample("a dog runs"),
        sample("a big brown dog runs over some very green grass"),
        sample("two hot-dogs lie there"),
    ]
    assert captions_of(samples, length="short") == ["A dog runs.", "Two hot-dogs lie there."]
    assert captions_of(samples, length="medium") == ["A big brown dog runs over some very green grass."]
    assert captions_of(samples, length="long") == []
    assert captions_of(samples, avoid=["Dog", "green grass"]) == ["Two hot-dogs lie there."]
    bounds = list(LENGTHS.values())
    assert all(low == high + 1 for (_, high), (low, _) in pairwise(bounds))


def test_captions_without_spaces_are_compared_by_their_letters(recwarn):
    samples = [
        sample("一只狗在草地上奔跑"),
        sample("一只狗在草地上奔走"),  # one letter apart
        sample("两个妈妈抱着孩子", -1.1),  # no stutter
        sample("在海在海在海边", -1.0),
    ]
    assert captions_of(samples) == ["一只狗在草地上奔跑。", "两个妈妈抱着孩子。"]
    assert captions_of(samples, avoid=["狗"]) == ["两个妈妈抱着孩子。"]
    assert [one.words for one in suggestions(samples, 2)] == [9, 8]
    assert captions_of(samples, length="short") == ["两个妈妈抱着孩子。"]
    assert not recwarn.list


def test_words_to_avoid_have_tokens_within_captions_without_spaces():
    tokenizer = train_tokenizer(["一只狗在跑", "a dog runs"] * 5, 400)
    found = [tokenizer.decode(tokens) for tokens in token_lists(tokenizer, ["狗", "dog"])]
    assert sorted(found) == [" Dog", " dog", " 狗", "狗"]


def test_the_order_of_samples_decides_nothing_but_ties():
    samples = [sample(f"a {color} {thing} stands here", -i) for i, (color, thing) in enumerate(
        [("red", "car"), ("blue", "dog"), ("green", "tree"), ("white", "house")]
    )]  # fmt: skip
    assert captions_of(samples) == captions_of(samples[::-1])


@pytest.fixture
def photos(tmp_path, monkeypatch, scene_rows, build_tiny):
    """A captioner and three photos in the working directory."""
    monkeypatch.chdir(tmp_path)
    model, processor = build_tiny("encoder_decoder")
    model.generation_config.max_new_tokens = 12
    model.save_pretrained("run/model")
    processor.save_pretrained("run/model")
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        scene_rows[number]["image"].save(name)
    # A tiny model hardly ever ends a caption by itself.
    monkeypatch.setattr("hfcap.applications.suggest_captions.END_BIAS", {None: 1.5, "short": 1.5})
    return tmp_path


def suggest(*words, paths=("a.png", "b.png", "c.png")):
    cli.main(["suggest", *paths, "--model", "run", *words])


def test_rows_and_the_same_ones_in_any_batch(photos, capsys):
    shown = []
    for batch_size in ("1", "3"):
        suggest("--json", "--batch_size", batch_size)
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    rows = list(map(json.loads, shown[0].splitlines()))
    assert [row["image_id"] for row in rows] == ["a", "b", "c"]
    assert all(set(row) == {"image_id", "path", "suggestions", "seed", "settings"} for row in rows)
    first = rows[0]["suggestions"]
    assert len(first) == 4 and set(first[0]) == {"caption", "log_probability", "words", "agreement"}
    suggest("--json", paths=["c.png"])  # the neighbours do not matter either
    assert json.loads(capsys.readouterr().out) == rows[2]
    suggest("--json", "--seed", "1")
    assert json.loads(capsys.readouterr().out.splitlines()[0])["suggestions"] != first


def test_more_suggestions_than_samples_are_refused(photos, capsys):
    with pytest.raises(SystemExit):
        suggest("-n", "21")
    assert "--n is 21; wanted 1 to 20" in capsys.readouterr().err


def test_a_table_for_people(photos, capsys):
    suggest("-n", "2", "--length", "short", paths=["a.png"])
    name, *captions = capsys.readouterr().out.removesuffix("\n").split("\t")
    assert name == "a.png" and len(captions) == 2


def test_a_file_is_resumed_and_refused_for_other_settings(photos, capsys, monkeypatch):
    suggest("--output", "out.jsonl", paths=["a.png"])
    suggest("--output", "out.jsonl")
    shown = capsys.readouterr().out
    assert "out.jsonl: 1 of 3 photos have suggestions already" in shown
    assert "out.jsonl: 3 of 3 photos have suggestions" in shown
    rows = [json.loads(line) for line in (photos / "out.jsonl").read_text().splitlines()]
    assert [row["image_id"] for row in rows] == ["a", "b", "c"]
    with pytest.raises(SystemExit) as exit_:
        suggest("--output", "out.jsonl", "--seed", "1")
    assert exit_.value.code == 2
    assert "seed was 0, is 1" in capsys.readouterr().err
    monkeypatch.setattr("hfcap.generation.loading.load_captioner", None)  # nothing to do: no model is loaded
    suggest("--output", "out.jsonl")


def test_words_to_avoid_come_from_a_file(photos, capsys):
    suggest("--json", paths=["a.png"])
    first = json.loads(capsys.readouterr().out)["suggestions"][0]["caption"]
    (photos / "avoid.txt").write_text(f"\n{first}\n")
    suggest("--json", "--avoid", "avoid.txt", paths=["a.png"])
    row = json.loads(capsys.readouterr().out)
    assert first not in [suggestion["caption"] for suggestion in row["suggestions"]]
    assert row["settings"]["avoid"] == [first]
    for name, content in (("none.txt", None), ("empty.txt", "\n \n")):
        if content is not None:
            (photos / name).write_text(content)
        with pytest.raises(ConfigError, match=name):
            phrases_of(name)


def test_a_captioner_trained_for_cider_is_named(photos, capsys):
    suggest("--json", paths=["a.png"])
    assert "diversity" not in capsys.readouterr().err
    (photos / "run" / "run.json").write_text(json.dumps({"arguments": {"sampling_temperature": 1.0}}))
    assert is_cider_optimised("run") and is_cider_optimised("run/model")
    suggest("--json", paths=["a.png"])
    assert "costs diversity" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_write_the_file_of_one(photos, capsys, monkeypatch):
    monkeypatch.undo()  # the other processes have the command's own end bias
    monkeypatch.chdir(photos)
    suggest("--length", "short", "--output", "one.jsonl")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "hfcap.cli"]
    command += ["suggest", "a.png", "b.png", "c.png", "--model", "run", "--length", "short", "--output", "two.jsonl"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert process.returncode == 0, process.stderr[-2000:]
    one = Path("one.jsonl").read_text()
    assert Path("two.jsonl").read_text() == one
    assert len(one.splitlines()) == 3 and any(json.loads(line)["suggestions"] for line in one.splitlines())
    assert not list(photos.glob("*.part-*"))
