"""The recipes from the command line to captions in another process, on the embedded data set and tiny models."""

import contextlib
import errno
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor

from hfcap import cli
from hfcap.data.scenes import load_scenes
from hfcap.errors import WorkError
from hfcap.generation.inputs import caption_prompt
from hfcap.origins import public_record
from hfcap.recipes import train, train_dpo, train_encoder, train_qlora, train_scst
from hfcap.training.trainer import CaptionTrainer
from hub.local_hub import LocalHub
from refusals import refused
from tiny.captioners import TINY_ENCODER, TINY_GPT2, TINY_LLAMA

ROOT = Path(__file__).parents[1]
TINY = {
    "scenes_image_size": 32,
    "max_train_images": 40,
    "max_eval_images": 6,
    "image_size": 32,
    "vocab_size": 350,
    "encoder_config": TINY_ENCODER,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-2,
    "max_new_tokens": 8,
    "eval_caption_images": 4,
    "disable_tqdm": True,
    "use_cpu": True,
}
BUILT = ("image_size", "vocab_size", "encoder_config", "max_new_tokens")  # a captioner to start from has them already
FROM_CHECKPOINT = {key: TINY[key] for key in TINY if key not in BUILT}

# What a person who reads the run folder does, in a process that knows nothing of the training.
RELOAD = """
import json, sys
import hfcap.models
import torch
from datasets import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig
from hfcap.data.scenes import load_scenes

folder, style, adapter = sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None
if adapter is None:
    model = AutoModelForImageTextToText.from_pretrained(folder)
else:
    from peft import PeftModel
    from hfcap.models.model_types import MODEL_TYPES
    from hfcap.models.quantization import four_bit_config
    four_bit = four_bit_config(MODEL_TYPES["hfcap_llava"], torch.float32)
    base = AutoModelForImageTextToText.from_pretrained(folder, quantization_config=four_bit)
    model = PeftModel.from_pretrained(base, adapter)
processor = AutoProcessor.from_pretrained(adapter or folder, backend="pil")
GenerationConfig.from_pretrained(folder)
captions = []
for row in load_scenes("validation", 6, style, image_size=32):
    if hasattr(processor, "image_token"):
        content = [{"type": "image"}, {"type": "text", "text": processor.caption_prompt}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(images=row["image"], text=text, return_tensors="pt")
        tokens = model.generate(**inputs)[:, inputs["input_ids"].shape[1]:]
    else:
        tokens = model.generate(**processor(images=row["image"], return_tensors="pt"))
    captions.append(processor.batch_decode(tokens, skip_special_tokens=True)[0].strip())
print(json.dumps(captions))
"""


def write_config(tmp_path, name, **settings):
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def run(*command):
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, timeout=600)


@pytest.fixture(scope="module")
def recipes():
    """`main` of the recipes, to be run in this process, which has torch loaded already."""
    modules = (train, train_dpo, train_encoder, train_qlora, train_scst)
    return {module.__name__.rpartition(".")[2]: module.main for module in modules}


def reload(*arguments):
    process = run("-c", RELOAD, *map(str, arguments))
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


def captions_of(folder, column="caption"):
    return [json.loads(line)[column] for line in (folder / "captions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def llava_runs(tmp_path_factory, recipes):
    """The main job in small: an encoder, a base, then QLoRA to the other style, by the recipe itself."""
    tmp_path = tmp_path_factory.mktemp("llava")
    settings = FROM_CHECKPOINT
    encoder_config = write_config(
        tmp_path,
        "encoder",
        **{key: settings[key] for key in settings if key != "eval_caption_images"},
        encoder_config=TINY_ENCODER,
        image_size=32,
        output_dir=str(tmp_path / "encoder"),
    )
    cached = {"feature_cache": True, "cache_dir": str(tmp_path / "features")}
    base_config = write_config(
        tmp_path,
        "base",
        **settings | cached,
        image_size=32,
        vocab_size=350,
        family="llava",
        strategy="frozen_encoder",
        encoder_training=encoder_config,
        encoder=str(tmp_path / "encoder" / "model"),
        decoder_config=TINY_LLAMA,
        prompt="caption",
        num_beams=1,
        max_new_tokens=TINY["max_new_tokens"],
    )
    config = write_config(
        tmp_path,
        "qlora",
        **settings | cached,
        base_config=base_config,
        model=str(tmp_path / "base"),
        output_dir=str(tmp_path / "qlora"),
        scenes_style="alt_text",
        prompt="alt text",
    )
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        recipes["train_qlora"](["--config", config])
    return tmp_path, config, output.getvalue()


def test_the_main_job_leaves_a_whole_run_folder(llava_runs):
    tmp_path, _, output = llava_runs
    for name in ("run.json", "captions.jsonl", "metrics.json", "report.html", "README.md", "adapter", "merged"):
        assert (tmp_path / "qlora" / name).exists(), name
    for row in ("most frequent caption", "LM without the picture", "before (4-bit base)", "after (merged)"):
        assert row in output
    assert output.strip().splitlines()[-1] == f"hfcap caption PHOTO.jpg --model {tmp_path / 'qlora'}"
    metrics = json.loads((tmp_path / "qlora" / "metrics.json").read_text())
    assert metrics["model_artifact"] == "merged"
    assert metrics["num_images"] == 6
    # The card's estimate rests on what the trainer measured, as it names it.
    card = (tmp_path / "qlora" / "README.md").read_text()
    assert re.search(r"optimizer steps took [^\n]* kWh, an estimate from 10 W a core\.\n", card)
    # So small a model is wrong, and the run says so: in the table, beside the captions, and in the file.
    assert re.search(r"after \(merged\) +- .* 0\.0 +0\.0\n", output)
    assert "wrong      count, size" in output
    assert captions_of(tmp_path / "qlora", "wrong_facts")[0][:2] == ["count", "size"]


def test_the_encoder_is_trained_first_and_kept(llava_runs):
    tmp_path, _, output = llava_runs
    assert re.search(r"\d\d words: precision 0\.\d+, recall [01]\.\d+\n", output)
    assert 0 <= json.loads((tmp_path / "encoder" / "run.json").read_text())["scores"]["eval_f1"] <= 1
    trained = load_file(tmp_path / "encoder" / "model" / "model.safetensors")
    for folder in ("base/model", "qlora/merged"):
        shipped = load_file(tmp_path / folder / "model.safetensors")
        towers = {name.partition("vision_tower.")[2]: shipped[name] for name in shipped if "vision_tower." in name}
        assert towers.keys() == trained.keys()
        assert all(torch.equal(towers[name], trained[name]) for name in trained)


def test_a_second_run_says_what_is_there(llava_runs, recipes, capsys):
    tmp_path, config, _ = llava_runs
    (tmp_path / "encoder").rename(tmp_path / "elsewhere")  # the base has its weights
    recipes["train_qlora"](["--config", config])
    output = capsys.readouterr().out
    assert output.count("is done: BLEU-4") == 2  # the base and the adapted model
    assert "train_runtime" not in output
    assert not (tmp_path / "encoder").exists()
    (tmp_path / "elsewhere").rename(tmp_path / "encoder")
    recipes["train_encoder"](["--config", str(tmp_path / "encoder.yaml")])
    holds = f"{tmp_path / 'encoder'} is done: {tmp_path / 'encoder' / 'model'} holds the encoder"
    assert holds in capsys.readouterr().out


@pytest.mark.slow
def test_a_finished_run_is_published_where_asked_for(llava_runs):
    tmp_path, config, _ = llava_runs
    with LocalHub() as hub:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {"HF_HOME": str(tmp_path)}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_writer"}
        command = [sys.executable, "recipes/train_qlora.py", "--config", config, "--push_to_hub"]
        command += ["--hub_model_id", "user/scenes", "--hub_private_repo", "true"]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        files = hub.files("models/user/scenes")
        assert hub.repos["models/user/scenes"].private
    assert {"README.md", "model.safetensors", "verification.json", "thumbnails/1.jpg"} <= set(files)
    assert json.loads(files["verification.json"])["artifact"] == "merged"


def test_publishing_needs_a_name(recipes):
    with refused(option="push_to_hub", says="--hub_model_id"):
        recipes["train"](["--push_to_hub", "true"])


def test_other_settings_in_the_same_folder_are_refused(llava_runs, recipes):
    _, config, _ = llava_runs
    with refused(option="output_dir", says="lora_r was 16, is 3"):
        recipes["train_qlora"](["--config", config, "--lora_r", "3"])


def test_a_base_that_was_replaced_in_its_folder_is_refused(llava_runs, recipes):
    tmp_path, config, _ = llava_runs
    path = tmp_path / "base" / "model" / "model.safetensors"
    kept = path.read_bytes()
    weights = load_file(path)
    try:
        save_file({name: tensor * 1.5 for name, tensor in weights.items()}, path, {"format": "pt"})
        with refused(option="output_dir", got=str(tmp_path / "qlora"), says="the weights of model changed"):
            recipes["train_qlora"](["--config", config])
    finally:
        path.write_bytes(kept)
    recipes["train_qlora"](["--config", config])


@pytest.mark.slow
def test_a_run_with_relative_paths_is_exported_from_any_directory(llava_runs, recipes, monkeypatch, capsys):
    tmp_path, _, _ = llava_runs
    settings = FROM_CHECKPOINT | {"prompt": "red/blue or green", "strategy": "lora", "model": "work/base"}
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "base").symlink_to(tmp_path / "base")  # of two parts, as a Hub id
    config = write_config(tmp_path, "relative", **settings, output_dir="outputs/relative")
    monkeypatch.chdir(tmp_path)
    recipes["train"](["--config", config])
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    run_folder = tmp_path / "outputs" / "relative"
    for name, options in (("merged", []), ("again", ["--merge"])):
        source = run_folder if name == "merged" else run_folder / "adapter"
        cli.main(["export", str(source), "--to", name, *options])
    assert "Verified in a clean process" in capsys.readouterr().out
    cli.main(["card", "write", str(run_folder)])
    assert "base_model:" not in (run_folder / "README.md").read_text()
    assert str(tmp_path) not in json.dumps(public_record(json.loads((run_folder / "run.json").read_text())))
    for file in (tmp_path / "other").rglob("*.json"):
        assert str(tmp_path) not in file.read_text(), file


def test_merged_and_adapter_give_the_recorded_captions_in_a_new_process(llava_runs):
    tmp_path, _, _ = llava_runs
    folder = tmp_path / "qlora"
    assert reload(folder / "merged", "alt_text") == captions_of(folder)
    assert reload(tmp_path / "base" / "model", "alt_text", folder / "adapter") == captions_of(
        folder, "caption_adapter"
    )


def test_the_command_line_captions_a_picture(llava_runs, scene_rows, capsys):
    tmp_path, _, _ = llava_runs
    scene_rows[0]["image"].convert("L").save(tmp_path / "Bild ä.png")
    cli.main(["caption", str(tmp_path / "Bild ä.png"), "--model", str(tmp_path / "base")])
    path, _ = capsys.readouterr().out.strip("\n").split("\t")  # so small a model may have nothing to say
    assert path.endswith("Bild ä.png")


@pytest.mark.parametrize(
    ("artifact", "options", "column"),
    [
        ("qlora", [], "caption"),
        ("qlora/merged", [], "caption"),
        ("qlora/adapter", ["--load_in_4bit"], "caption_adapter"),
    ],
)
def test_the_command_line_captions_with_every_checkpoint(llava_runs, capsys, artifact, options, column):
    tmp_path, _, _ = llava_runs
    photos = tmp_path / "photos"
    for number, row in enumerate(load_scenes("validation", 6, "alt_text", image_size=32)):
        photos.mkdir(exist_ok=True)
        row["image"].save(photos / f"{number}.png")
    cli.main(["caption", str(photos), "--model", str(tmp_path / artifact), "--json", *options])
    captions = [json.loads(line)["caption"] for line in capsys.readouterr().out.splitlines()]
    assert captions == captions_of(tmp_path / "qlora", column)


@pytest.fixture(scope="module")
def encoder_decoder_run(tmp_path_factory, recipes):
    """A frozen encoder with cached features, and a decoder trained from scratch."""
    tmp_path = tmp_path_factory.mktemp("encoder_decoder")
    config = write_config(
        tmp_path,
        "encoder_decoder",
        **TINY,
        family="encoder_decoder",
        strategy="frozen_encoder",
        decoder_config=TINY_GPT2,
        bridge_config={"feature_layer_norm": True, "image_position_embeddings": True, "num_bridge_layers": 1},
        plain_text=True,
        feature_cache=True,
        cache_dir=str(tmp_path / "features"),
        output_dir=str(tmp_path / "run"),
        num_beams=2,
    )
    return recipes["train"](["--config", config])


def unchanging(tmp_path, **settings):
    """Configuration of a base whose CIDEr stays 0, evaluated and saved every 5 steps."""
    settings = TINY | {"learning_rate": 1e-6, "num_train_epochs": 4} | settings
    return write_config(
        tmp_path,
        "unchanging",
        **settings,
        decoder_config=TINY_LLAMA,
        prompt="caption",
        output_dir=str(tmp_path / "run"),
    )


def test_early_stopping_ends_a_run_that_gets_no_better(tmp_path, recipes):
    recipes["train"](["--config", unchanging(tmp_path, early_stopping_patience=1)])
    saved = {path.name for path in (tmp_path / "run" / "checkpoints").glob("checkpoint-*")}
    assert saved == {"checkpoint-5", "checkpoint-10"}  # of 20 steps: the best one, and the one that was no better
    assert (tmp_path / "run" / "metrics.json").exists()


def test_a_moved_run_ships_its_best_weights(tmp_path, recipes, monkeypatch):
    config = unchanging(tmp_path, num_train_epochs=2, learning_rate=1e-2)

    def stop(trainer, output_dir=None, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hfcap.training.results.evaluate_trained", stop)
        with pytest.raises(KeyboardInterrupt):
            recipes["train"](["--config", config])
    first, last = (tmp_path / "run" / "checkpoints" / name for name in ("checkpoint-5", "checkpoint-10"))
    state = json.loads((last / "trainer_state.json").read_text())
    state |= {"best_model_checkpoint": str(first), "best_global_step": 5, "best_metric": 9.0}
    (last / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "run").rename(tmp_path / "moved")
    recipes["train"](["--config", config, "--output_dir", str(tmp_path / "moved")])
    shipped, best, other = (
        load_file(tmp_path / "moved" / name / "model.safetensors")
        for name in ("model", "checkpoints/checkpoint-5", "checkpoints/checkpoint-10")
    )
    assert all(torch.equal(shipped[name], best[name]) for name in best)
    assert not all(torch.equal(shipped[name], other[name]) for name in other)


def test_a_full_disk_at_the_end_loses_nothing(tmp_path, recipes, monkeypatch):
    config = unchanging(tmp_path, num_train_epochs=1)
    saved = CaptionTrainer.save_model

    def fail_half_way(trainer, output_dir=None, **kwargs):
        saved(trainer, output_dir, **kwargs)
        if output_dir == str(tmp_path / "run" / "model"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(CaptionTrainer, "save_model", fail_half_way)
    with refused(WorkError, option=str(tmp_path / "run" / "model"), says=("No space", "resume from", "checkpoint-5")):
        recipes["train"](["--config", config])
    assert sorted(path.name for path in (tmp_path / "run").glob("[!.]*")) == ["checkpoints", "run.json"]
    monkeypatch.undo()
    recipes["train"](["--config", config])
    assert (tmp_path / "run" / "model").is_dir() and (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.slow
def test_tensorboard_gets_figures_and_captions(tmp_path, recipes):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipes["train"](["--config", unchanging(tmp_path, num_train_epochs=1, logging_steps=1, report_to="tensorboard")])
    (file,) = (tmp_path / "run").rglob("events.out.tfevents*")
    board = events.EventAccumulator(str(file)).Reload()
    assert {"train/loss", "eval/cider"} <= set(board.Tags()["scalars"])
    assert "captions/text_summary" in board.Tags()["tensors"]


@pytest.mark.slow
def test_trackio_gets_figures_and_captions(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when trackio is imported: a process of its own
    config = unchanging(tmp_path, num_train_epochs=1, logging_steps=1, report_to="trackio")
    process = run("recipes/train.py", "--config", config)
    assert process.returncode == 0, process.stderr[-3000:]
    (database,) = (tmp_path / "trackio").glob("*.db")
    with contextlib.closing(sqlite3.connect(database)) as connection:
        logged = " ".join(row[0].decode() for row in connection.execute("SELECT metrics FROM metrics"))
    assert '"eval/cider"' in logged and "scenes-validation-000000" in logged


def test_encoder_decoder_with_a_feature_cache_end_to_end(encoder_decoder_run):
    # Features were read in half precision; the pictures themselves give the same captions.
    assert reload(encoder_decoder_run / "model", "caption") == captions_of(encoder_decoder_run)
    evaluation = run(
        *("recipes/evaluate.py", "--model", str(encoder_decoder_run), "--data", "scenes"),
        *("--scenes_image_size", "32", "--max_eval_images", "6"),
    )
    assert evaluation.returncode == 0, evaluation.stderr[-3000:]
    assert captions_of(encoder_decoder_run / "evaluation") == captions_of(encoder_decoder_run)


def test_cider_optimised_training_from_a_run_end_to_end(encoder_decoder_run, tmp_path, recipes, capsys):
    settings = FROM_CHECKPOINT
    config = write_config(
        tmp_path,
        "scst",
        **settings | {"max_train_images": 56, "max_caption_tokens": 12, "logging_steps": 2},
        model=str(encoder_decoder_run),
        strategy="frozen_encoder",
        feature_cache=True,
        cache_dir=str(tmp_path / "features"),
        output_dir=str(tmp_path / "run"),
        num_samples=3,
    )
    recipes["train_scst"](["--config", config, "--dry_run", "true"])
    assert "reference 1" in capsys.readouterr().out
    folder = recipes["train_scst"](["--config", config])
    output = capsys.readouterr().out
    assert "before" in output
    for name in ("run.json", "captions.jsonl", "metrics.json", "report.html", "README.md", "model"):
        assert (folder / name).exists(), name
    state = json.loads(next((folder / "checkpoints").glob("*/trainer_state.json")).read_text())
    assert all(entry["sample_tokens"] <= 12 for entry in state["log_history"] if "reward" in entry)
    recipes["train_scst"](["--config", config])
    assert "is done: BLEU-4" in capsys.readouterr().out


def test_cider_optimised_training_keeps_prompt_and_decoding_it_was_given(llava_runs, tmp_path, recipes):
    config = write_config(
        tmp_path,
        "scst",
        **FROM_CHECKPOINT,
        model=str(llava_runs[0] / "base"),
        prompt="say it",
        num_beams=2,
        max_new_tokens=5,
        max_steps=1,
        num_samples=2,
        output_dir=str(tmp_path / "run"),
    )
    run = recipes["train_scst"](["--config", config])
    # Whoever captions with the model later asks it by the prompt that it was trained with.
    assert caption_prompt(AutoProcessor.from_pretrained(run / "model", backend="pil")) == "say it"
    decoding = json.loads((run / "model" / "generation_config.json").read_text())
    assert [decoding[name] for name in ("num_beams", "early_stopping", "max_new_tokens")] == [2, True, 5]
    measured = json.loads((run / "metrics.json").read_text())["decoding"]
    assert (measured["num_beams"], measured["max_new_tokens"]) == (2, 5)
    before = json.loads((llava_runs[0] / "base" / "model" / "generation_config.json").read_text())
    assert {name for name in before if before[name] != decoding.get(name)} == {
        *("num_beams", "early_stopping", "max_new_tokens")
    }


def test_preference_training_from_a_run_end_to_end(encoder_decoder_run, tmp_path, recipes, capsys):
    config = write_config(
        tmp_path,
        "dpo",
        **FROM_CHECKPOINT | {"logging_steps": 2},
        model=str(encoder_decoder_run),
        strategy="frozen_encoder",
        feature_cache=True,
        cache_dir=str(tmp_path / "features"),
        output_dir=str(tmp_path / "run"),
        rejected="corrupted",
        references=2,
    )
    recipes["train_dpo"](["--config", config, "--dry_run", "true"])
    output = capsys.readouterr().out
    assert "reference 4" in output and "reference 5" not in output
    folder = recipes["train_dpo"](["--config", config])
    assert "before" in capsys.readouterr().out
    assert captions_of(folder, "caption_before") == captions_of(encoder_decoder_run)
    state = json.loads(next((folder / "checkpoints").glob("*/trainer_state.json")).read_text())
    assert any("rewards/margins" in entry for entry in state["log_history"])
    card = (folder / "README.md").read_text()
    assert "| objective | preferences (DPO), beta 0.1; rejected captions: references with one word exchanged |" in card
    recipes["train_dpo"](["--config", config])
    assert "is done: BLEU-4" in capsys.readouterr().out


def test_preference_training_on_data_without_pairs_is_refused(llava_runs, tmp_path, recipes):
    config = write_config(tmp_path, "dpo", **FROM_CHECKPOINT, model=str(llava_runs[0] / "base"))
    with refused(option="rejected", says="--rejected corrupted"):
        recipes["train_dpo"](["--config", config, "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("recipe", ["train", "train_scst", "train_dpo"])
def test_lora_leaves_an_adapter_and_what_it_merges_to(recipe, llava_runs, tmp_path, recipes):
    config = write_config(
        tmp_path,
        "lora",
        **FROM_CHECKPOINT,
        model=str(llava_runs[0] / "base"),
        strategy="lora",
        max_steps=2,
        output_dir=str(tmp_path / "run"),
        **{"rejected": "corrupted"} if recipe == "train_dpo" else {},
    )
    folder = recipes[recipe](["--config", config])
    assert not (folder / "model").exists()
    assert json.loads((folder / "metrics.json").read_text())["model_artifact"] == "merged"
    assert reload(folder / "merged", "caption") == captions_of(folder)
    changed = load_file(folder / "merged" / "model.safetensors")
    base = load_file(llava_runs[0] / "base" / "model" / "model.safetensors")
    assert any(not changed[name].equal(base[name]) for name in base if "q_proj" in name)
    assert {path.name for path in (folder / "adapter").glob("adapter_*")} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_cider_optimised_training_starts_from_a_captioner(recipes):
    with refused(option="model", got=None):
        recipes["train_scst"](["--data", "scenes"])


@pytest.mark.parametrize(
    ("option", "got"),
    [("streaming", True), ("max_row_tokens", 300), ("references", 2), ("label_smoothing_factor", 0.1)],
)
def test_cider_optimised_training_refuses_what_it_cannot_keep_to(option, got, llava_runs, recipes):
    with refused(option=option, got=got, fix="remove it"):
        recipes["train_scst"](["--model", str(llava_runs[0] / "base"), f"--{option}", str(got), "--max_steps", "1"])


def test_running_out_of_memory_in_the_last_evaluations_is_one_clear_line(llava_runs, tmp_path, recipes, monkeypatch):
    def run_out(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr("hfcap.training.results.evaluate_captioner", run_out)
    settings = FROM_CHECKPOINT | {"max_train_images": 8, "eval_strategy": "no", "save_strategy": "no"}
    settings |= {"load_best_model_at_end": False, "output_dir": str(tmp_path / "q")}
    config = write_config(tmp_path, "small", **settings, model=str(llava_runs[0] / "base"))
    with refused(WorkError, option="per_device_eval_batch_size", got=8, says="out of memory in an evaluation"):
        recipes["train_qlora"](["--config", config])
    assert (tmp_path / "q" / "merged" / "config.json").exists()


def test_a_run_does_not_start_from_an_adapter(llava_runs, tmp_path, recipes):
    for recipe in ("train", "train_scst", "train_qlora"):
        adapter = str(llava_runs[0] / "qlora" / "adapter")
        with refused(option="model", got=adapter, wanted="whole weights"):
            recipes[recipe](["--model", adapter, "--output_dir", str(tmp_path / "no")])


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (["--data", "nowhere/at/all"], {"says": "nowhere/at/all"}),
        (["--learning_rat", "1"], {"option": "--learning_rat", "fix": "did you mean 'learning_rate'?"}),
        (["--strategy", "full"], {"option": "feature_cache", "got": True, "says": "frozen_encoder"}),
        (["--strategy", "qlora"], {"option": "strategy", "got": "qlora", "says": "recipes/train_qlora.py"}),
        (["--strategy", "lora"], {"option": "strategy", "got": "lora", "says": "pass --model"}),
        (["--family", "encoder_decoder"], {"option": "family", "says": ("cross-attention", "llama")}),
        (
            ["--family", "encoder_decoder", "--strategy", "lora", "--decoder_config", '{"model_type": "gpt2"}'],
            {"option": "strategy", "got": "lora", "says": "hfcap_encoder_decoder"},
        ),
        (["--encoder_config", '{"model_type": "bit"}'], {"option": "encoder", "says": "encoder_config"}),
        (["--model", "base", "--encoder", "x"], {"option": "model", "says": "remove encoder, encoder_training, "}),
        (["--image_processor_config", '{"do_resize": false}'], {"option": "image_processor_config"}),
        (["--lora_r", "8"], {"option": "lora_r", "got": 8, "fix": "remove it, or set strategy: lora"}),
        (["--config", "no.yaml"], {"option": "--config", "got": "no.yaml", "says": "No such file"}),
    ],
)
def test_an_impossible_run_is_refused_with_one_line(arguments, fields, recipes):
    config = [] if "--config" in arguments else ["--config", "configs/train/scenes_base.yaml"]
    with refused(**fields):
        recipes["train"](config + arguments)


@pytest.mark.parametrize("recipe", ["train", "train_qlora", "train_scst"])
def test_a_model_that_is_not_there_is_named(recipe, tmp_path, recipes):
    config = write_config(tmp_path, "run", **FROM_CHECKPOINT, model="outputs/typo", output_dir=str(tmp_path / "run"))
    with refused(option="model", got="outputs/typo", says="no such folder"):
        recipes[recipe](["--config", config])


def test_a_model_named_on_the_command_line_is_not_trained_first(recipes):
    """The default configuration is that of the main job, whose base it trains where there is none."""
    with refused(option="model", got="outputs/typo", says="no such folder"):
        recipes["train_qlora"](["--model", "outputs/typo", "--output_dir", "outputs/none"])


@pytest.mark.parametrize("recipe", ["train_qlora", "train_scst"])
@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (["--image_size", "64"], {"option": "model", "fix": "remove image_size, or model"}),
        # Only who reads it can say that its key is wrong.
        (["--image_processor_config", '{"no_such_key": 1}'], {"got": {"no_such_key": 1}}),
    ],
)
def test_no_setting_is_left_unread(recipe, arguments, fields, llava_runs, tmp_path, recipes):
    config = write_config(tmp_path, "run", **FROM_CHECKPOINT, model=str(llava_runs[0] / "base"))
    with refused(**fields):
        recipes[recipe](["--config", config, "--output_dir", str(tmp_path / "run"), *arguments])


@pytest.mark.parametrize(("recipe", "more"), [("train_qlora", []), ("train", ["--strategy", "lora"])])
def test_decoding_settings_of_an_adapter_are_refused(recipe, more, llava_runs, tmp_path, recipes):
    config = write_config(tmp_path, "run", **FROM_CHECKPOINT, model=str(llava_runs[0] / "base"))
    with refused(option="num_beams", got=5):
        recipes[recipe](["--config", config, "--output_dir", str(tmp_path / "run"), "--num_beams", "5", *more])


def test_a_refusal_is_exit_code_2_without_a_traceback():
    process = run("recipes/train.py", "--config", "no.yaml")
    assert process.returncode == 2
    assert process.stderr.strip().splitlines()[-1] == (
        "error: --config is 'no.yaml': No such file or directory; pass a YAML file"
    )
    assert "Traceback" not in process.stderr


def test_an_encoder_is_done_when_its_weights_are_written(recipes, tmp_path, monkeypatch):
    """Its scores say so: one that was killed while it saved must not be taken for whole."""
    weights, written = tmp_path / "run" / "model" / "model.safetensors", []

    def write_json(path, record):
        written.append(("scores" in record, weights.exists()))
        write(path, record)

    write = train_encoder.write_json
    monkeypatch.setattr(train_encoder, "write_json", write_json)
    settings = {key: FROM_CHECKPOINT[key] for key in FROM_CHECKPOINT if key != "eval_caption_images"}
    settings |= {"encoder_config": TINY_ENCODER, "image_size": 32, "output_dir": str(tmp_path / "run")}
    recipes["train_encoder"](["--config", write_config(tmp_path, "encoder", **settings)])
    assert written == [(True, True)]
