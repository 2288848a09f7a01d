"""The prompt of a training is the one that the captioner keeps, whether a run or its rows name it."""

import importlib
import json
from pathlib import Path

import pytest

from hfcap import cli
from hfcap.generation.inputs import caption_prompt
from hfcap.generation.loading import load_processor
from hfcap.models.model_types import MODEL_TYPES
from refusals import refused
from tiny.captioners import TINY_ENCODER, TINY_LLAMA

RECIPES = Path(__file__).parents[2] / "recipes"
PROMPT = "What do you see here?"


def turn(picture, prompt, caption):
    """Write a line as instruction data have it."""
    user = [{"type": "image"}, {"type": "text", "text": prompt}] if prompt else [{"type": "image"}]
    messages = [
        {"role": "user", "content": user},
        {"role": "assistant", "content": [{"type": "text", "text": caption}]},
    ]
    return json.dumps({"image": picture, "messages": messages})


@pytest.fixture
def instructions(tmp_path, scene_rows):
    """Write a folder of instruction-style rows with the prompts named, in turns, for training and for evaluation."""

    def write(prompts, evaluation=None):
        folder = tmp_path / "data"
        folder.mkdir()
        for split, own in (("train", prompts), ("validation", evaluation or prompts[:1])):
            lines = []
            for number, row in enumerate(scene_rows.select(range(6))):
                name = f"{split}-{number}.png"
                row["image"].rotate(0 if split == "train" else 90).save(folder / name)
                lines.append(turn(name, own[number % len(own)], row["captions"][0]))
            (folder / f"{split}.jsonl").write_text("\n".join(lines))
        return folder

    return write


@pytest.fixture
def train(monkeypatch, tmp_path):
    """Run `recipes/train.py` on a folder; returns the run folder."""
    monkeypatch.syspath_prepend(RECIPES)
    recipe = importlib.import_module("train")
    encoder, decoder = json.dumps(TINY_ENCODER), json.dumps(TINY_LLAMA)
    model = ["--encoder_config", encoder, "--image_size", "32", "--decoder_config", decoder, "--vocab_size", "350"]
    steps = ["--max_steps", "2", "--per_device_train_batch_size", "3", "--learning_rate", "0.01", "--use_cpu", "true"]

    def run(data, *more):
        return recipe.main(["--data", str(data), *model, *steps, "--output_dir", str(tmp_path / "run"), *more])

    return run


def saved_prompt(run):
    return caption_prompt(load_processor(str(run / "model"), MODEL_TYPES["hfcap_llava"]))


def test_photos_are_captioned_as_the_run_was_judged(instructions, train, tmp_path):
    data = instructions([PROMPT])
    run = train(data)
    assert saved_prompt(run) == PROMPT
    photos = sorted(map(str, data.glob("validation-*.png")))
    cli.main(["caption", *photos, "--model", str(run), "--output", str(tmp_path / "captions.jsonl")])
    judged = [json.loads(line)["caption"] for line in (run / "captions.jsonl").read_text().splitlines()]
    given = [json.loads(line)["caption"] for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert judged == given


def test_rows_without_a_prompt_are_asked_as_the_others(instructions, train, capsys):
    train(instructions([None, None, PROMPT, None, None, None]), "--dry_run")
    assert capsys.readouterr().out.count(PROMPT) >= 1


@pytest.mark.parametrize("streaming", [False, True])
def test_several_prompts_need_a_choice(instructions, train, streaming):
    data = instructions([PROMPT, "Describe.", PROMPT])
    more = ["--streaming", "true"] if streaming else []
    with refused(option="prompt", says=(f"2 prompts ('{PROMPT}' in 4 rows, 'Describe.' in 2 rows)", "--prompt")):
        train(data, "--dry_run", *more)
    train(data, "--dry_run", "--prompt", "Describe.", *more)


def test_a_prompt_that_no_row_is_asked_is_refused(instructions, train):
    data = instructions([PROMPT])
    with refused(option="prompt", got="Caption this.", says=f"'{PROMPT}'"):
        train(data, "--dry_run", "--prompt", "Caption this.")


def test_the_prompt_chosen_is_saved(instructions, train):
    assert saved_prompt(train(instructions([PROMPT, "Describe."]), "--prompt", "Describe.")) == "Describe."


def test_another_prompt_in_the_evaluation_is_said(instructions, train, caplog):
    train(instructions([PROMPT], evaluation=["Describe."]), "--dry_run")
    assert "6 evaluation rows with another prompt than 'What do you see here?'" in caplog.text


@pytest.mark.parametrize("first", [PROMPT, None])
def test_a_stream_whose_prompt_changes_stops(instructions, train, monkeypatch, first):
    monkeypatch.setattr("hfcap.training.prompts.FIRST_OF_STREAM", 2)
    data = instructions([first, first, first, "Describe."])
    with refused(option="prompt", says=("the prompt 'Describe.'", "the first 2 rows", "--prompt")):
        train(data, "--streaming", "true")
    train(data, "--streaming", "true", "--prompt", first or "Describe.", "--dry_run")
