import json
import logging
import os
import pickle
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image
from torch import nn

from hfcap.data import feature_store
from hfcap.data.features import VIEWS, FeatureCache, cache_features, find_encoder, hash_weights, mirror_is_true
from hfcap.data.pictures import load_picture
from hfcap.data.scenes import load_scenes

BLOCK = 4
NUM_IMAGES = 10


class TinyEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 8, stride=8)
        self.norm = nn.BatchNorm2d(5)

    def forward(self, pixel_values):
        return self.norm(self.convolution(pixel_values)).flatten(2).transpose(1, 2)  # (B, N, D)


class TinyModel(nn.Module):
    """Counts the images its encoder sees."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = TinyEncoder()
        self.config = SimpleNamespace(vision_feature_layer=-1)
        self.images_seen = 0

    def get_vision_features(self, pixel_values):
        self.images_seen += len(pixel_values)
        return self.encoder(pixel_values)


class TinyImageProcessor:
    def __init__(self, mean=0.5):
        self.mean = mean

    def to_dict(self):
        return {"mean": self.mean, "_name_or_path": "anywhere"}

    def __call__(self, images, return_tensors):
        assert return_tensors == "pt"
        values = np.stack([np.asarray(image, dtype=np.float32) for image in images]) / 255 - self.mean
        return {"pixel_values": torch.from_numpy(values).permute(0, 3, 1, 2)}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(feature_store, "IMAGES_PER_BLOCK", BLOCK)


@pytest.fixture(scope="module")
def scenes():
    return load_scenes("train", NUM_IMAGES, "caption", image_size=32)


def build(tmp_path, scenes, model=None, processor=None, **options):
    model = model or TinyModel()
    cache = cache_features(model, processor or TinyImageProcessor(), scenes, tmp_path, batch_size=3, **options)
    return cache, model.images_seen


def direct(scenes, row, view="plain"):
    picture = VIEWS[view](load_picture(scenes[row]["image"]))
    model = TinyModel().eval()
    with torch.no_grad():
        return model.get_vision_features(TinyImageProcessor()([picture], "pt")["pixel_values"])[0]


def test_features_equal_direct_computation_up_to_float16_rounding(tmp_path, scenes):
    cache, _ = build(tmp_path, scenes, views=("plain", "mirror"))
    assert len(cache) == NUM_IMAGES and cache.shape == (16, 5)
    worst = 0
    for view in ("plain", "mirror"):
        for row in range(NUM_IMAGES):
            got, wanted = cache.read(row, view), direct(scenes, row, view)
            assert got.dtype == torch.float32 and got.shape == (16, 5)
            # 2**-11 is the rounding; 1e-6 is for convolutions of another batch size.
            assert (got - wanted).abs().le(wanted.abs() * 2**-11 + 1e-6).all()
            worst = max(worst, (got - wanted).abs().max().item())
    assert worst > 1e-6  # else this is not float16, and the bound above was never tried
    assert not torch.equal(cache.read(0), cache.read(0, "mirror"))


def test_float32_is_exact_and_another_cache(tmp_path, scenes):
    build(tmp_path, scenes)
    cache, seen = build(tmp_path, scenes, dtype="float32")
    assert seen > 0
    torch.testing.assert_close(cache.read(7), direct(scenes, 7), rtol=1e-6, atol=1e-6)


def test_read_by_id_and_wrong_names(tmp_path, scenes):
    cache, _ = build(tmp_path, scenes)
    assert torch.equal(cache.read("scenes-train-000003"), cache.read(3))
    with pytest.raises(KeyError, match="nobody"):
        cache.read("nobody")
    with pytest.raises(IndexError):
        cache.read(NUM_IMAGES)
    with pytest.raises(ValueError, match="no view 'mirror'; it has: plain"):
        cache.read(0, "mirror")


def test_what_is_read_is_a_copy(tmp_path, scenes):
    for dtype in ("float16", "float32"):
        cache, _ = build(tmp_path, scenes, dtype=dtype)
        before = cache.read(0).clone()
        cache.read(0).zero_()
        assert torch.equal(cache.read(0), before)


def test_second_call_reads_and_does_not_run_the_encoder(tmp_path, scenes):
    first, seen = build(tmp_path, scenes)
    assert seen == NUM_IMAGES + 1  # one more tells the shape
    second, seen = build(tmp_path, scenes)
    assert seen == 0
    assert torch.equal(first.read(9), second.read(9))
    _, seen = build(tmp_path, scenes, views=("plain", "mirror"))
    assert seen == NUM_IMAGES + 1


def changed_weight():
    model = TinyModel()
    with torch.no_grad():
        model.encoder.convolution.weight[0, 0, 0, 0] += 1e-3
    return model


def changed_buffer():
    model = TinyModel()
    model.encoder.norm.running_mean += 1e-3
    return model


def changed_layer():
    model = TinyModel()
    model.config.vision_feature_layer = -2
    return model


@pytest.mark.parametrize("change", [changed_weight, changed_buffer, changed_layer])
def test_changed_model_misses(tmp_path, scenes, change):
    build(tmp_path, scenes)
    _, seen = build(tmp_path, scenes, model=change())
    assert seen == NUM_IMAGES + 1


def test_changed_preprocessing_misses(tmp_path, scenes):
    old, _ = build(tmp_path, scenes)
    new, seen = build(tmp_path, scenes, processor=TinyImageProcessor(mean=0.25))
    assert seen == NUM_IMAGES + 1
    assert not torch.equal(old.read(0), new.read(0))


def test_changed_pictures_or_order_miss_but_captions_do_not_matter(tmp_path, scenes):
    build(tmp_path, scenes)
    for other in (
        load_scenes("train", NUM_IMAGES, "caption", image_size=32, seed=1),
        scenes.select(range(NUM_IMAGES - 1)),
        scenes.select(list(reversed(range(NUM_IMAGES)))),
    ):
        assert build(tmp_path, other)[1] == len(other) + 1
    assert build(tmp_path, load_scenes("train", NUM_IMAGES, "alt_text", image_size=32))[1] == 0


def only_folder(tmp_path):
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    return folder


def truncate(folder):
    os.truncate(folder / "features.npy", 900)


def flip_bit_in_the_middle(folder):
    data = bytearray((folder / "features.npy").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "features.npy").write_bytes(data)


def damage_header(folder):
    data = (folder / "features.npy").read_bytes()
    (folder / "features.npy").write_bytes(data.replace(b"'<f2'", b"'<i2'"))


def delete_data(folder):
    (folder / "features.npy").unlink()


def delete_meta(folder):
    (folder / "meta.json").unlink()


def truncate_meta(folder):
    os.truncate(folder / "meta.json", 50)


def drop_field_of_meta(folder):
    meta = json.loads((folder / "meta.json").read_text())
    del meta["array"]["width"]
    (folder / "meta.json").write_text(json.dumps(meta))


def of_another_key(folder):
    meta = json.loads((folder / "meta.json").read_text())
    meta["array"]["key"] = "0" * 64
    (folder / "meta.json").write_text(json.dumps(meta))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "has 900 bytes, wanted 1728"),
        (flip_bit_in_the_middle, "block 1 of features.npy is damaged"),
        (damage_header, "another header"),
        (delete_data, "FileNotFoundError"),
        (delete_meta, None),
        (truncate_meta, "JSONDecodeError"),
        (drop_field_of_meta, "TypeError"),
        (of_another_key, "its key is 000"),
    ],
)
def test_damage_is_found_and_repaired(tmp_path, scenes, caplog, damage, message):
    good, _ = build(tmp_path, scenes)
    wanted = [good.read(row) for row in range(NUM_IMAGES)]
    damage(only_folder(tmp_path))
    with caplog.at_level(logging.INFO, logger="hfcap"):
        repaired, seen = build(tmp_path, scenes)
    assert seen == NUM_IMAGES + 1
    assert message is None or any(message in text for text in caplog.messages)
    assert all(torch.equal(repaired.read(row), wanted[row]) for row in range(NUM_IMAGES))
    assert build(tmp_path, scenes)[1] == 0


def test_large_files_are_checked_in_part_ends_included(tmp_path, scenes, monkeypatch):
    build(tmp_path, scenes)
    monkeypatch.setattr(feature_store, "VERIFY_AT_MOST", 2 * BLOCK * 16 * 5 * 2)
    data = bytearray((only_folder(tmp_path) / "features.npy").read_bytes())
    data[-1] ^= 1
    (only_folder(tmp_path) / "features.npy").write_bytes(data)
    assert build(tmp_path, scenes)[1] == NUM_IMAGES + 1


class DyingModel(TinyModel):
    """Kills its process, or raises, at its n-th image."""

    def __init__(self, dies_at):
        super().__init__()
        self.dies_at = dies_at

    def get_vision_features(self, pixel_values):
        features = super().get_vision_features(pixel_values)
        if self.images_seen >= self.dies_at:
            raise KeyboardInterrupt
        return features


def test_interrupted_build_goes_on_after_its_last_complete_block(tmp_path, scenes, caplog):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, scenes, model=DyingModel(1 + BLOCK + 3))
    folder = only_folder(tmp_path)
    assert not (folder / "meta.json").exists() and not (folder / "features.npy").exists()
    # What a kill in the middle of a write leaves: half a block and half a line of the journal.
    with open(folder / "features.npy.partial", "ab") as data, open(folder / "blocks.jsonl", "ab") as journal:
        data.write(b"half a block")
        journal.write(b"123")
    with caplog.at_level(logging.INFO, logger="hfcap"):
        cache, seen = build(tmp_path, scenes)
    assert seen == 1 + NUM_IMAGES - BLOCK
    assert any(f"going on after {BLOCK} of {NUM_IMAGES}" in text for text in caplog.messages)
    for row in range(NUM_IMAGES):
        torch.testing.assert_close(cache.read(row), direct(scenes, row), rtol=2**-10, atol=1e-6)
    assert sorted(path.name for path in folder.iterdir()) == ["features.npy", "meta.json"]


def test_damaged_partial_block_is_not_kept(tmp_path, scenes):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, scenes, model=DyingModel(1 + 2 * BLOCK + 1))
    partial = only_folder(tmp_path) / "features.npy.partial"
    data = bytearray(partial.read_bytes())
    data[-1] ^= 1  # in the second of two complete blocks
    partial.write_bytes(data)
    cache, seen = build(tmp_path, scenes)
    assert seen == 1 + NUM_IMAGES - BLOCK
    torch.testing.assert_close(cache.read(5), direct(scenes, 5), rtol=2**-10, atol=1e-6)


def run_script(tmp_path, body):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, signal, sys, time
            sys.path.insert(0, sys.argv[2])
            import test_features as here
            from hfcap.data import feature_store
            feature_store.IMAGES_PER_BLOCK = here.BLOCK
            folder = sys.argv[1]
            scenes = here.load_scenes("train", here.NUM_IMAGES, "caption", image_size=32)
            """
        )
        + textwrap.dedent(body)
    )
    command = [sys.executable, str(script), str(tmp_path / "cache"), os.path.dirname(__file__)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_build_killed_by_the_system_goes_on(tmp_path, scenes):
    process = run_script(
        tmp_path,
        """
        class Killed(here.TinyModel):
            def get_vision_features(self, pixel_values):
                if self.images_seen > 2 * here.BLOCK:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().get_vision_features(pixel_values)
        here.build(folder, scenes, model=Killed())
        """,
    )
    assert process.wait(60) == -9
    cache, seen = build(tmp_path / "cache", scenes)
    assert seen == 1 + NUM_IMAGES - 2 * BLOCK
    for row in range(NUM_IMAGES):
        torch.testing.assert_close(cache.read(row), direct(scenes, row), rtol=2**-10, atol=1e-6)


def test_of_two_processes_one_computes_and_both_read(tmp_path, scenes, caplog):
    process = run_script(
        tmp_path,
        """
        class Slow(here.TinyModel):
            def get_vision_features(self, pixel_values):
                print("computing", flush=True)
                time.sleep(0.3)
                return super().get_vision_features(pixel_values)
        cache, seen = here.build(folder, scenes, model=Slow())
        print(seen)
        """,
    )
    assert process.stdout.readline() == "computing\n"
    with caplog.at_level(logging.INFO, logger="hfcap"):
        cache, seen = build(tmp_path / "cache", scenes)
    assert seen == 0
    assert any("waiting for another process" in text for text in caplog.messages)
    assert process.communicate(timeout=60)[0].splitlines()[-1] == str(NUM_IMAGES + 1)
    torch.testing.assert_close(cache.read(9), direct(scenes, 9), rtol=2**-10, atol=1e-6)


def test_too_little_disk_is_said_with_both_numbers(tmp_path, scenes, monkeypatch):
    monkeypatch.setattr(feature_store.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"10 images need 0\.0 MB, but .* has 0\.0 MB free"):
        build(tmp_path, scenes)
    monkeypatch.setattr(feature_store.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2000))
    build(tmp_path, scenes)


def test_size_is_announced_first(tmp_path, scenes, caplog):
    with caplog.at_level(logging.INFO, logger="hfcap"):
        build(tmp_path, scenes)
    assert any("writing 0.0 MB of features of 10 images" in text for text in caplog.messages)


def test_values_beyond_float16_are_refused(tmp_path, scenes):
    model = TinyModel()
    with torch.no_grad():
        model.encoder.norm.bias.fill_(1e5)
    with pytest.raises(ValueError, match=r"not finite as float16 .*use dtype='float32'"):
        build(tmp_path, scenes, model=model)
    cache, _ = build(tmp_path, scenes, model=model, dtype="float32")
    assert cache.read(0).max() > 9e4


def test_encoder_is_in_eval_meanwhile_and_left_as_it_was(tmp_path, scenes):
    model = TinyModel()
    model.encoder.train()
    model.encoder.convolution.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cache, _ = build(tmp_path, scenes, model=model)
    assert model.encoder.training and model.encoder.norm.training and not model.encoder.convolution.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(cache.read(0), direct(scenes, 0), rtol=2**-10, atol=1e-6)


def rows_of(pictures):
    features = Features({"image_id": Value("string"), "image": ImageFeature(), "captions": List(Value("string"))})
    columns = {
        "image_id": [str(i) for i in range(len(pictures))],
        "image": pictures,
        "captions": [["x"]] * len(pictures),
    }
    return Dataset.from_dict(columns, features=features)


def test_pictures_that_cannot_be_used_are_named(tmp_path):
    good = Image.new("RGB", (32, 32))
    with pytest.raises(ValueError, match="picture of row 1 cannot be read"):
        build(tmp_path, rows_of([good, {"bytes": b"junk", "path": None}]))
    sizes = [good] * BLOCK + [Image.new("RGB", (64, 64))]
    with pytest.raises(ValueError, match=r"from row 4 on give features of \(64, 5\), row 0 of \(16, 5\)"):
        build(tmp_path, rows_of(sizes))


def test_greyscale_and_transparent_pictures_are_cached_as_load_picture_gives_them(tmp_path):
    rows = rows_of([Image.new("L", (32, 32), 99), Image.new("RGBA", (32, 32), (0, 0, 0, 0))])
    cache, _ = build(tmp_path, rows)
    for row in range(2):
        torch.testing.assert_close(cache.read(row), direct(rows, row), rtol=2**-10, atol=1e-6)


def test_wrong_choices_are_named(tmp_path, scenes):
    with pytest.raises(ValueError, match="unknown view 'upside_down': choose plain, mirror"):
        build(tmp_path, scenes, views=("upside_down",))
    with pytest.raises(ValueError, match="empty"):
        build(tmp_path, scenes, views=())
    with pytest.raises(ValueError, match="unknown dtype 'int8': choose float16, float32"):
        build(tmp_path, scenes, dtype="int8")


def test_pickle_is_small_and_reads(tmp_path, scenes):
    cache, _ = build(tmp_path, scenes)
    cache.read(0)
    pickled = pickle.dumps(cache)
    assert b"memmap" not in pickled and len(pickled) < 1500
    copy = pickle.loads(pickled)
    assert isinstance(copy, FeatureCache) and torch.equal(copy.read(2), cache.read(2))


def test_encoder_is_found_in_either_family():
    encoder = nn.Linear(1, 1)
    for model in (nn.Module(), nn.Module(), nn.Module()):
        with pytest.raises(ValueError, match="no vision encoder"):
            find_encoder(model)
    encoder_decoder, inner, llava = nn.Module(), nn.Module(), nn.Module()
    encoder_decoder.encoder = encoder
    inner.vision_tower = encoder
    llava.model = inner
    adapted = nn.Module()
    adapted.get_base_model = lambda: llava
    assert find_encoder(encoder_decoder) is find_encoder(llava) is find_encoder(adapted) is encoder


def test_weights_hash_sees_values_names_and_dtypes():
    base = nn.Linear(2, 2)
    same = nn.Linear(2, 2)
    same.load_state_dict(base.state_dict())
    assert hash_weights(base) == hash_weights(same)
    hashes = {hash_weights(base), hash_weights(nn.Sequential(same)), hash_weights(nn.Linear(2, 2))}
    assert len(hashes | {hash_weights(same.to(torch.bfloat16))}) == 4


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A dog runs over the bright grass .", True),
        ("A dog to the left of a tree", False),
        ("Right of the tree", False),
        ("the man on the left-hand side", False),
        ("the leftmost of three men", False),
        ("He raises his right hand.", False),
        ("a copyright sign, slightly upright, in the spotlight", True),
        ("bright leftovers", True),
    ],
)
def test_mirror_rule(caption, expected):
    assert mirror_is_true([caption]) is expected
    assert mirror_is_true(["a dog", caption]) is expected


def test_mirror_rule_agrees_with_scenes():
    rows = load_scenes("train", 60, "alt_text", image_size=32)
    for row in rows:
        sideways = any(f'"position": "{side}"' in row["scene"] for side in ("left", "right"))
        assert mirror_is_true(row["captions"]) == (not sideways)
