"""Native captioners learn and say the same from cached features of their frozen encoder as from the pictures."""

import logging

import pytest
import torch

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.data.features import PLAIN, cache_features
from hfcap.generation.caption import caption_rows
from hfcap.generation.inputs import keep_caption_prompt
from hfcap.generation.loading import load_captioner
from hfcap.models.model_types import MODEL_TYPES
from hfcap.models.vision_features import accept_cached_features, find_encoder
from hfcap.training.arguments import CaptionTrainingArguments, ModelArguments
from hfcap.training.collators import CaptionCollator
from hfcap.training.settings_checks import check_supported
from hfcap.training.strategies import TRAINED_PARTS, apply_strategy, part_of
from hfcap.training.trainer import CaptionTrainer
from refusals import refused
from tiny.native import PROMPT
from tiny.training import STEPS_ALONE, KeepGradients, fill_lora

TYPES = [name for name, spec in MODEL_TYPES.items() if spec.feature_input == "pixel_values"]
CASES = [
    pytest.param(
        model_type,
        strategy,
        packing,
        # One case a type, and every strategy of LLaVA, are fast.
        marks=[] if packing and (model_type == "llava" or strategy == "frozen_encoder") else pytest.mark.slow,
    )
    for model_type in TYPES
    for strategy in MODEL_TYPES[model_type].strategies
    if "encoder" not in TRAINED_PARTS[strategy]
    for packing in ((True, False) if MODEL_TYPES[model_type].packable else (True,))
]


def load(folder, strategy="frozen_encoder"):
    model, processor = load_captioner(folder, load_in_4bit=strategy == "qlora")
    if MODEL_TYPES[model.config.model_type].prompt != "none":
        keep_caption_prompt(processor, PROMPT)
    torch.manual_seed(0)
    model = apply_strategy(model, strategy, lora_r=4)
    fill_lora(model)
    return model, processor


def prompt_of(model):
    return None if MODEL_TYPES[model.config.model_type].layout == "encoder_decoder" else PROMPT


def cache(model, processor, rows, folder):
    """Cached features, and an encoder that no picture can go through any more."""
    features = cache_features(model, processor, rows, folder, dtype="float32")
    accept_cached_features(model)
    with torch.no_grad():
        for parameter in find_encoder(model).parameters():
            parameter.fill_(torch.nan)
    return features


def one_step(model, processor, rows, features, folder, packing):
    """Loss and gradients of an optimizer step of the real trainer, and what its evaluation says before that step."""
    data, keep = CaptionDataset(rows, features), KeepGradients()
    trainer = CaptionTrainer(
        model=model,
        args=CaptionTrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            max_steps=1,
            max_grad_norm=1e9,
            logging_steps=1,
            eval_caption_images=8,
            **STEPS_ALONE,
        ),
        train_dataset=data,
        eval_dataset=data,
        data_collator=CaptionCollator(processor, model.config, prompt_of(model), packing),
        processing_class=processor,
        callbacks=[keep],
    )
    judged = trainer.evaluate()
    trainer.train()
    return trainer.state.log_history[-2]["loss"], keep.gradients, judged, trainer.sample_captions


@pytest.mark.parametrize(("model_type", "strategy", "packing"), CASES)
def test_loss_gradient_and_evaluation_are_those_of_the_pictures(model_type, strategy, packing, saved, rows, tmp_path):
    expected = one_step(*load(saved(model_type), strategy), rows, None, tmp_path / "a", packing)
    model, processor = load(saved(model_type), strategy)
    features = cache(model, processor, rows, tmp_path / "features")
    loss, gradients, judged, captions = one_step(model, processor, rows, features, tmp_path / "b", packing)
    assert loss == pytest.approx(expected[0], rel=1e-5)
    assert gradients.keys() == expected[1].keys()
    # The bias of keys has a gradient of zero, and noise instead: compare that with the others.
    floor = 1e-3 * max(gradient.norm() for gradient in gradients.values())
    for name, gradient in expected[1].items():
        assert (gradients[name] - gradient).norm() <= 1e-5 * max(gradient.norm(), floor), name
    assert judged["eval_loss"] == pytest.approx(expected[2]["eval_loss"], rel=1e-5)
    assert judged["eval_cider"] == pytest.approx(expected[2]["eval_cider"], abs=1e-9)
    assert captions == expected[3]


@pytest.mark.parametrize("model_type", TYPES)
def test_captions_are_those_of_the_pictures_greedy_and_with_beams(model_type, saved, rows, tmp_path):
    model, processor = load(saved(model_type))
    spec = MODEL_TYPES[model_type]
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # what a fresh model says hardly depends on the picture
            if part_of(name, spec) == "projector" or "crossattention" in name:
                parameter.mul_(8)
    prompt, settings = prompt_of(model), ({}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 1})
    pictures = [rows[i] for i in range(8)]
    expected = [caption_rows(model, processor, pictures, prompt, **s, max_new_tokens=8) for s in settings]
    assert len(set(expected[0])) > 1  # else they would not depend on the picture
    cached = CaptionDataset(rows, cache(model, processor, rows, tmp_path))
    assert [caption_rows(model, processor, cached, prompt, **s, max_new_tokens=8) for s in settings] == expected


def test_pictures_are_still_seen_and_the_model_is_saved_as_it_was(saved, rows, tmp_path):
    model, processor = load(saved("llava"))
    model.save_pretrained(tmp_path / "before")
    expected = caption_rows(model, processor, [rows[0]], PROMPT, max_new_tokens=8)
    accept_cached_features(model)
    assert caption_rows(model, processor, [rows[0]], PROMPT, max_new_tokens=8) == expected
    model.save_pretrained(tmp_path / "after")
    before, after = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("before", "after"))
    assert before == after and "model.safetensors" in before


def test_the_cache_belongs_to_encoder_layer_and_preprocessing_and_its_size_is_announced(saved, rows, tmp_path, caplog):
    def folder_of(strategy="frozen_encoder", change=lambda model, processor: None):
        model, processor = load(saved("llava"), strategy)
        with torch.no_grad():
            change(model, processor)
        with caplog.at_level(logging.INFO, logger="hfcap.data.features"):
            return cache_features(model, processor, rows, tmp_path).folders[PLAIN]

    def other_layer(model, processor):
        model.config.vision_feature_layer = -1

    def other_encoder(model, processor):
        next(find_encoder(model).parameters()).mul_(1.5)

    def other_pixels(model, processor):
        processor.image_processor.image_mean = [0.1, 0.2, 0.3]

    def other_language_model(model, processor):
        model.lm_head.weight.mul_(2)

    folder = folder_of()
    assert caplog.messages == [f"writing 0.0 MB of features of 8 images to {folder}"]  # 8 x 17 x 32 x 2 bytes
    for same in (("lora",), ("qlora",), ("projector", other_language_model)):
        assert folder_of(*same) == folder
    assert all("found in" in message for message in caplog.messages[1:])
    others = {folder_of("projector", change) for change in (other_layer, other_encoder, other_pixels)}
    assert len(others) == 3 and folder not in others


def test_what_does_not_fit_is_refused_with_one_line(saved, rows, tmp_path):
    for model_type in ("idefics3", "qwen2_5_vl", "llava_onevision", "git"):
        with refused(option="feature_cache", got=True, says=(model_type, "llava")):
            check_supported(ModelArguments(model="x", strategy="lora", feature_cache=True), model_type, "single")
    with refused(option="feature_cache", got=True, says="strategy 'full'"):
        check_supported(ModelArguments(strategy="full", feature_cache=True), "llava", "single")
    model, processor = load(saved("llava"))

    class WithSizes:
        def __call__(self, images, return_tensors):
            encoded = processor.image_processor(images=images, return_tensors=return_tensors)
            return {**encoded, "image_sizes": torch.tensor([[32, 32]] * len(images))}

        def to_dict(self):
            return {}

    with refused(option="feature_cache", says="image_sizes, pixel_values"):
        cache_features(model, WithSizes(), rows, tmp_path)
    model.config.vision_feature_layer = [-1, -2]
    with refused(option="vision_feature_layer", got=[-1, -2], says="feature_cache: false"):
        cache_features(model, processor, rows, tmp_path)
