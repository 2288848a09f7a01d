import pytest
import torch
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionModel,
    Dinov2WithRegistersConfig,
    ResNetConfig,
    SwinConfig,
)

from hfcap.models import encode_images, get_vision_config, load_vision_encoder, measure_image_features
from hfcap.models.image_features import get_feature_width, get_image_size, shuffle_patches
from tiny.parts import ENCODER_CONFIGS, IMAGE_SIZE, build_encoder, random_images

NUM_PREFIX_TOKENS = {"mobilenet_v2": 0, "convnext": 0, "vit": 1, "siglip": 0, "dinov2": 1}


@pytest.mark.parametrize("name", ENCODER_CONFIGS)
@torch.no_grad()
def test_features_are_the_patches_of_the_encoders_own_output(name):
    encoder, images = build_encoder(name), random_images(2)
    output = encoder(images).last_hidden_state
    full = encode_images(encoder, images, select_strategy="full")
    patches = encode_images(encoder, images, select_strategy="default")
    prefix = NUM_PREFIX_TOKENS[name]
    if output.ndim == 4:
        rows, columns = output.shape[2:]
        by_hand = torch.stack([output[:, :, row, column] for row in range(rows) for column in range(columns)], dim=1)
    else:
        by_hand = output
    torch.testing.assert_close(full, by_hand, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(patches, by_hand[:, prefix:], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("strategy", ["default", "full"])
@pytest.mark.parametrize("name", ENCODER_CONFIGS)
@torch.no_grad()
def test_measured_shape_is_what_encoding_gives(name, strategy):
    encoder = build_encoder(name)
    shape = measure_image_features(encoder, IMAGE_SIZE, select_strategy=strategy)
    features = encode_images(encoder, random_images(3), select_strategy=strategy)
    assert features.shape == (3, shape.num_tokens, shape.width)
    assert shape.num_tokens - shape.rows * shape.columns == (NUM_PREFIX_TOKENS[name] if strategy == "full" else 0)
    assert get_feature_width(encoder.config) in (shape.width, None)


def test_measuring_leaves_modes_and_batchnorm_alone():
    encoder = build_encoder("mobilenet_v2").train()
    encoder.layer[0].eval()
    modes = [module.training for module in encoder.modules()]
    buffers = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    measure_image_features(encoder, IMAGE_SIZE)
    assert [module.training for module in encoder.modules()] == modes
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in encoder.named_buffers())


@torch.no_grad()
def test_cnn_takes_oblong_pictures():
    encoder = build_encoder("convnext")
    shape = measure_image_features(encoder, (32, 64))
    assert (shape.rows, shape.columns, shape.num_tokens) == (2, 4, 8)


@torch.no_grad()
def test_register_tokens_are_dropped_with_cls():
    config = Dinov2WithRegistersConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8, num_register_tokens=3
    )
    encoder, images = AutoModel.from_config(config).eval(), random_images(1)
    patches = encode_images(encoder, images, select_strategy="default")
    torch.testing.assert_close(patches, encoder(images).last_hidden_state[:, 4:])


@torch.no_grad()
def test_merged_patches_keep_their_grid():
    encoder = AutoModel.from_config(SwinConfig(image_size=32, patch_size=2, window_size=2, embed_dim=12)).eval()
    shape = measure_image_features(encoder, IMAGE_SIZE, select_strategy="default")
    assert (shape.rows, shape.columns, shape.num_tokens) == (2, 2, 4)


@torch.no_grad()
def test_feature_layer_indexes_hidden_states():
    encoder, images = build_encoder("vit"), random_images(1)
    hidden_states = encoder(images, output_hidden_states=True).hidden_states
    for layer in (-1, -2, 1):
        torch.testing.assert_close(encode_images(encoder, images, feature_layer=layer), hidden_states[layer])


@torch.no_grad()
def test_last_layer_of_a_cnn_is_its_output():
    # The `hidden_states` of MobileNetV2 end before its last convolution.
    encoder, images = build_encoder("mobilenet_v2"), random_images(1)
    assert encoder(images, output_hidden_states=True).hidden_states[-1].shape[1] != 320
    features = encode_images(encoder, images, feature_layer=-1)
    assert torch.equal(features, encode_images(encoder, images))
    assert features.shape[2] == 320


def test_vision_tower_of_a_two_tower_checkpoint(tmp_path):
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20}
    clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=text)).eval()
    clip.save_pretrained(tmp_path)
    encoder = load_vision_encoder(str(tmp_path))
    assert isinstance(encoder, CLIPVisionModel)
    assert get_vision_config(clip.config) is clip.config.vision_config
    assert get_vision_config(encoder.config) is encoder.config
    images = random_images(1)
    with torch.no_grad():
        expected = clip.vision_model(images).last_hidden_state
        torch.testing.assert_close(encode_images(encoder, images), expected)


@pytest.mark.parametrize(("rows", "columns", "factor"), [(4, 4, 2), (7, 7, 2), (3, 5, 3), (4, 6, 1)])
def test_shuffled_patches_hold_the_features_of_their_block(rows, columns, factor):
    features = torch.randn(2, rows * columns, 3)
    merged = shuffle_patches(features, rows, columns, factor)
    merged_rows, merged_columns = -(-rows // factor), -(-columns // factor)
    assert merged.shape == (2, merged_rows * merged_columns, 3 * factor**2)
    grid = features.view(2, rows, columns, 3)
    for row in range(merged_rows):
        for column in range(merged_columns):
            token = merged[:, row * merged_columns + column].view(2, factor, factor, 3)
            for i in range(factor):
                for j in range(factor):
                    y, x = row * factor + i, column * factor + j
                    expected = grid[:, y, x] if y < rows and x < columns else torch.zeros(2, 3)
                    assert torch.equal(token[:, i, j], expected)


def test_shuffle_refuses_another_grid_with_both_numbers():
    with pytest.raises(ValueError, match=r"17 features.*4 x 4 = 16"):
        shuffle_patches(torch.zeros(1, 17, 2), 4, 4, 2)


def test_unknown_image_size_names_the_fix():
    config = ENCODER_CONFIGS["vit"]()
    assert get_image_size(config) == IMAGE_SIZE
    assert get_image_size(config, [32, 64]) == [32, 64]
    with pytest.raises(ValueError, match="Pass `image_size="):
        get_image_size(ResNetConfig())
