"""`hfcap push` whole: from a run to `from_pretrained("user/name")` in a process that has no hfcap, over HTTP."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from hfcap import cli, runs
from hfcap.data.picture_checks import undecoded
from hfcap.errors import VerificationError
from hfcap.evaluation import Measured, describe_data, judge, write_evaluation
from hfcap.generation.caption import caption_rows
from hfcap.generation.loading import load_captioner
from hfcap.hub import export, verify
from hfcap.hub import publish as publishing
from hfcap.hub.adapters import Base
from hfcap.hub.card import copy_records, write_card
from hfcap.hub.push import Target
from hfcap.training.merge import merge_adapter
from hub.local_hub import LocalHub
from tiny.captioners import TINY_ENCODER


@pytest.fixture
def make_judged_run(make_run, scene_rows):
    """A run folder with captions, figures and a card, as the recipes leave one."""

    def make(**options):
        run = make_run(**options)
        _judge(run, *load_captioner(str(run / runs.MODEL)), scene_rows)
        return run

    return make


def _judge(run, model, processor, rows):
    captions = caption_rows(model, processor, rows, getattr(processor, "caption_prompt", None))
    judge_run(run, rows, captions)
    write_card(run, thumbnails=False)


def judge_run(run, rows, captions):
    """What `recipes/evaluate.py --output_dir RUN` leaves beside the card."""
    evaluation = judge(captions, rows, {"num_beams": 1})
    source = runs.resolve_model(run)
    data = {"data": "scenes", "eval_split": "train", "scenes_style": "caption"}
    data = describe_data(data, runs.data_fingerprint(undecoded(rows)))
    write_evaluation(run, evaluation, rows, "title", Measured(source.artifact, source.path, data, "describe it"))


def client(hub, home, **more):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "HF_TOKEN": "hf_writer"}
    return environment | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"} | more


# The snippet runs as a stranger's process does: hfcap cannot be imported.
WITHOUT_HFCAP = "import sys; sys.modules['hfcap'] = None\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "form, options",
    [("native", {}), ("native", {"family": "encoder_decoder"}), ("remote-code", {"encoder": TINY_ENCODER})],
)
def test_a_stranger_runs_the_snippet_of_the_card(make_judged_run, tmp_path, form, options):
    run = make_judged_run(**options)
    Image.effect_noise((40, 30), 90).convert("RGB").save(tmp_path / "PHOTO.jpg")
    with LocalHub() as hub:
        command = [sys.executable, "-m", "hfcap.cli", "push", str(run), "--repo", "user/dogs", "--format", form]
        command += ["--license", "mit", "--datasets", "user/photos"]
        done = subprocess.run(command, env=client(hub, tmp_path / "a"), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "hf_writer" not in done.stdout + done.stderr
        files = hub.files("models/user/dogs")
        card = files["README.md"].decode()
        snippet = card.split("```python\n")[1].split("```")[0]
        stranger = subprocess.run(
            [sys.executable, "-c", WITHOUT_HFCAP + snippet],
            env=client(hub, tmp_path / "b"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert stranger.returncode == 0, stranger.stderr
    model, processor = load_captioner(str(run / runs.MODEL))
    picture = Image.open(tmp_path / "PHOTO.jpg")
    (expected,) = caption_rows(model, processor, [{"image": picture}], getattr(processor, "caption_prompt", None))
    assert stranger.stdout.strip() == expected
    metadata = yaml.safe_load(card.split("---")[1])
    assert (metadata["license"], metadata["library_name"]) == ("mit", "transformers")
    assert str(tmp_path) not in b"".join(files.values()).decode(errors="ignore")
    assert b"id: user/photos" in files[".eval_results/image-captioning.yaml"]
    assert json.loads(files["verification.json"])["format"] == form


PEFT = """
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
base = AutoModelForImageTextToText.from_pretrained("user/base")
model = PeftModel.from_pretrained(base, "user/adapter")
processor = AutoProcessor.from_pretrained("user/base", backend="pil")
picture = Image.open("PHOTO.png")
content = [{"type": "image"}, {"type": "text", "text": "describe it"}]
text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
inputs = processor(images=picture, text=text, return_tensors="pt")
print(processor.decode(model.generate(**inputs)[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
content[0]["image"] = picture
captioner = pipeline("image-text-to-text", model="user/base")
print(captioner(text=[{"role": "user", "content": content}], return_full_text=False)[0]["generated_text"].strip())
"""


@pytest.mark.slow
def test_an_adapter_alone_finds_its_base_on_the_hub(make_lora_run, scene_rows, tmp_path):
    run = make_lora_run()
    base = str(run.parent / "base" / runs.MODEL)
    merge_adapter(base, run / runs.ADAPTER, run / runs.MERGED)
    picture = Image.effect_noise((32, 32), 90).convert("RGB")
    picture.save(tmp_path / "PHOTO.png")
    expected = []
    for folder in (run, run.parent / "base"):
        weights = run / runs.ADAPTER if folder is run else base
        model, processor = load_captioner(str(weights))
        expected += caption_rows(model, processor, [{"image": picture}], "describe it")
        _judge(folder, model, processor, scene_rows)
    with LocalHub() as hub:
        push = [sys.executable, "-m", "hfcap.cli", "push"]
        commands = [
            [*push, base, "--repo", "user/base"],
            [*push, str(run / runs.ADAPTER), "--repo", "user/adapter", "--base_model"],
        ]
        for command in commands:
            if command[-1] == "--base_model":
                command.append(f"user/base@{hub.repos['models/user/base'].branches['main']}")
            done = subprocess.run(command, env=client(hub, tmp_path / "a"), capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        assert "Base: the weights of user/base are those of" in done.stdout
        assert "adapter_model.safetensors" in hub.files("models/user/adapter")
        stranger = subprocess.run(
            [sys.executable, "-c", WITHOUT_HFCAP + PEFT],
            env=client(hub, tmp_path / "b"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert stranger.returncode == 0, stranger.stderr
    assert stranger.stdout.splitlines()[-2:] == expected


FOUR_BITS = """
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig
config = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_compute_dtype=torch.float32,
    llm_int8_skip_modules=["model.vision_tower", "model.multi_modal_projector", "lm_head"],
)
model = AutoModelForImageTextToText.from_pretrained("user/dogs", quantization_config=config)
processor = AutoProcessor.from_pretrained("user/dogs", backend="pil")
for name, module in model.named_modules():
    if isinstance(module, torch.nn.Linear):
        print("LAYER", name, type(module.weight).__name__)
for number in range(4):
    content = [{"type": "image", "image": Image.open(f"{number}.png")}, {"type": "text", "text": "describe it"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    tokens = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    print("CAPTION", processor.decode(tokens, skip_special_tokens=True).strip())
"""


@pytest.mark.slow
def test_a_pushed_captioner_loads_in_four_bits(make_judged_run, pictures, tmp_path):
    """Straight from the Hub: the language model's layers only, and captions that depend on the picture."""
    pytest.importorskip("bitsandbytes")
    for number, picture in enumerate(pictures[:4]):
        picture.save(tmp_path / f"{number}.png")
    with LocalHub() as hub:
        command = [sys.executable, "-m", "hfcap.cli", "push", str(make_judged_run()), "--repo", "user/dogs"]
        done = subprocess.run(command, env=client(hub, tmp_path / "a"), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        stranger = subprocess.run(
            [sys.executable, "-c", WITHOUT_HFCAP + FOUR_BITS],
            env=client(hub, tmp_path / "b"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert stranger.returncode == 0, stranger.stderr
    lines = [line.split(maxsplit=1) for line in stranger.stdout.splitlines()]
    layers = dict(rest.split() for kind, rest in filter(lambda line: line[0] == "LAYER", lines))
    four_bit = {name for name, kind in layers.items() if kind == "Params4bit"}
    assert four_bit == {name for name in layers if ".language_model." in name} and len(four_bit) == 14
    assert any(".vision_tower." in name for name in layers) and any(
        ".multi_modal_projector." in name for name in layers
    )
    captions = [line[1] for line in lines if line[0] == "CAPTION" and len(line) > 1]
    assert len(captions) == 4 and len(set(captions)) > 2


def test_nothing_is_uploaded_where_the_export_is_not_as_it_was(make_judged_run, monkeypatch):
    monkeypatch.setattr(verify, "differences", lambda *_: ["model.multi_modal_projector.linear_1.weight is missing"])
    monkeypatch.setattr(verify, "reload_in_clean_process", lambda *_, **__: {"captions": []})
    monkeypatch.setattr(publishing, "push_folder", lambda *_: pytest.fail("something was uploaded"))
    with pytest.raises(VerificationError, match="projector"):
        publishing.publish(make_judged_run(), Target("user/dogs"))


def test_a_run_that_was_not_judged_is_not_published(make_run, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["push", str(make_run()), "--repo", "user/dogs"])
    assert exit_.value.code == 2 and "evaluate the run first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("README.md", "# All mine\n", "Move what is yours"),
        ("metrics.json", '{"schema_version": 0}', "schema_version is 0"),
        ("captions.jsonl", '{"image_id": "1"}\n', "no caption"),
    ],
)
def test_a_record_that_cannot_be_read_is_one_line(make_judged_run, monkeypatch, capsys, name, text, message):
    monkeypatch.setattr(publishing, "export_run", lambda *_, **__: pytest.fail("something was exported"))
    run = make_judged_run()
    if name == "captions.jsonl":
        (run / "card.json").unlink()
    (run / name).write_text(text)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["push", str(run), "--repo", "user/dogs"])
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.count("\n") == 0


def test_the_card_of_an_adapter_loads_the_base_that_it_was_trained_on(
    make_lora_run, in_process, scene_rows, tmp_path, monkeypatch
):
    run = make_lora_run()
    merge_adapter(str(run.parent / "base" / runs.MODEL), run / runs.ADAPTER, run / runs.MERGED)
    _judge(run, *load_captioner(str(run / runs.MERGED)), scene_rows)
    cards = []
    monkeypatch.setattr(publishing, "push_folder", lambda folder, *_: cards.append((folder / "README.md").read_text()))
    for revision in ("0123456789abcdef", None):
        if revision is None:
            monkeypatch.setattr(export, "shipped_base", lambda *_: Base("user/base"))
        publishing.publish(run / runs.ADAPTER, Target("user/dogs"), base_model=f"user/base@{revision or 'main'}")
    assert 'from_pretrained("user/base", revision="0123456789abcdef")\n' in cards[0]
    assert 'from_pretrained("user/base")\n' in cards[1]


@pytest.fixture
def push(in_process, monkeypatch):
    """Publish a run without the upload; return the card that would be there."""

    def run_and_read(run, **options):
        cards = []
        monkeypatch.setattr(
            publishing, "push_folder", lambda folder, *_: cards.append((folder / "README.md").read_text())
        )
        publishing.publish(run, Target("user/dogs"), **options)
        return cards[0]

    return run_and_read


def test_a_run_that_was_judged_again_is_published_with_its_new_captions(make_judged_run, push, scene_rows):
    run = make_judged_run()
    assert "a man, a man" not in push(run)
    judge_run(run, scene_rows, ["a man, a man"] * len(scene_rows))  # and no `hfcap card write`
    card = push(run)
    assert card.count("| a man, a man |") == 6
    assert "| names a gender that no reference of the picture names | 100.0 % |" in card
    assert "Split “train” of scenes (caption), 24 images" in card
    assert "Measured with the weights here." in card  # the export's files differ, its weights do not


def test_an_export_in_another_dtype_is_not_what_was_measured(make_judged_run, push):
    card = push(make_judged_run(), dtype="bfloat16")
    assert "Measured with the weights here." not in card
    assert (
        "Measured with these weights in float32. Here they are in bfloat16, which these figures do not judge" in card
    )
    assert "on 100 pictures CIDEr × 100 was" in card


def test_a_model_that_was_replaced_in_its_run_is_not_what_was_measured(make_judged_run, push):
    run = make_judged_run()
    model, _ = load_captioner(str(run / runs.MODEL))
    model.lm_head.weight.data.mul_(2)
    model.save_pretrained(run / runs.MODEL)
    assert "Measured with other weights than those here (SHA-256" in push(run)


def test_thumbnails_are_of_the_pictures_that_were_judged(make_judged_run, scene_rows, tmp_path):
    run = make_judged_run()
    text = write_card(run, thumbnails=True).read_text()
    assert text.count("](thumbnails/") == 6  # of split train, though run.json names validation
    shown = re.search(r"!\[(\S+)\]\((\S+)\)", text)
    row = next(row for row in scene_rows if row["image_id"] == shown[1])
    difference = np.asarray(Image.open(run / shown[2]).convert("RGB"), int) - np.asarray(
        row["image"].convert("RGB"), int
    )
    assert np.abs(difference).mean() < 10
    (run / "thumbnails" / "7.jpg").write_bytes(b"of an earlier card")
    copy_records(run, tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "copy" / "thumbnails").iterdir()) == [
        f"{n}.jpg" for n in range(1, 7)
    ]
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["data"]["sha256"] = "0" * 64  # data of that name is there no more
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert "](thumbnails/" not in write_card(run, thumbnails=True).read_text()


def test_another_licence_takes_the_place_of_the_old_one_with_its_name(make_judged_run, in_process, monkeypatch):
    run = make_judged_run()
    text = (run / "README.md").read_text()
    (run / "README.md").write_text(text.replace("---\n", "---\nlicense: other\nlicense_name: my-own\n", 1))
    cards = []
    monkeypatch.setattr(publishing, "push_folder", lambda folder, *_: cards.append((folder / "README.md").read_text()))
    for given in ({}, {"license": "mit"}):
        publishing.publish(run, Target("user/dogs"), given)
    first, second = (yaml.safe_load(card.split("---\n")[1]) for card in cards)
    assert (first["license"], first["license_name"]) == ("other", "my-own")
    assert second["license"] == "mit" and "license_name" not in second


def test_records_alone_give_the_same_card(make_judged_run, tmp_path, capsys):
    run = make_judged_run()
    cli.main(["card", "write", str(run), "--to", str(tmp_path / "records" / run.name)])
    copy = tmp_path / "records" / run.name
    before = (copy / "README.md").read_text()
    assert before == (run / "README.md").read_text()
    cli.main(["card", "write", str(copy)])
    assert (copy / "README.md").read_text() == before
    (copy / "README.md").write_text(before.replace("CIDEr |", "CIDEr | 9"))
    with pytest.raises(SystemExit) as exit_:
        cli.main(["card", "check", str(copy / "README.md")])
    assert exit_.value.code == 1 and "not what hfcap writes" in capsys.readouterr().out
