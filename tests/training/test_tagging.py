"""Words of captions as labels of pictures: which words, which loss, and an encoder that learns them."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, EvalPrediction, ViTImageProcessorPil, set_seed

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.data.scenes import load_scenes
from hfcap.models.image_features import encode_images
from hfcap.training.argument_checks import TAGGING_FIGURES
from hfcap.training.arguments import EncoderArguments, EncoderTrainingArguments
from hfcap.training.data_arguments import DataArguments
from hfcap.training.part_checks import check_encoder
from hfcap.training.tagging import CaptionTagger, TagCollator, TaggingTrainer, choose_words, tag_scores, words_of
from refusals import refused
from tiny.captioners import TINY_ENCODER
from tiny.training import STEPS_ALONE


@pytest.fixture
def encoder():
    set_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(**TINY_ENCODER))


@pytest.fixture
def image_processor():
    return ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def test_words_are_those_of_the_metrics():
    assert words_of(["A dog's ball, red.", "The BALL"]) == {"a", "dog", "'s", "ball", "red", "the"}


def test_words_of_nearly_all_images_or_of_hardly_any_are_left_out():
    captions = [["a cat"]] * 500 + [["a dog"]] * 499 + [["a gnu"]]
    assert choose_words(captions) == {"cat": 0.5, "dog": 0.499}


def test_captions_whose_words_tell_no_pictures_apart_are_refused():
    with refused(option="data", says=("words (2)", "images (1)")):
        choose_words([["a cat", "A cat."]])


def test_a_picture_is_tagged_by_its_best_patches(encoder):
    tagger = CaptionTagger(encoder, [0.5, 0.2, 0.9], image_size=32).eval()
    pixels, labels = torch.randn(2, 3, 32, 32), torch.tensor([[1.0, 0, 0], [0, 1, 1]])
    with torch.no_grad():
        outputs = tagger(pixels, labels)
        patches = tagger.head(encode_images(encoder, pixels))
    means = patches.exp().mean(dim=1)
    assert patches.shape == (2, 4, 3)
    torch.testing.assert_close(outputs["logits"], means.log())
    probability = torch.sigmoid(means.log())
    by_hand = [-math.log(p if y else 1 - p) for p, y in zip(probability.flatten(), labels.flatten(), strict=True)]
    assert outputs["loss"].item() == pytest.approx(np.mean(by_hand), rel=1e-5)


def test_a_tagger_begins_with_how_frequent_words_are(encoder):
    tagger = CaptionTagger(encoder, [0.5, 0.01], image_size=32).eval()
    with torch.no_grad():
        probabilities = torch.sigmoid(tagger(torch.randn(4, 3, 32, 32))["logits"])
    torch.testing.assert_close(probabilities, torch.tensor([[0.5, 0.01]] * 4), rtol=0.2, atol=0)


def test_rows_become_pixels_and_words(image_processor, scene_rows):
    rows = [{"image": row["image"], "captions": ["A red star.", "one star"]} for row in scene_rows.select(range(2))]
    batch = TagCollator(image_processor, ["blue", "red", "star"])(rows)
    assert batch["pixel_values"].shape == (2, 3, 32, 32)
    assert batch["labels"].tolist() == [[0, 1, 1]] * 2


def test_scores_by_hand():
    prediction = EvalPrediction(np.array([[2.0, -1.0, 0.5]]), np.array([[1.0, 1.0, 0.0]]))
    scores = tag_scores(prediction)
    assert scores == {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert set(TAGGING_FIGURES) == {"loss", *scores}


def test_an_encoder_learns_words_that_its_pictures_show(encoder, image_processor, tmp_path):
    rows = load_scenes("train", 64, "caption", image_size=32)
    words = choose_words(rows["captions"])
    assert {"red", "circle", "dark"} <= set(words)
    before = {name: weight.clone() for name, weight in encoder.named_parameters()}
    trainer = TaggingTrainer(
        model=CaptionTagger(encoder, words.values(), image_size=32),
        args=EncoderTrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=16,
            num_train_epochs=60,
            learning_rate=5e-3,
            **STEPS_ALONE,
        ),
        train_dataset=CaptionDataset(rows),
        eval_dataset=CaptionDataset(rows),
        data_collator=TagCollator(image_processor, words),
        compute_metrics=tag_scores,
    )
    trainer.train()
    # A tagger that does not look can do no better than say how frequent each word is.
    said = [words_of(captions) for captions in rows["captions"]]
    share = np.clip([np.mean([word in own for own in said]) for word in words], 1e-6, 1 - 1e-6)
    blind = np.mean(-share * np.log(share) - (1 - share) * np.log(1 - share))
    assert trainer.evaluate()["eval_loss"] < 0.95 * blind
    kept = [name for name, weight in encoder.named_parameters() if torch.equal(weight, before[name])]
    assert kept == ["layernorm.weight", "layernorm.bias"]  # ConvNeXt's norm of its pooled output, which is not used


@pytest.mark.parametrize(
    ("data", "encoder"),
    [
        ({}, {"encoder": None}),
        ({}, {"image_size": None}),
        ({"streaming": True}, {}),
        ({"references": 1}, {}),
        ({"prompt": "caption"}, {}),
        ({"crop": 0.7, "cached_crops": 2}, {}),
    ],
)
def test_settings_that_an_encoder_alone_does_not_have(data, encoder):
    args = EncoderArguments(**{"encoder": "folder", "image_size": 32} | encoder)
    option, got = list((data | encoder).items())[-1]
    with refused(option=option, got=got):
        check_encoder(DataArguments(**data), args, "ddp")


@pytest.mark.parametrize("backend", ["zero3", "fsdp2"])
def test_an_engine_that_divides_weights_is_refused(backend):
    args = EncoderArguments(encoder="folder", image_size=32)
    with refused(option="training engine", got=backend, says="encoder_training"):
        check_encoder(DataArguments(), args, backend)


def test_an_encoder_alone_is_not_published():
    with refused(option="push_to_hub", got=True):
        EncoderTrainingArguments(push_to_hub=True)
