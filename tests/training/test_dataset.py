"""What an epoch shows depends on (seed, epoch, image id) alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import ImageOps

from hfcap.baselines import WithoutPicture, most_frequent_caption
from hfcap.data.caption_dataset import CaptionDataset
from hfcap.models.vision_features import find_encoder
from hfcap.training import steps
from hfcap.training.arguments import ModelArguments
from hfcap.training.data_arguments import DataArguments
from hfcap.training.epoch_sampler import EpochSampler


def test_every_image_comes_once_an_epoch_in_an_order_of_its_own():
    sampler = EpochSampler(20, seed=3)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(index for _, index in first) == sorted(index for _, index in second) == list(range(20))
    assert [index for _, index in first] != [index for _, index in second]
    assert {epoch for epoch, _ in second} == {1}
    again = EpochSampler(20, seed=3)
    again.set_epoch(1)
    assert list(again) == second


def test_drawn_references_are_drawn_anew_each_epoch_and_the_same_on_resume(scene_rows):
    data = CaptionDataset(scene_rows, references=2, seed=1)
    epochs = [tuple(data[(epoch, 5)]["captions"]) for epoch in range(8)]
    assert all(len(captions) == 2 and set(captions) <= set(scene_rows[5]["captions"]) for captions in epochs)
    assert len(set(epochs)) > 2
    assert epochs == [tuple(CaptionDataset(scene_rows, references=2, seed=1)[(e, 5)]["captions"]) for e in range(8)]


def test_pictures_are_mirrored_only_where_no_caption_names_a_side(scene_rows):
    rows = scene_rows.select(range(2))
    captions = [["a dog", "a black dog"], ["a dog on the left", "a dog"]]
    rows = rows.remove_columns("captions").add_column("captions", captions)
    data = CaptionDataset(rows, mirror=True, seed=0)
    plain = [np.asarray(row["image"]) for row in rows]
    flipped = [np.asarray(ImageOps.mirror(row["image"])) for row in rows]
    seen = [{np.asarray(data[(epoch, i)]["image"]).tobytes() for epoch in range(12)} for i in range(2)]
    assert seen[0] == {plain[0].tobytes(), flipped[0].tobytes()}
    assert seen[1] == {plain[1].tobytes()}


def test_a_cache_of_another_data_set_is_refused(scene_rows):
    with pytest.raises(ValueError, match="holds 3 images, the data set 24"):
        CaptionDataset(scene_rows, features=[0, 1, 2])


def test_metrics_of_images_find_them_beside_a_feature_cache(scene_rows):
    data = CaptionDataset(scene_rows, features=range(len(scene_rows)))
    assert "image" not in data.rows.column_names and "image" in data.with_images.column_names
    assert "image" in WithoutPicture(data).with_images.column_names


def test_blind_rows_show_nothing_and_keep_their_references(scene_rows):
    blind = WithoutPicture(CaptionDataset(scene_rows))
    assert len(blind) == len(scene_rows)
    assert blind[0]["captions"] == scene_rows[0]["captions"]
    assert blind[0]["image"].getextrema() == ((128, 128),) * 3
    assert most_frequent_caption(["b", "a", "b", "a", "c"]) == "a"


def test_cached_features_are_computed_on_the_device_of_the_run(build_tiny, scene_rows, tmp_path, monkeypatch):
    """A model is loaded onto the CPU, and the trainer moves it later; a GPU would look on."""
    (model, processor), happened = build_tiny("encoder_decoder"), []
    build = steps.cache_features
    monkeypatch.setattr(steps, "cache_features", lambda *a, **k: happened.append("features") or build(*a, **k))
    find_encoder(model).to = happened.append
    model_args = ModelArguments(strategy="frozen_encoder", feature_cache=True, cache_dir=str(tmp_path))
    args = SimpleNamespace(device=torch.device("cuda", 3), seed=0, dry_run=False)
    rows = (scene_rows, scene_rows)
    run = steps.Run(tmp_path, DataArguments(data="scenes"), model_args, args, rows, base=None, is_done=False)
    data = steps.caption_datasets(run, model, processor)
    assert happened == [args.device, "features", "features", torch.device("cpu")]
    assert all("vision_features" in part[0] for part in data.values())
