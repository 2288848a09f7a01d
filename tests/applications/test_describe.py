"""`hfcap caption --describe`: what is said, and where it goes."""

import json
import math
import subprocess
import sys

import pytest

from hfcap import cli
from hfcap.applications import ocr
from hfcap.applications.describe import NOTHING, NOTICE, description
from hfcap.applications.doubt import UNSURE_BELOW, unsure_words
from hfcap.samples import Sample
from refusals import refused, run_command


@pytest.fixture
def photos(tmp_path, monkeypatch, scene_rows, build_tiny):
    """A captioner, two photos and a file that is none, in the working directory."""
    monkeypatch.chdir(tmp_path)
    model, processor = build_tiny("llava")
    model.save_pretrained("model")
    processor.save_pretrained("model")
    for number, name in enumerate(("a.png", "b.png")):
        scene_rows[number]["image"].save(name)
    (tmp_path / "broken.png").write_bytes(b"no picture")


@pytest.fixture
def captions(monkeypatch):
    """Replace the captioner's words."""

    def stream(_model, processor, loads, _prompt, _batch_size, skip, _length):
        for index, load in enumerate(loads):
            try:
                load()
            except OSError as error:
                skip(index, error)
            else:
                text = f"a photo of a man and {index + 2} dogs ."
                tokens = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
                yield index, Sample(text, tuple(tokens), (0.0,) * len(tokens), False)

    monkeypatch.setattr("hfcap.generation.word_probabilities.scored_caption_stream", stream)


def describe(*words):
    cli.main(["caption", *words, "--model", "model", "--describe"])


def test_lines():
    assert description("a picture of a boy with a sign .", quotes=["STOP", "No 5"]) == [
        NOTICE,
        "A child with a sign.",
        "Reads: “STOP”, “No 5”.",
    ]
    assert description("a boy", people="as_seen") == [NOTICE, "A boy."]
    assert description("image") == [NOTICE, NOTHING]


def test_words_in_doubt_are_those_of_the_description():
    lines = description("a man with a red dog", unsure=["man", "Dog", "dog", "red"])
    assert lines[1:] == ["A person with a red dog.", "Unsure of: dog, red."]
    assert description("image", unsure=["image"]) == [NOTICE, NOTHING]


def test_improbable_content_words_are_in_doubt(build_tiny):
    tokenizer = build_tiny("encoder_decoder")[1].tokenizer
    tokens = tokenizer("the zebra", add_special_tokens=False)["input_ids"]
    for probability, expected in ((UNSURE_BELOW / 2, ["zebra"]), (2 * UNSURE_BELOW, [])):
        logs = (math.log(probability), *[0.0] * (len(tokens) - 2), math.log(probability))
        assert unsure_words(tokenizer, Sample("the zebra", tuple(tokens), logs, False)) == expected


def test_no_word_of_a_script_without_spaces_is_in_doubt(build_tiny):
    tokenizer = build_tiny("encoder_decoder")[1].tokenizer
    tokens = tuple(tokenizer("一只狗 zebra", add_special_tokens=False)["input_ids"])
    sample = Sample("一只狗 zebra", tokens, (math.log(UNSURE_BELOW / 2),) * len(tokens), False)
    assert unsure_words(tokenizer, sample) == ["zebra"]


def test_a_text_in_the_picture_writes_no_control_characters():
    assert description("a sign", quotes=["a\x1b[31mb"])[-1] == r"Reads: “a\x1b[31mb”."


def test_what_is_too_long_for_an_alt_is_said_whole():
    caption = "A dog runs. " * 30
    assert description(caption)[1] == caption.strip()


def test_one_photo_is_its_lines_alone(photos, captions, capsys):
    describe("a.png")
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [NOTICE, "A person and 2 dogs."]
    assert shown.err == ""


def test_several_photos_have_their_names_and_a_broken_one_is_said_on_stderr(photos, captions, capsys):
    describe("a.png", "broken.png", "b.png", "--people", "as_seen")
    shown = capsys.readouterr()
    assert shown.out.split("\n\n") == [
        f"a.png:\n{NOTICE}\nA man and 2 dogs.",
        f"b.png:\n{NOTICE}\nA man and 4 dogs.\n",
    ]
    assert "1 photo could not be read: broken.png" in shown.err


def test_no_readable_photo_is_exit_code_1(photos, captions, capsys):
    with pytest.raises(SystemExit) as exit_:
        describe("broken.png")
    assert exit_.value.code == 1
    assert capsys.readouterr().out == ""


def test_text_that_was_read_surely_is_quoted(photos, captions, capsys, monkeypatch):
    class Reader:
        def read(self, image):
            assert image == "a.png"
            return ocr.quotable([{"text": "STOP", "score": 0.95}, {"text": "ST0P", "score": 0.6}])

    monkeypatch.setattr(ocr, "TextReader", Reader)
    describe("a.png", "--ocr")
    assert capsys.readouterr().out.splitlines()[-1] == "Reads: “STOP”."


@pytest.mark.parametrize(
    ("options", "option", "fix"),
    [
        (["--describe", "--json"], "--json", "remove one of the two"),
        (["--describe", "--output", "x.jsonl"], "--output", "remove one of the two"),
        (["--ocr"], "--ocr", "add --describe, or remove it"),
        (["--people", "neutral"], "--people", "add --describe, or remove it"),
    ],
)
def test_options_that_do_not_go_together(options, option, fix):
    with refused(option=option, fix=fix, says="--describe"):
        run_command("caption", "a.png", "--model", "model", *options)


def test_the_command_writes_nothing_but_the_description(photos):
    """As a process of its own: what libraries say while they load must not reach a screen reader."""
    command = [sys.executable, "-m", "hfcap.cli", "caption", "a.png", "--model", "model", "--describe"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[0] == NOTICE and 2 <= len(done.stdout.splitlines()) <= 3
    assert done.stderr == "", json.dumps(done.stderr)
