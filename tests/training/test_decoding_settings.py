"""Decoding settings: those of a pretrained part stay out, all are recorded, what cannot be saved is refused."""

import importlib
import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from hfcap import runs
from hfcap.data.caption_dataset import CaptionDataset
from hfcap.evaluation import evaluate_captioner
from hfcap.generation.caption import caption_rows, generate_tokens
from hfcap.generation.decoding import generate
from hfcap.generation.loading import load_captioner
from hfcap.models.model_types import spec_of
from hfcap.training.arguments import CaptionTrainingArguments, ModelArguments
from hfcap.training.build import build_captioner
from hfcap.training.collators import CaptionCollator
from hfcap.training.rewards import build_rewards
from hfcap.training.scst import ScstArguments, ScstTrainer
from hfcap.training.tokenizer_training import train_tokenizer
from refusals import refused
from tiny.captioners import TINY_ENCODER, TINY_LLAMA
from tiny.native import PROMPT
from tiny.training import STEPS_ALONE

# What Instruct models bring along, and more that a search or a sampler follows.
LEAKING = {
    "do_sample": True,
    "temperature": 0.6,
    "top_p": 0.9,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "no_repeat_ngram_size": 3,
    "num_return_sequences": 2,
    "max_length": 2048,
}
SMALL = ["--data", "scenes", "--scenes_image_size", "32", "--max_train_images", "8", "--max_eval_images", "4"]
TINY = [
    *SMALL,
    *["--encoder_config", json.dumps(TINY_ENCODER), "--image_size", "32", "--decoder_config", json.dumps(TINY_LLAMA)],
    *["--vocab_size", "350", "--max_steps", "1", "--per_device_train_batch_size", "4", "--use_cpu", "true"],
]


RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def recipe(monkeypatch):
    """Get a recipe as a module by its name."""
    monkeypatch.syspath_prepend(RECIPES)
    return importlib.import_module


@pytest.fixture
def decoder(tmp_path, scene_rows):
    """Folder of a language model whose settings are those of an Instruct model: sampling, penalties, two ends."""
    captions = [caption for own in scene_rows["captions"] for caption in own]
    tokenizer = train_tokenizer(captions, 350)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**TINY_LLAMA, vocab_size=len(tokenizer), **ids))
    model.generation_config = GenerationConfig(**LEAKING, **ids | {"eos_token_id": [ids["eos_token_id"], 7]})
    folder = tmp_path / "decoder"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_settings_of_a_pretrained_decoder_do_not_reach_the_captioner(decoder):
    model_args = ModelArguments(encoder_config=TINY_ENCODER, image_size=32, decoder=decoder)
    model, processor = build_captioner(model_args, CaptionTrainingArguments(use_cpu=True), [])
    tokenizer = processor.tokenizer
    assert (
        model.generation_config.to_diff_dict()
        == GenerationConfig(
            num_beams=3,
            length_penalty=1.0,
            no_repeat_ngram_size=0,
            max_new_tokens=40,
            early_stopping=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            suppress_tokens=[model.config.image_token_id],
        ).to_diff_dict()
    )


def change_saved(folder, **settings):
    """Write settings into the generation_config.json of a folder as somebody with an editor would."""
    path = Path(folder) / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.fixture
def save_tiny(tmp_path, build_tiny):
    """Save a tiny captioner of a family; returns its folder."""

    def save(family):
        for part in build_tiny(family):
            part.save_pretrained(tmp_path / family)
        return str(tmp_path / family)

    return save


@pytest.fixture
def captioner(save_tiny):
    """Folder of a tiny LLaVA-style captioner."""
    return save_tiny("llava")


def test_every_setting_that_made_the_captions_is_recorded(captioner, scene_rows):
    change_saved(captioner, repetition_penalty=1.3, bad_words_ids=[[5, 6]], min_new_tokens=2)
    model, processor = load_captioner(captioner)
    evaluation = evaluate_captioner(model, processor, CaptionDataset(scene_rows.select(range(2))), "Describe.")
    assert json.loads(json.dumps(evaluation.decoding)) == {
        "num_beams": 1,
        "length_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "max_new_tokens": 8,
        "early_stopping": False,
        "repetition_penalty": 1.3,
        "bad_words_ids": [[5, 6]],
        "min_new_tokens": 2,
        "suppress_tokens": [model.config.image_token_id],
    }


def test_a_checkpoint_that_samples_or_gives_several_captions_is_asked_for_one(captioner, scene_rows):
    change_saved(captioner, **LEAKING, num_beams=2, typical_p=0.9, output_scores=True, return_dict_in_generate=True)
    model, processor = load_captioner(captioner)
    data = CaptionDataset(scene_rows.select(range(4)))
    captions = [caption_rows(model, processor, data, "Describe.", batch_size=2) for _ in range(2)]
    assert len(captions[0]) == 4
    assert captions[0] == captions[1]
    model.save_pretrained(captioner)  # strict: transformers saves no setting that is without effect
    saved = json.loads((Path(captioner) / "generation_config.json").read_text())
    assert not {"temperature", "top_p", "min_p", "typical_p", "num_return_sequences"} & set(saved)


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.7}, {"length_penalty": 1.2}, {"top_k": 0}, {"early_stopping": True}]
)
def test_settings_without_effect_in_a_checkpoint_do_not_stop_a_save(captioner, settings, tmp_path):
    change_saved(captioner, **settings)
    model, _ = load_captioner(captioner)
    model.generation_config.max_new_tokens = 9  # transformers lets an unchanged file pass
    model.save_pretrained(tmp_path / "again")


@pytest.mark.parametrize("name", ["num_beam_groups", "stop_strings", "force_words_ids", "penalty_alpha"])
def test_searches_that_need_more_than_the_model_are_refused_by_name(captioner, name):
    values = {"num_beam_groups": 2, "stop_strings": ["."], "force_words_ids": [[5]], "penalty_alpha": 0.6}
    change_saved(captioner, num_beams=4, top_k=4, **{name: values[name]})
    with refused(option=name, got=values[name], says="generation_config.json"):
        load_captioner(captioner)
    change_saved(captioner, **{name: None if name != "num_beam_groups" else 1})
    load_captioner(captioner)


@pytest.mark.parametrize("dry", [True, False])
def test_settings_that_cannot_be_saved_are_refused_before_training(recipe, tmp_path, dry):
    argv = [*TINY, "--num_beams", "1", "--length_penalty", "1.2", "--output_dir", str(tmp_path / "run")]
    with refused(option="decoding settings", says=("length_penalty", "1.2", "num_beams")):
        recipe("train").main([*argv, *(["--dry_run"] if dry else [])])
    assert not (tmp_path / "run").exists()


def test_a_penalty_for_a_captioner_of_one_beam_is_refused(recipe, captioner, tmp_path):
    argv = [
        *SMALL,
        "--model",
        captioner,
        "--length_penalty",
        "1.2",
        "--output_dir",
        str(tmp_path / "run"),
        "--dry_run",
    ]
    with refused(option="decoding settings", says="length_penalty"):
        recipe("train_scst").main(argv)


@pytest.mark.slow
def test_one_beam_from_a_run_with_a_penalty_trains_and_saves(recipe, tmp_path):
    run = tmp_path / "run"
    recipe("train").main([*TINY, "--num_beams", "2", "--length_penalty", "1.2", "--output_dir", str(run)])
    more = ["--num_beams", "1", "--max_steps", "1", "--use_cpu", "true", "--num_samples", "2"]
    recipe("train_scst").main([*SMALL, "--model", str(run), *more, "--output_dir", str(tmp_path / "scst")])
    saved = json.loads((tmp_path / "scst" / "model" / "generation_config.json").read_text())
    assert saved["num_beams"] == 1
    assert saved.get("length_penalty", 1.0) == 1.0
    assert runs.read_metrics(tmp_path / "scst" / runs.METRICS_JSON)["decoding"]["num_beams"] == 1


def test_beams_with_guidance_are_those_of_stock_generate(build_tiny, scene_rows):
    """Guidance runs the model once more in each step, so its beams cannot share a prefix."""
    model, processor = build_tiny("llava")
    model.eval()
    pixels = processor.image_processor([scene_rows[0]["image"]], return_tensors="pt")["pixel_values"]
    text = processor.image_token * processor.image_seq_length + "Describe."
    inputs = dict(processor.tokenizer([text], return_tensors="pt")) | {"pixel_values": pixels}
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    settings = {"num_beams": 2, "guidance_scale": 1.5, "max_new_tokens": 5}
    with torch.no_grad():
        stock = model.generate(**inputs, **settings)
    assert generate(model, inputs, **settings).tolist() == stock.tolist()


@pytest.mark.parametrize("model_type", ["llava", "idefics3", "paligemma", "blip-2"])
def test_no_caption_and_no_sample_has_an_image_token(saved, rows, tmp_path, model_type, monkeypatch):
    """An image token in a caption stands for features that are not there: the next forward pass ends in an error."""
    model, processor = load_captioner(saved(model_type))
    image_id = model.config.image_token_id
    head = model.get_submodule(spec_of(model.config).head[0])

    def wants_images(module, inputs, logits):
        logits[..., image_id] += 20
        return logits

    head.register_forward_hook(wants_images)
    collator = CaptionCollator(processor, model.config, PROMPT, max_caption_tokens=6)
    args = ScstArguments(output_dir=str(tmp_path), num_samples=2, max_steps=1, learning_rate=1e-3, **STEPS_ALONE)
    data = CaptionDataset(rows)
    trainer = ScstTrainer(
        model=model,
        args=args,
        train_dataset=data,
        eval_dataset=data,
        data_collator=collator,
        processing_class=processor,
        rewards=build_rewards(["cider_d"], rows),
    )
    prefixes = [collator.prefix(data[index]) for index in range(2)]
    captions = generate_tokens(model, processor, prefixes, model.generation_config)
    assert not any(image_id in ids for ids in [*captions, *trainer.sample(model, prefixes)])
    trainer.train()
    assert math.isfinite(trainer.state.log_history[0]["train_loss"])


def test_guidance_of_an_encoder_decoder_is_refused(save_tiny):
    folder = save_tiny("encoder_decoder")
    change_saved(folder, guidance_scale=1.5)
    with refused(option="guidance_scale", got=1.5):
        load_captioner(folder)
