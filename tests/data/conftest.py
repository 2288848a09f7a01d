import pytest

from hfcap.data import feature_store
from hfcap.data.scenes import load_scenes
from tiny.cached_encoder import BLOCK, NUM_IMAGES


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(feature_store, "IMAGES_PER_BLOCK", BLOCK)


@pytest.fixture(scope="module")
def scenes():
    return load_scenes("train", NUM_IMAGES, "caption", image_size=32)
