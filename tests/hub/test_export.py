"""`hfcap export`: what is in the folder, what stops an export, and that nothing is left of one that was stopped."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, ProcessorMixin

from hfcap import cli, runs
from hfcap.errors import VerificationError
from hfcap.generation.inputs import caption_prompt, keep_caption_prompt
from hfcap.generation.loading import load_processor
from hfcap.hub import export, verify
from hfcap.hub.export import export_run
from hfcap.models.model_types import MODEL_TYPES
from hfcap.training.merge import merge_adapter
from refusals import refused
from tiny.captioners import TINY_ENCODER
from tiny.native import BUILDERS, build_native

FORMATS = {"native": {}, "hfcap": {"encoder": TINY_ENCODER}}


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("family", ["llava", "encoder_decoder"])
@pytest.mark.parametrize("form", FORMATS)
def test_auto_takes_the_most_native_form(make_run, in_process, tmp_path, family, form, capsys):
    run = make_run(family, **FORMATS[form])
    (run / "model" / "training_args.bin").write_bytes(b"what Trainer leaves there")
    folder = export_run(run, tmp_path / "ready")
    record = json.loads((folder / "verification.json").read_text())
    assert (record["format"], record["artifact"]) == (form, "model")
    assert record["captions"] == {"compared": 8, "of": "8 pictures of scenes, validation"}
    assert {Path(name).suffix for name in names(folder)} <= {".safetensors", ".json", ".jinja"}
    shown = capsys.readouterr().out
    assert f"Format: {form} (" in shown
    assert str(folder) not in shown  # `hfcap export` names the folder; that of `hfcap push` is gone in the end
    assert not list(tmp_path.glob(".ready*"))


def test_large_weights_come_in_shards(make_run, in_process, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "MAX_SHARD_SIZE", "100KB")
    folder = export_run(make_run(), tmp_path / "ready")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert "model.safetensors" not in names(folder)


def test_a_stock_captioner_is_shipped_as_it_is(make_run, in_process, tmp_path):
    first = export_run(make_run(), tmp_path / "first")
    second = export_run(first, tmp_path / "second", "native")
    for name in ("model.safetensors", "config.json", "generation_config.json", "chat_template.jinja"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.parametrize(
    ("model_type", "prompt"),
    [
        (name, prompt)
        for name in BUILDERS
        for prompt in ("describe it", None)
        if MODEL_TYPES[name].prompt != "none" or not prompt
    ],
)
def test_native_captioners_stay_what_they_are(model_type, prompt, scene_rows, in_process, tmp_path):
    """What stock transformers say of the export is what `hfcap caption` says of the captioner."""
    captions = [caption for captions in scene_rows["captions"] for caption in captions]
    model, processor = build_native(model_type, captions)
    model.generation_config.update(max_new_tokens=6, num_beams=2)
    if prompt:
        keep_caption_prompt(processor, prompt)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "tuned")
    folder = export_run(tmp_path / "tuned", tmp_path / "ready")
    record = json.loads((folder / "verification.json").read_text())
    assert (record["format"], record["class"]) == ("native", type(model).__name__)
    assert json.loads((folder / "config.json").read_text())["model_type"] == model_type
    assert caption_prompt(load_processor(str(folder), MODEL_TYPES[model_type])) == prompt


def test_weights_in_another_dtype_are_judged_by_cider(make_run, in_process, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "NUM_JUDGED", 12)
    run = make_run()
    folder = export_run(run, tmp_path / "ready", dtype="bfloat16")
    record = json.loads((folder / "verification.json").read_text())
    assert record["dtypes"] == ["torch.bfloat16"]
    assert record["captions"]["compared"] == 12
    assert {"cider_before", "cider_after"} <= set(record["captions"])
    monkeypatch.setattr(verify, "compute_metrics", lambda *_, **__: {"cider": next(values)})
    values = iter([0.5, 0.0])
    with pytest.raises(VerificationError, match=r"fell from 50\.0 to 0\.0, more than the 2\.5 allowed"):
        export_run(run, tmp_path / "worse", dtype="bfloat16")
    assert not list(tmp_path.glob("*worse*"))


def test_a_change_of_dtype_needs_references(make_run, in_process, tmp_path):
    run = make_run()
    (run / runs.RUN_JSON).unlink()
    with refused(option="--dtype", says=("embedded drawings", "--pictures")):
        export_run(run, tmp_path / "ready", dtype="bfloat16")


def test_pictures_given_find_their_references_in_the_run(make_run, in_process, tmp_path, pictures, capsys):
    run = make_run()
    (run / runs.CAPTIONS_JSONL).write_text(
        "".join(
            json.dumps({"image_id": f"picture{index}", "caption": caption, "captions": ["a red dot"]}) + "\n"
            for index, caption in enumerate(["a dot", "", "a dot"])
        )
    )
    for index, picture in enumerate(pictures[:3]):
        picture.save(tmp_path / f"picture{index}.png")
    files = [str(tmp_path / f"picture{index}.png") for index in range(3)]
    command = ["export", str(run), "--to", str(tmp_path / "ready"), "--dtype", "bfloat16", "--pictures", *files]
    cli.main(command)
    record = json.loads((tmp_path / "ready" / "verification.json").read_text())
    assert record["captions"]["compared"] == 3
    assert capsys.readouterr().out.endswith(f"\nReady: {tmp_path / 'ready'}\n")


def test_a_picture_given_that_cannot_be_read_is_named(make_run, tmp_path, pictures):
    run = make_run()
    pictures[0].save(tmp_path / "half.jpg")
    whole = (tmp_path / "half.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    with refused(option="--pictures", got=str(tmp_path / "half.jpg"), says="OSError"):
        export_run(run, tmp_path / "ready", pictures=[tmp_path / "half.jpg"])
    assert names(tmp_path) == {"run", "half.jpg"}


def test_a_folder_that_cannot_be_made_is_one_line(make_run, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["export", str(make_run()), "--to", "/proc/ex"])
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: /proc/") and "No such file or directory" in error and error.count("\n") == 0


def spoil_weights(model, folder, **_):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[next(name for name in tensors if name.endswith("projector.linear_1.weight"))] += 1e-3
    save_file(tensors, file, metadata={"format": "pt"})


def spoil_settings(name, **changes):
    def spoil(_, folder, **__):
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return spoil


def spoil_image_processor(_, folder, **__):
    file = folder / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"]["image_mean"] = [0.0, 0.0, 0.0]
    file.write_text(json.dumps(settings))


def spoil_tokenizer(_, folder, **__):
    file = folder / "tokenizer.json"
    settings = json.loads(file.read_text())
    settings["normalizer"] = {"type": "Lowercase"}
    file.write_text(json.dumps(settings))


def lose_projector(_, folder, **__):
    file = folder / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(file).items() if "projector" not in name}
    save_file(tensors, file, metadata={"format": "pt"})


def untie(_, folder, **__):
    spoil_settings("config.json", tie_word_embeddings=False)(_, folder)
    settings = json.loads((folder / "config.json").read_text())
    settings["text_config"]["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(settings))
    file = folder / "model.safetensors"
    tensors = load_file(file)
    embeddings = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    tensors[embeddings.replace("model.embed_tokens", "lm_head")] = tensors[embeddings].clone()
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("saved", "spoil", "message"),
    [
        (PreTrainedModel, spoil_weights, r"model\.multi_modal_projector\.linear_1\.weight: other values than before"),
        (PreTrainedModel, lose_projector, r"missing keys when loading: model\.multi_modal_projector\.linear_1\.bias"),
        (PreTrainedModel, untie, r"no longer tied: lm_head\.weight and model\.language_model\.embed_tokens\.weight"),
        (
            PreTrainedModel,
            spoil_settings("generation_config.json", max_new_tokens=2),
            r"generation config: max_new_tokens was 8, is 2",
        ),
        (PreTrainedModel, spoil_settings("config.json", vision_feature_layer=-2), r"caption of picture \d: before"),
        (
            ProcessorMixin,
            lambda _, folder, **__: (folder / "chat_template.jinja").write_text("Describe: <image>"),
            r"chat template: expected .*, found 'Describe: <image>'",
        ),
        (ProcessorMixin, spoil_image_processor, r"image processor: image_mean was \[0\.5, 0\.5, 0\.5\], is \[0\.0"),
        (ProcessorMixin, spoil_tokenizer, r"tokenizer: vocabulary, merges and rules was"),
        (ProcessorMixin, spoil_settings("processor_config.json", num_additional_image_tokens=0), "Image features"),
    ],
)
def test_an_export_that_is_not_the_run_is_refused(make_run, in_process, tmp_path, monkeypatch, saved, spoil, message):
    run = make_run()
    save = saved.save_pretrained

    def save_and_spoil(self, folder, **kwargs):
        save(self, folder, **kwargs)
        spoil(self, folder)

    monkeypatch.setattr(saved, "save_pretrained", save_and_spoil)
    with pytest.raises((VerificationError, ValueError), match=message):
        export_run(run, tmp_path / "ready")
    assert not list(tmp_path.glob("*ready*")), "half an export was left"


def test_pickles_are_not_shipped(make_run, in_process, tmp_path, monkeypatch):
    save = PreTrainedModel.save_pretrained

    def save_and_pickle(self, folder, **kwargs):
        save(self, folder, **kwargs)
        torch.save({}, folder / "training_args.bin")

    run = make_run()
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save_and_pickle)
    with pytest.raises(VerificationError, match=r"training_args\.bin is no safetensors"):
        export_run(run, tmp_path / "ready")


def test_an_adapter_is_shipped_alone_for_a_base_on_the_hub(make_lora_run, in_process, tmp_path):
    run = make_lora_run()
    with refused(option="base of the adapter", says=("only this machine", "--base_model OWNER/NAME", "--merge")):
        export_run(run, tmp_path / "ready")
    with refused(option="base of the adapter", got="someone/base", fix="pass --base_model someone/base@REVISION"):
        export_run(run, tmp_path / "ready", base_model="someone/base")
    folder = export_run(run, tmp_path / "ready", base_model="someone/base@v1")
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("someone/base", "v1")
    assert any("multi_modal_projector" in name for name in load_file(folder / "adapter_model.safetensors"))
    assert not {"config.json", "model.safetensors", "README.md"} & names(folder)
    assert json.loads((folder / "verification.json").read_text())["format"] == "adapter"


def test_an_adapter_is_merged_into_a_stock_captioner(make_lora_run, in_process, tmp_path, capsys):
    run = make_lora_run()
    folder = export_run(run, tmp_path / "ready", merge=True)
    record = json.loads((folder / "verification.json").read_text())
    assert (record["format"], record["artifact"]) == ("native", "merged")
    assert "adapter_config.json" not in names(folder)
    assert "in its original precision" in capsys.readouterr().out


def test_a_merge_made_before_is_checked_against_base_and_adapter(make_lora_run, in_process, tmp_path, capsys):
    run = make_lora_run()
    merge_adapter(str(tmp_path / "base" / "model"), run / "adapter", run / "merged")
    export_run(run, tmp_path / "ready")
    assert "tensor by tensor" in capsys.readouterr().out
    file = run / "merged" / "model.safetensors"
    tensors = load_file(file)
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    tensors[name] = load_file(tmp_path / "base" / "model" / "model.safetensors")[name]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(VerificationError, match=r"layers\.0\.self_attn\.q_proj\.weight is as before the merge"):
        export_run(run, tmp_path / "again")


def test_wrong_wishes_are_refused(make_run, tmp_path):
    run = make_run()
    (tmp_path / "there").mkdir()
    with refused(option="--to", got=str(tmp_path / "there")):
        export_run(run, tmp_path / "there")
    with refused(option="--merge", fix="remove it"):
        export_run(run, tmp_path / "ready", merge=True)
    with refused(option="--format", got="gguf", says="one of auto, native"):
        export_run(run, tmp_path / "ready", "gguf")
    with refused(option="model", got=str(tmp_path / "there"), says="no model"):
        export_run(tmp_path / "there", tmp_path / "ready")
    with refused(option="--base_model", got="nowhere", says="OWNER/NAME"):
        export_run(run, tmp_path / "ready", base_model="nowhere")
