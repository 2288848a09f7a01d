"""What `from hfcap import …` gives: a captioner trained, saved, loaded and used in Python alone."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hfcap
from hfcap.data.caption_dataset import CaptionDataset
from hfcap.data.scenes import load_scenes
from hfcap.generation.inputs import caption_prompt, keep_caption_prompt
from hfcap.training.strategies import apply_strategy
from refusals import refused
from tiny.training import STEPS_ALONE


def test_importing_hfcap_loads_nothing_heavy():
    loaded = "import sys, hfcap; print(sorted({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, timeout=60)
    assert process.stdout.strip() == "[]", process.stderr


def test_all_public_names_exist():
    assert set(hfcap.__all__) <= set(dir(hfcap))
    for name in hfcap.__all__:
        assert getattr(hfcap, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'load_caption'"):
        hfcap.load_caption  # noqa: B018


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures with .txt files beside them, split in folders."""
    folder = tmp_path_factory.mktemp("photos")
    for split, number in (("train", 8), ("validation", 4)):
        for row in load_scenes(split, number, "caption", image_size=32):
            path = folder / split / f"{row['image_id'].replace('/', '_')}.png"
            path.parent.mkdir(exist_ok=True)
            row["image"].save(path)
            path.with_suffix(".txt").write_text("\n".join(row["captions"]))
    return folder


def test_train_save_load_and_caption(folder, build_tiny, tmp_path):
    model, processor = build_tiny("llava")
    keep_caption_prompt(processor, "describe it")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "base")
    args = hfcap.CaptionTrainingArguments(output_dir=str(tmp_path / "checkpoints"), max_steps=2, **STEPS_ALONE)
    rows = hfcap.load_captions(str(folder), "train"), hfcap.load_captions(str(folder), "validation")
    trainer = hfcap.CaptionTrainer(
        model=str(tmp_path / "base"), args=args, train_dataset=rows[0], eval_dataset=rows[1]
    )
    trainer.train()
    assert trainer.data_collator.prompt == "describe it" and trainer.data_collator.packing
    metrics = trainer.evaluate()
    assert {"eval_loss", "eval_cider", "eval_bleu_4"} <= set(metrics)

    trainer.save_model(str(tmp_path / "trained"))
    model, processor = hfcap.load_captioner(str(tmp_path / "trained"))
    pictures = sorted((folder / "validation").glob("*.png"))
    captions = hfcap.caption(model, processor, pictures, batch_size=2)
    by_name = dict(trainer.sample_captions)
    assert captions == [by_name[image_id] for image_id in sorted(by_name)]
    scores = hfcap.compute_metrics(captions, [row["captions"] for row in rows[1]])
    assert scores["bleu_4"] == metrics["eval_bleu_4"] and scores["cider"] == metrics["eval_cider"]


def test_a_trainer_loads_a_run_folder_and_names_a_missing_one(build_tiny, scene_rows, tmp_path):
    model, processor = build_tiny("encoder_decoder")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "run" / "model")
    args = hfcap.CaptionTrainingArguments(output_dir=str(tmp_path / "checkpoints"), **STEPS_ALONE)
    trainer = hfcap.CaptionTrainer(str(tmp_path / "run"), args, scene_rows, scene_rows)
    assert type(trainer.model) is type(model)
    with refused(option="model", says="no such folder"):
        hfcap.CaptionTrainer(str(tmp_path / "nowhere"), args, scene_rows, scene_rows)


def test_the_examples_of_the_readme_run(folder, build_tiny, tmp_path, monkeypatch, capsys):
    """As printed; a tiny captioner has the place of the Hub's, and of the run folder."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    training, captioning = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[:2]
    monkeypatch.chdir(tmp_path)
    model, processor = build_tiny("llava")
    for place in ("HuggingFaceTB/SmolVLM-256M-Instruct", "outputs/scenes-qlora/model"):
        for part in (model, processor):
            part.save_pretrained(place)
    Path("my_photos").symlink_to(folder)
    shutil.copy(next((folder / "validation").glob("*.png")), "PHOTO.jpg")
    exec(training, {})
    assert (tmp_path / "outputs" / "mine" / "checkpoint-3" / "model.safetensors").is_file()
    capsys.readouterr()
    exec(captioning, {})
    first, cider = capsys.readouterr().out.splitlines()
    assert first.startswith("['") and float(cider) >= 0


# ---- the trainer follows its settings and rows as the recipes do, or says why not


@pytest.fixture
def captioner(build_tiny, tmp_path):
    """Folder of a tiny captioner that keeps the prompt "caption"."""
    model, processor = build_tiny("llava")
    keep_caption_prompt(processor, "caption")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def make(captioner, scene_rows, tmp_path):
    """Make a trainer of one step; arguments of `CaptionTrainer` and, as `settings`, of `CaptionTrainingArguments`."""

    def make(train=scene_rows, evaluation=scene_rows, model=captioner, settings=None, **more):
        settings = STEPS_ALONE | {"max_steps": 1} | (settings or {})
        args = hfcap.CaptionTrainingArguments(output_dir=str(tmp_path / "checkpoints"), **settings)
        return hfcap.CaptionTrainer(model, args, train, evaluation, **more)

    return make


def test_decoding_settings_count_in_python_too(make, tmp_path):
    trainer = make(settings={"num_beams": 4, "max_new_tokens": 3})
    trainer.train()
    trainer.save_model(str(tmp_path / "trained"))
    settings = hfcap.load_captioner(str(tmp_path / "trained"))[0].generation_config
    assert (settings.num_beams, settings.max_new_tokens) == (4, 3)


def prompted(rows, *prompts):
    return rows.add_column("prompt", [prompts[row % len(prompts)] for row in range(len(rows))])


def test_the_prompt_of_the_rows_is_the_one_that_is_saved(make, scene_rows, tmp_path):
    rows = prompted(scene_rows, "Describe it.")
    trainer = make(rows, rows)
    trainer.save_model(str(tmp_path / "trained"))
    assert trainer.data_collator.prompt == "Describe it."
    assert caption_prompt(hfcap.load_captioner(str(tmp_path / "trained"))[1]) == "Describe it."
    assert make(CaptionDataset(rows), rows).data_collator.prompt == "Describe it."
    assert make(prompted(scene_rows, "caption", "Other.")).data_collator.prompt == "caption"  # one that rows have
    assert make(prompt="Say it.").data_collator.prompt == "Say it."


def test_of_several_prompts_one_must_be_chosen(make, scene_rows):
    rows = prompted(scene_rows, "One.", "Two.")
    with refused(option="prompt", says="2 prompts"):
        make(rows)
    assert make(rows, prompt="Two.").data_collator.prompt == "Two."
    with refused(option="prompt", got="Three."):
        make(rows, prompt="Three.")


def test_a_later_prompt_of_a_stream_is_refused(make, scene_rows, monkeypatch):
    monkeypatch.setattr("hfcap.training.prompts.FIRST_OF_STREAM", 2)
    later = scene_rows.add_column("prompt", ["One."] * 2 + ["Two."] * (len(scene_rows) - 2))
    with refused(option="prompt", says=("'Two.'", "the first 2 rows")):
        make(later.to_iterable_dataset(), settings={"max_steps": 9}).train()


def test_what_only_recipes_do_is_refused(make):
    with refused(option="dry_run", got=True, says="describe_run"):
        make(settings={"dry_run": True}).train()
    with refused(option="push_to_hub", got=True, says="hfcap push"):
        make(settings={"push_to_hub": True, "hub_model_id": "user/name"})


@pytest.mark.parametrize(
    ("change", "option", "says"),
    [
        (lambda rows: {"train": list(rows)}, "train_dataset", ("a list", "load_captions")),
        (lambda rows: {"train": rows.remove_columns("captions")}, "train_dataset", "no column captions"),
        (lambda rows: {"evaluation": rows.rename_column("image", "img")}, "eval_dataset", "no column image"),
        (
            lambda rows: {"train": rows.map(lambda row: {"captions": row["captions"][0]})},
            "train_dataset.captions",
            "wanted a list",
        ),
        (lambda rows: {"evaluation": {"a": rows}}, "eval_dataset", "a dict"),
        (lambda rows: {"evaluation": rows.to_iterable_dataset()}, "eval_dataset", "stream"),
    ],
)
def test_rows_of_another_form_are_one_error(make, scene_rows, change, option, says):
    with refused(option=option, says=says):
        make(**change(scene_rows))


def test_a_model_without_processor_and_an_adapter_are_one_error(make, captioner, tmp_path):
    model, processor = hfcap.load_captioner(str(captioner))
    with refused(option="processing_class", says="load_captioner"):
        make(model=model)
    adapted = apply_strategy(model, "lora")
    trainer = make(model=adapted, processing_class=processor, callbacks=None)
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    with refused(option="model", got=str(tmp_path / "adapter"), wanted="whole weights"):
        make(model=tmp_path / "adapter")
    with refused(option="num_beams", got=2):
        make(model=adapted, processing_class=processor, settings={"num_beams": 2})
    adapted.requires_grad_(False)
    with refused(option="model", says="requires_grad"):
        make(model=adapted, processing_class=processor).train()


def test_other_rows_can_be_evaluated(make, scene_rows):
    trainer = make(evaluation=None)
    assert trainer.evaluate(scene_rows.select(range(4)))["eval_loss"] > 0


def test_captioning_refuses_what_it_would_ignore(captioner, scene_rows):
    model, processor = hfcap.load_captioner(str(captioner))
    picture = scene_rows[0]["image"]
    assert len(hfcap.caption(model, processor, (row["image"] for row in scene_rows.select(range(3))))) == 3
    for one in (picture, "photo.jpg"):
        with refused(option="pictures", wanted="a list of images"):
            hfcap.caption(model, processor, one)
    with refused(option="num_beam", fix="did you mean 'num_beams'?"):
        hfcap.caption(model, processor, [picture], num_beam=3)
    for wrong in (0, 2.5, "8"):
        with refused(option="batch_size", got=wrong, wanted="a whole number, 1 or more"):
            hfcap.caption(model, processor, [picture], batch_size=wrong)
