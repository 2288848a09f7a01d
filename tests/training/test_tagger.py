"""Taggers: labels, exact loss, stock classifiers of encoders, cached features, calibration, refusals."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, EvalPrediction, set_seed

from hfcap.data.caption_dataset import CaptionDataset
from hfcap.data.scenes import load_scenes
from hfcap.models.image_classifier import (
    accept_pooled_features,
    classifier_of_encoder,
    classify,
    pooled_features,
    start_head,
)
from hfcap.training.data_arguments import DataArguments
from hfcap.training.tag_calibration import (
    apply_isotonic,
    calibrate,
    fit_isotonic,
    fit_temperature,
    read_temperatures,
    sigmoid,
    write_calibration,
)
from hfcap.training.tag_labels import check_classes, label_rows, split_for_calibration, unmeasured
from hfcap.training.tagger import LabelCollator, LabeledImages, TaggerTrainer, tag_loss, tag_metrics
from hfcap.training.tagger_arguments import TaggerArguments, TaggerTrainingArguments, check_tagger
from hfcap.training.tagger_features import TaggerFeatures, cache_tagger_features
from hfcap.training.tagger_steps import head_start, positive_weights
from refusals import refused
from tiny.parts import ENCODER_CONFIGS, IMAGE_SIZE, build_encoder, build_image_processor, build_llava, random_images
from tiny.training import STEPS_ALONE, KeepGradients

TAGS = ["star", "red"]


def star_or_red(captions):
    return {tag: any(tag in caption for caption in captions) for tag in TAGS}


@pytest.fixture(scope="module")
def rows():
    return load_scenes("train", 12, "caption", image_size=32)


@pytest.fixture
def labels(rows):
    labels = label_rows(rows, TAGS, star_or_red)
    labels[[0, 5, 6], [0, 1, 0]] = np.nan  # left out unevenly, so that a mean of means is another loss
    return labels


def steps(model, rows, labels, folder, **settings):
    data = LabeledImages(CaptionDataset(rows), labels)
    keep = KeepGradients()
    settings = {"max_steps": 1, "learning_rate": 0.0, "max_grad_norm": 0.0} | STEPS_ALONE | settings
    trainer = TaggerTrainer(
        model,
        args=TaggerTrainingArguments(output_dir=str(folder), **settings),
        train_dataset=data,
        eval_dataset=data,
        data_collator=LabelCollator(build_image_processor()),
        callbacks=[keep],
    )
    trainer.train()
    return keep.gradients


# ---- labels


def test_labels_of_a_column_and_of_captions(rows):
    tagged = rows.select(range(3)).add_column("tags", [["red"], [], ["red", "star"]])
    assert label_rows(tagged, TAGS, None).tolist() == [[0, 1], [0, 0], [1, 1]]
    answers = iter([{"star": True, "red": None}, {"star": False, "red": True}])
    said = label_rows(rows.select(range(2)), TAGS, lambda captions: next(answers))
    np.testing.assert_array_equal(said, [[1, np.nan], [0, 1]])


@pytest.mark.parametrize(
    ("tags", "got"), [([["red"], ["gnu"]], "gnu"), ([["red"], None], None)], ids=["unknown", "no list"]
)
def test_a_wrong_column_of_tags_is_refused(rows, tags, got):
    with refused(option=f"tags of {rows[1]['image_id']!r}", got=got):
        label_rows(rows.select(range(2)).add_column("tags", tags), TAGS, None)


def test_one_picture_with_two_sets_of_tags_is_refused(rows):
    twice = rows.select([0, 0]).remove_columns("image_id").add_column("image_id", ["a", "b"])
    with refused(option="tags of 'b'", says=("same picture as 'a'", "red")):
        label_rows(twice.add_column("tags", [["red"], ["star"]]), TAGS, None)


def test_a_tag_of_one_class_is_refused_in_training_and_left_out_of_the_figures():
    labels = np.array([[1, 0], [1, 0], [0, 0], [0, np.nan]])
    with refused(option="policy", says=("red has 0 pictures with it", "train split")):
        check_classes(labels, TAGS, "train")
    assert unmeasured(labels, TAGS) == ["red"]


def test_a_picture_calibrates_or_trains_whatever_its_id(rows):
    kept, held = split_for_calibration(rows, 0.4, seed=1)
    assert sorted(kept + held) == list(range(len(rows)))
    assert kept
    assert held
    renamed = rows.remove_columns("image_id").add_column("image_id", [str(i) for i in range(len(rows))])
    assert split_for_calibration(renamed, 0.4, seed=1) == (kept, held)
    assert split_for_calibration(rows, 0.0, seed=1)[1] == []


def test_labels_go_by_row_since_two_splits_may_share_an_image_id(rows, labels):
    data = LabeledImages(CaptionDataset(rows), labels)
    assert data[0]["labels"].tolist() == [-100, labels[0, 1]]
    assert data[2, 5]["labels"].tolist() == [labels[5, 0], -100]  # as a sampler asks: (epoch, index)
    same_ids = rows.select([1]).remove_columns("image_id").add_column("image_id", [rows[0]["image_id"]])
    other = LabeledImages(CaptionDataset(same_ids), labels[1:2])
    batch = LabelCollator(build_image_processor())([data[0], other[0]])
    assert batch["labels"][1].tolist() == labels[1].tolist()


# ---- loss


def test_loss_by_hand():
    logits, labels = torch.tensor([[0.0, 2.0], [1.0, -1.0]]), torch.tensor([[1.0, -100], [0, 1]])
    outputs = type("Outputs", (), {"logits": logits})
    each = [np.log(2), np.log1p(np.exp(1)), np.log1p(np.exp(1))]
    assert tag_loss(outputs, labels).item() == pytest.approx(np.sum(each) / 3)
    assert tag_loss(outputs, labels, 6).item() == pytest.approx(np.sum(each) / 6)
    weighted = tag_loss(outputs, labels, positive_weights=torch.tensor([3.0, 5.0]))
    assert weighted.item() == pytest.approx((3 * each[0] + each[1] + 5 * each[2]) / 3)
    focal = [loss * missed**2 for loss, missed in zip(each, (0.5, sigmoid(1), sigmoid(1)), strict=True)]
    assert tag_loss(outputs, labels, focal_gamma=2.0).item() == pytest.approx(np.sum(focal) / 3)


@pytest.mark.parametrize("size", [4, 2, 1])
def test_loss_is_exact_for_any_split_of_a_step(rows, labels, size, tmp_path):
    rows, labels = rows.select(range(8)), labels[:8]

    def gradients(batch):
        set_seed(0)
        model = classifier_of_encoder(build_encoder("mobilenet_v2"), TAGS)
        return steps(
            model,
            rows,
            labels,
            tmp_path / str(batch),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=8 // batch,
        )

    whole, parts = gradients(8), gradients(size)
    assert whole.keys() == parts.keys()
    largest = max(gradient.abs().max().item() for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-5 * largest, msg=name)


def test_weights_and_the_start_of_a_head():
    labels = np.array([[1, 0], [0, 0], [0, 1], [np.nan, 0]], dtype=np.float32)
    torch.testing.assert_close(positive_weights(labels), torch.tensor([2.0, 3.0]))
    np.testing.assert_allclose(head_start(labels, "plain"), [1 / 3, 1 / 4])
    np.testing.assert_allclose(head_start(labels, "weighted"), [0.5, 0.5])
    model = classifier_of_encoder(build_encoder("vit"), TAGS)
    start_head(model, [0.25, 0.01])
    with torch.no_grad():
        found = torch.sigmoid(model(random_images(3)).logits)
    torch.testing.assert_close(found, torch.tensor([[0.25, 0.01]] * 3))


def test_metrics_leave_out_unknown_labels():
    labels = np.array([[1.0, 0], [-100, 0], [0, 0]])
    found = tag_metrics(EvalPrediction(np.array([[2.0, 0], [9, 0], [1, 0]]), labels))
    assert found["map"] == 1.0  # the second tag has no positive picture
    each = [np.log1p(np.exp(-2)), np.log1p(np.exp(1)), *[np.log(2)] * 3]
    assert found["log_loss"] == pytest.approx(np.mean(each))


# ---- classifiers


@pytest.mark.parametrize("name", sorted(ENCODER_CONFIGS))
def test_the_classifier_of_an_encoder_is_stock_and_has_its_weights(name, tmp_path):
    encoder = build_encoder(name)
    model = classifier_of_encoder(encoder, TAGS)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {"0": "star", "1": "red"}
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert type(loaded).__module__.startswith("transformers.")
    pictures = random_images(2)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pictures).logits, model(pictures).logits)
        features = pooled_features(model, pictures)
        torch.testing.assert_close(model.classifier(features), model(pictures).logits, rtol=1e-4, atol=1e-4)
    assert encoder.config.id2label != model.config.id2label  # the encoder's own settings stay


def test_an_encoder_without_a_stock_classifier_is_refused():
    encoder = AutoModel.from_config(AutoConfig.for_model("bert", hidden_size=8, num_attention_heads=1, vocab_size=9,
                                                         num_hidden_layers=1, intermediate_size=8))  # fmt: skip
    with refused(option="encoder", says="bert"):
        classifier_of_encoder(encoder, TAGS)


def test_maps_are_of_classifiers_that_pool_by_the_mean():
    model = classifier_of_encoder(build_encoder("mobilenet_v2"), TAGS)
    logits, maps = classify(model, random_images(2))
    assert maps.shape[:2] == (2, 2)
    means = maps.mean(dim=(2, 3)) + model.classifier.bias
    torch.testing.assert_close(means, logits, rtol=1e-4, atol=1e-4)
    assert classify(classifier_of_encoder(build_encoder("vit"), TAGS), random_images(2))[1] is None  # its CLS token


def test_a_head_on_cached_features_is_the_head_on_pictures(rows, labels, tmp_path):
    model = classifier_of_encoder(build_encoder("mobilenet_v2"), TAGS)
    processor = build_image_processor()
    cache = cache_tagger_features(model, processor, None, rows, str(tmp_path), dtype="float32")
    cached = LabeledImages(CaptionDataset(rows.select([3, 1]), TaggerFeatures(cache, [3, 1])), labels[[3, 1]])
    pictures = LabeledImages(CaptionDataset(rows), labels)
    collator = LabelCollator(processor)
    from_cache, from_pictures = collator([cached[0], cached[1]]), collator([pictures[3], pictures[1]])
    assert from_cache["pixel_values"].shape == (2, pooled_features(model, random_images(1)).shape[1])
    torch.testing.assert_close(from_cache["labels"], from_pictures["labels"])
    with torch.no_grad():
        wanted = model(from_pictures["pixel_values"]).logits
        accept_pooled_features(model)
        torch.testing.assert_close(model(from_cache["pixel_values"]).logits, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model(from_pictures["pixel_values"]).logits, wanted)


def test_the_feature_maps_of_a_captioner_are_read_and_not_computed_again(rows, tmp_path):
    captioner = build_llava("mobilenet_v2", image_size=IMAGE_SIZE)
    model = classifier_of_encoder(captioner.model.vision_tower, TAGS)
    cache = cache_tagger_features(model, build_image_processor(), captioner, rows, str(tmp_path), dtype="float32")
    tokens, _ = cache.shape
    assert tokens > 1  # maps, as the captioner's training keeps them
    pixels = build_image_processor()([rows[4]["image"]], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        wanted = pooled_features(model, pixels)
    torch.testing.assert_close(TaggerFeatures(cache, [4]).read(0), wanted, rtol=1e-4, atol=1e-5)


# ---- calibration


def test_temperature_and_isotonic_find_what_was_distorted(tmp_path):
    random = np.random.default_rng(0)
    true = random.normal(0, 2, 4000)
    truth = random.random(4000) < sigmoid(true)
    assert fit_temperature(3 * true, truth) == pytest.approx(3, rel=0.1)
    steps = fit_isotonic(3 * true, truth)
    assert (np.diff(steps[1]) > 0).all()
    assert np.abs(apply_isotonic(steps, 3 * true) - sigmoid(true)).mean() < 0.03
    labels = np.stack([truth, np.zeros(4000)], axis=1).astype(float)
    record = calibrate(np.stack([3 * true, true], axis=1), labels, TAGS)
    assert record["temperature"]["red"] == 1.0
    assert record["num_positive"] == {"star": int(truth.sum()), "red": 0}
    write_calibration(tmp_path, record)
    assert read_temperatures(tmp_path, TAGS)[0] == record["temperature"]["star"]
    with refused(option=str(tmp_path / "calibration.json"), says="blue"):
        read_temperatures(tmp_path, ["blue"])


def test_isotonic_by_hand():
    starts, shares = fit_isotonic(np.array([1.0, 2, 3, 4, 5]), np.array([0, 1, 0, 1, 1]))
    assert starts.tolist() == [1, 2, 4]
    assert shares.tolist() == [0, 0.5, 1]
    assert apply_isotonic((starts, shares), np.array([-9, 1.5, 2, 3.9, 4, 9])).tolist() == [0, 0, 0.5, 0.5, 1, 1]


# ---- settings


@pytest.mark.parametrize(
    ("data", "tagger", "option"),
    [
        ({}, {"policy": None}, "policy"),
        ({}, {"encoder": None}, "encoder"),
        ({}, {"model": "outputs/run"}, "encoder"),
        ({}, {"encoder": None, "model": "outputs/run", "image_size": 32}, "image_size"),
        ({"streaming": True}, {}, "streaming"),
        ({"references": 1}, {}, "references"),
        ({"prompt": "caption"}, {}, "prompt"),
        ({}, {"strategy": "full", "feature_cache": True}, "feature_cache"),
        ({"crop": 0.5}, {"feature_cache": True}, "crop"),
        ({"color_jitter": 0.2}, {"feature_cache": True}, "color_jitter"),
        ({"crop": 0.5, "cached_crops": 2}, {}, "cached_crops"),
        ({"cached_crops": 2}, {"feature_cache": True}, "cached_crops"),
        ({}, {"encoder": None, "encoder_config": {"model_type": "bit"}}, "image_size"),
        ({}, {"encoder": None, "encoder_config": {"model_type": "bit"}, "image_size": 32}, "strategy"),
    ],
)
def test_settings_that_do_not_fit_are_refused(data, tagger, option, tmp_path):
    args = TaggerArguments(**{"encoder": "folder", "policy": "policy.yaml"} | tagger)
    with refused(option=option):
        check_tagger(DataArguments(**data), args, TaggerTrainingArguments(output_dir=str(tmp_path)), "ddp")


@pytest.mark.parametrize("backend", ["zero3", "fsdp1", "fsdp2"])
def test_an_engine_that_taggers_are_not_tested_on_is_refused(backend, tmp_path):
    args = TaggerArguments(encoder="folder", policy="policy.yaml")
    with refused(option="training engine", got=backend):
        check_tagger(DataArguments(), args, TaggerTrainingArguments(output_dir=str(tmp_path)), backend)


@pytest.mark.parametrize(
    "setting", [{"label_smoothing_factor": 0.1}, {"calibration_share": 0.7}, {"push_to_hub": True}]
)
def test_training_arguments_that_a_tagger_does_not_have(setting, tmp_path):
    ((option, got),) = setting.items()
    with refused(option=option, got=got):
        TaggerTrainingArguments(output_dir=str(tmp_path), **setting)
