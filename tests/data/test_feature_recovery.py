import json
import logging
import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch

from hfcap.data import feature_store
from hfcap.data.augmentation import View
from tiny.cached_encoder import BLOCK, NUM_IMAGES, TinyImageProcessor, TinyModel, build, direct

pytestmark = pytest.mark.usefixtures("small_blocks")


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


def test_build_interrupted_twice_keeps_the_blocks_of_both_runs(tmp_path, scenes):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, scenes, model=DyingModel(1 + BLOCK + 1))
    with open(only_folder(tmp_path) / "blocks.jsonl", "ab") as journal:
        journal.write(b"123")  # half a line, as a kill leaves it
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, scenes, model=DyingModel(1 + BLOCK + 1))
    _, seen = build(tmp_path, scenes)
    assert seen == 1 + NUM_IMAGES - 2 * BLOCK


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
            from tiny import cached_encoder as here
            from hfcap.data.scenes import load_scenes
            from hfcap.data import feature_store
            feature_store.IMAGES_PER_BLOCK = here.BLOCK
            folder = sys.argv[1]
            scenes = load_scenes("train", here.NUM_IMAGES, "caption", image_size=32)
            """
        )
        + textwrap.dedent(body)
    )
    command = [sys.executable, str(script), str(tmp_path / "cache"), os.path.dirname(os.path.dirname(__file__))]
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
                features = super().get_vision_features(pixel_values)
                if self.images_seen:  # more than the test picture, so the lock is held
                    print("computing", flush=True)
                    time.sleep(0.2)
                return features
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
    with pytest.raises(OSError, match=r"10 images, in 1 view, need 0\.0 MB, but .* has 0\.0 MB free"):
        build(tmp_path, scenes)
    monkeypatch.setattr(feature_store.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2000))
    build(tmp_path, scenes)


def test_the_disk_must_have_room_for_all_views_before_the_first_is_computed(tmp_path, scenes, monkeypatch, caplog):
    monkeypatch.setattr(feature_store.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2000))
    processor, views = TinyImageProcessor(side=32), [View(), View(crop=0.7, number=1), View(crop=0.7, number=2)]
    with pytest.raises(OSError, match=r"10 images, in 3 views, need .* fewer cached_crops"):
        build(tmp_path, scenes, processor=processor, views=views)
    assert not list(tmp_path.glob("*/features.npy"))
    build(tmp_path, scenes, processor=processor, views=views[:1])
    with pytest.raises(OSError, match="in 2 views"):
        build(tmp_path, scenes, processor=processor, views=views)
    monkeypatch.setattr(feature_store.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**9))
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="hfcap"):
        build(tmp_path, scenes, processor=processor, views=views)
    assert [text.endswith(" MB for 2 views)") for text in caplog.messages if "writing" in text] == [True, False]
