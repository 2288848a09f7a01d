"""`--dry_run --meta`: what is counted on the meta device is what the same model with weights needs on the CPU."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from hfcap.generation.loading import load_captioner, load_shapes
from hfcap.models.attention import uses_packed_sdpa
from hfcap.models.model_types import MODEL_TYPES
from hfcap.recipes import train, train_qlora, train_scst
from hfcap.training.collators import CaptionCollator
from hfcap.training.flops import needed_flops
from hfcap.training.loss import token_loss
from hfcap.training.meta_device import MetaKernels, RealIntegers, kept_for_backward
from hfcap.training.meta_run import unknown_fields
from hfcap.training.model_inputs import model_inputs
from hfcap.training.strategies import apply_strategy, parameter_table
from refusals import refused
from tiny.captioners import TINY_ENCODER, TINY_LLAMA
from tiny.native import LLAMA, PROMPT
from training.test_native_captioners import TYPES, case, prompt_of


def step(model, collator, rows):
    def forward():
        inputs = model_inputs(collator([rows[i] for i in range(4)]), model)
        labels = inputs.pop("labels")
        return token_loss(model(**inputs), labels)

    return forward


def without_weights(folder, destination):
    """What a user has of a repository before its weights."""
    destination = Path(destination)
    shutil.copytree(folder, destination, ignore=shutil.ignore_patterns("*.safetensors", "generation_config.json"))
    return destination


@pytest.mark.parametrize("model_type", [case(model_type, fast=True) for model_type in TYPES])
def test_memory_and_operations_are_those_of_the_model_with_weights(model_type, saved, rows, tmp_path):
    """In float32 and under autocast, to the byte."""
    real, processor = load_captioner(saved(model_type))
    meta, _ = load_shapes(str(without_weights(saved(model_type), tmp_path / "model")))
    collator = CaptionCollator(processor, real.config, prompt_of(model_type))
    for model in (real, meta):
        apply_strategy(model, MODEL_TYPES[model_type].strategies[1])  # the encoder keeps nothing
    assert all(parameter.is_meta for parameter in meta.parameters())
    assert parameter_table(meta) == parameter_table(real)
    for bf16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16), uses_packed_sdpa(real):
            expected = kept_for_backward(real.train(), step(real, collator, rows))
        with RealIntegers(), MetaKernels(bf16), uses_packed_sdpa(meta):
            counted = kept_for_backward(meta.train(), step(meta, collator, rows))
        assert counted == expected
    flops = needed_flops(real, step(real, collator, rows))
    with RealIntegers(), MetaKernels(bf16=False):
        assert needed_flops(meta, step(meta, collator, rows)) == flops


def test_with_checkpointing_a_layer_more_keeps_its_input(saved, rows, tmp_path):
    kept = []
    for layers in (2, 5):
        folder = without_weights(saved("llava", text=LLAMA | {"num_hidden_layers": layers}), tmp_path / str(layers))
        model, processor = load_shapes(str(folder))
        apply_strategy(model, "frozen_encoder")
        collator = CaptionCollator(processor, model.config, PROMPT)
        positions = collator([rows[i] for i in range(4)])["segment_ids"].numel()
        with RealIntegers(), MetaKernels(bf16=False):
            kept.append(kept_for_backward(model.train(), step(model, collator, rows), checkpointing=True))
    assert kept[1] - kept[0] == 3 * positions * 32 * 4


@pytest.fixture
def photos(rows, tmp_path):
    """A folder of pictures beside their captions."""
    for split in ("train", "validation"):
        (tmp_path / "photos" / split).mkdir(parents=True)
        for number in range(2, 6):
            rows[number]["image"].save(tmp_path / "photos" / split / f"{number}.png")
            (tmp_path / "photos" / split / f"{number}.txt").write_text("\n".join(rows[number]["captions"]))
    return tmp_path / "photos"


def dry(folder, photos, *more, recipe=train):
    options = {"model": folder, "data": photos, "prompt": PROMPT, "output_dir": photos.parent / "run"}
    options |= {"use_cpu": "true", "per_device_train_batch_size": 2}
    recipe.main([*(f"--{name}={value}" for name, value in options.items()), "--dry_run", "--meta", *more])


def test_a_run_is_described_without_weights(saved, photos, tmp_path, capsys):
    folder = without_weights(saved("idefics3"), tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    dry(folder, photos, "--strategy=lora")
    assert sorted(tmp_path.rglob("*")) == before
    text = capsys.readouterr().out
    model = apply_strategy(load_captioner(saved("idefics3"))[0], "lora")
    assert parameter_table(model) in text
    assert "images: 20 tokens each" in text  # four pieces and the whole
    assert "memory, computed from shapes: " in text and "FLOPs for a batch" in text
    assert "fields of config.json" not in text

    dry(folder, photos, recipe=train_qlora)
    assert parameter_table(model) in capsys.readouterr().out


def changed(saved, tmp_path, **fields):
    """A captioner without weights, some fields of its config.json changed; `part__field` lies in a part."""
    folder = without_weights(saved("llava"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    for name, value in fields.items():
        part, _, field = name.rpartition("__")
        (config[part] if part else config)[field] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("fields", "option", "says"),
    [
        ({"image_token_index": 7, "image_token_id": 7}, "forward pass", "features and image tokens do not match"),
        ({"text_config__vocab_size": 300}, "vocab_size", "and the language model has 300 embeddings"),
        ({"vision_config__image_size": 64}, "forward pass", "Input image size"),
        ({"text_config__num_attention_heads": 5}, "model", "attention heads"),
        ({"vision_feature_layer": 9}, "forward pass", "index"),
        ({"text_config__hidden_act": "gelv"}, "config.json of", "gelv"),
    ],
)
def test_a_wrong_field_shows_without_weights(saved, photos, tmp_path, fields, option, says):
    folder = changed(saved, tmp_path, **fields)
    with pytest.raises(ValueError, match=option) as found:
        dry(folder, photos)
    assert says.lower() in str(found.value).lower() and "\n" not in str(found.value)


def test_a_field_that_no_class_has_is_named(saved, photos, tmp_path, capsys):
    dry(changed(saved, tmp_path, hiden_size=3, text_config__num_layer=2), photos)
    named = capsys.readouterr().out.partition("fields of config.json that transformers does not know: ")[2]
    assert set(named.strip().split(", ")) == {"hiden_size", "text_config.num_layer"}
    assert unknown_fields(AutoModelForImageTextToText.from_pretrained(saved("llava")).config) == ""


def test_fields_that_version_4_wrote_everywhere_are_not_named(saved, tmp_path):
    """As the text_config of Salesforce/blip-image-captioning-base has them, beside a mistyped one."""
    config = json.loads((Path(saved("blip")) / "config.json").read_text())
    written = {"add_cross_attention": False, "cross_attention_hidden_size": None, "finetuning_task": None}
    written |= {"decoder_start_token_id": None, "prefix": None, "pruned_heads": {}, "task_specific_params": None}
    written |= {"tf_legacy_loss": False, "tie_encoder_decoder": False, "tokenizer_class": None, "torchscript": False}
    written |= {"tie_word_embeddings": True, "is_decoder": True, "use_bfloat16": False, "torch_dtype": None}
    written |= {"num_beams": 1, "do_sample": False, "max_length": 20, "_name_or_path": "", "top_k": 50}
    for part in ("text_config", "vision_config"):
        config[part] = written | config[part]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert unknown_fields(AutoConfig.from_pretrained(tmp_path)) == ""
    config["vision_config"]["hiden_size"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert unknown_fields(AutoConfig.from_pretrained(tmp_path)) == "vision_config.hiden_size"


def test_what_needs_weights_is_refused(saved, photos, tmp_path):
    folder = str(without_weights(saved("llava"), tmp_path / "model"))
    with refused(option="meta", got=True, fix="add --dry_run"):
        train.main([f"--model={folder}", "--data=scenes", "--meta"])
    with refused(option="feature_cache", got=True, fix="remove it"):
        dry(folder, photos, "--feature_cache=true", "--strategy=projector")
    with refused(option="meta", got=True, says="samples"):
        dry(folder, photos, recipe=train_scst)
    with refused(option="meta", got=True, says="parts"):
        parts = {"encoder_config": TINY_ENCODER, "decoder_config": TINY_LLAMA, "image_size": 32}
        parts = [f"--{name}={json.dumps(value)}" for name, value in parts.items()]
        train.main([*parts, f"--data={photos}", "--dry_run", "--meta", f"--output_dir={tmp_path / 'run'}"])
    model, _ = load_captioner(saved("llava"))
    apply_strategy(model, "lora").save_pretrained(tmp_path / "adapter")
    with refused(option="model", wanted="a model"):
        load_shapes(str(tmp_path / "adapter"))
