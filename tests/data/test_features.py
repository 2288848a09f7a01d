import copy
import itertools
import logging
import pickle

import pytest
import torch
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image
from torch import nn

from hfcap.data.augmentation import View, mirror_is_true
from hfcap.data.features import FeatureCache, cache_features, hash_weights
from hfcap.data.scenes import load_scenes
from hfcap.hub.formats import to_stock
from hfcap.models.vision_features import find_encoder
from tiny.cached_encoder import BLOCK, NUM_IMAGES, TinyImageProcessor, TinyModel, build, direct
from tiny.captioners import TINY_VIT

VIEWS = [View(), View(flipped=True), View(crop=0.6, number=1), View(True, 0.6, 2), View(crop=0.6, number=1, seed=7)]

pytestmark = pytest.mark.usefixtures("small_blocks")


def test_features_equal_direct_computation_up_to_float16_rounding(tmp_path, scenes):
    processor = TinyImageProcessor(side=32)
    cache, _ = build(tmp_path, scenes, processor=processor, views=VIEWS)
    assert len(cache) == NUM_IMAGES and cache.shape == (16, 5)
    worst = 0
    for view in VIEWS:
        for row in range(NUM_IMAGES):
            got, wanted = cache.read(row, view), direct(scenes, row, view, processor)
            assert got.dtype == torch.float32 and got.shape == (16, 5)
            # 2**-11 is the rounding; 1e-6 is for convolutions of another batch size.
            assert (got - wanted).abs().le(wanted.abs() * 2**-11 + 1e-6).all()
            worst = max(worst, (got - wanted).abs().max().item())
    assert worst > 1e-6  # else this is not float16, and the bound above was never tried
    for one, other in itertools.combinations(VIEWS, 2):
        assert any(not torch.equal(cache.read(row, one), cache.read(row, other)) for row in range(NUM_IMAGES))


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
    with pytest.raises(ValueError, match="no view mirror; it has: plain"):
        cache.read(0, View(flipped=True))


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
    _, seen = build(tmp_path, scenes, views=VIEWS[:2])
    assert seen == NUM_IMAGES + 1


def test_crops_belong_to_the_image_ids_and_whole_pictures_do_not(tmp_path, scenes):
    processor, views = TinyImageProcessor(side=32), [View(), View(crop=0.6, number=1)]
    first, _ = build(tmp_path, scenes, processor=processor, views=views)
    renamed = scenes.remove_columns("image_id").add_column("image_id", [f"other-{i}" for i in range(NUM_IMAGES)])
    second, _ = build(tmp_path, renamed, processor=processor, views=views)
    assert first.folders[views[0]] == second.folders[views[0]]
    assert first.folders[views[1]] != second.folders[views[1]]
    assert not all(torch.equal(first.read(row, views[1]), second.read(row, views[1])) for row in range(NUM_IMAGES))


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


class OtherVersion(TinyImageProcessor):
    """The same class name and settings, as a later version of a library has them, and other pixels."""

    def __call__(self, images, return_tensors):
        return {"pixel_values": super().__call__(images, return_tensors)["pixel_values"] * (1 + 2**-20)}


OtherVersion.__name__ = "TinyImageProcessor"


def test_changed_code_of_the_preprocessing_misses(tmp_path, scenes):
    build(tmp_path, scenes)
    _, seen = build(tmp_path, scenes, processor=OtherVersion())
    assert seen == NUM_IMAGES + 1
    assert len(list(tmp_path.glob("plain-*/meta.json"))) == 2


def test_changed_code_of_the_encoder_misses(tmp_path, scenes, monkeypatch):
    build(tmp_path, scenes)
    give = TinyModel.get_vision_features
    monkeypatch.setattr(TinyModel, "get_vision_features", lambda self, pixel_values: give(self, pixel_values) * 1.1)
    _, seen = build(tmp_path, scenes)
    assert seen == NUM_IMAGES + 1


def test_noise_of_another_device_does_not_miss(tmp_path, scenes, monkeypatch):
    build(tmp_path, scenes)
    give = TinyModel.get_vision_features
    monkeypatch.setattr(TinyModel, "get_vision_features", lambda self, pixels: give(self, pixels) * (1 + 1e-6))
    assert build(tmp_path, scenes)[1] == 0


def test_features_with_the_class_token_are_not_those_without(tmp_path, build_tiny, scene_rows):
    """Of hfcap_llava the cache holds what its projector gets; of stock LLaVA all tokens, which it drops later."""
    model, processor = build_tiny("llava", encoder_config=TINY_VIT)
    stock, _ = to_stock(copy.deepcopy(model), copy.deepcopy(processor))
    num_tokens = [cache_features(captioner, processor, scene_rows, tmp_path).shape[0] for captioner in (model, stock)]
    assert num_tokens == [16, 17]


def test_changed_pictures_or_order_miss_but_captions_do_not_matter(tmp_path, scenes):
    build(tmp_path, scenes)
    for other in (
        load_scenes("train", NUM_IMAGES, "caption", image_size=32, seed=1),
        scenes.select(range(NUM_IMAGES - 1)),
        scenes.select(list(reversed(range(NUM_IMAGES)))),
    ):
        assert build(tmp_path, other)[1] == len(other) + 1
    assert build(tmp_path, load_scenes("train", NUM_IMAGES, "alt_text", image_size=32))[1] == 0


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
    with pytest.raises(ValueError, match="no view"):
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
        ("ein Hund mit dem linken Ohr im Gras", False),
        ("ein recht großer Hund", True),
        ("un homme à droite d'un arbre", False),
        ("un chico levanta la mano izquierda", False),
        ("un cane a sinistra", False),
        ("слева стоит мужчина", False),
        ("رجل يرفع يده اليمنى", False),
        ("رجل على دراجة", True),
        ("左边的男孩。", False),
        ("一个男人骑着自行车。", True),
        ("犬が右を向いている", False),
        ("오른쪽에 있는 개", False),
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


def test_families_share_the_features_of_a_cnn(tmp_path, build_tiny, scene_rows, caplog):
    """They name its last map differently; of a ViT the names are different layers."""
    (first, processor), (second, other_processor) = build_tiny("encoder_decoder"), build_tiny("llava")
    find_encoder(second).load_state_dict(find_encoder(first).state_dict())
    settings = [(m.config.vision_feature_layer, m.config.vision_feature_select_strategy) for m in (first, second)]
    assert settings == [(None, "full"), (-1, "default")]
    cache_features(first, processor, scene_rows, tmp_path)
    with caplog.at_level(logging.INFO, logger="hfcap"):
        cache_features(second, other_processor, scene_rows, tmp_path)
    assert any("found in" in text for text in caplog.messages)
    second.config.vision_feature_layer = -2
    cache_features(second, other_processor, scene_rows, tmp_path)
    assert len(list(tmp_path.glob("plain-*/meta.json"))) == 2
