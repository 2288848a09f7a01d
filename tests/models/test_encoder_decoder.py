import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)

from hfcap.models import HfcapEncoderDecoderConfig, HfcapEncoderDecoderModel
from tiny.parts import (
    BOS,
    BRIDGE,
    DECODER_CONFIGS,
    ENCODER_CONFIGS,
    EOS,
    PAD,
    VOCABULARY,
    build_encoder,
    build_encoder_decoder,
    random_images,
    random_words,
)

PAIRS = [(encoder, decoder) for encoder in ENCODER_CONFIGS for decoder in DECODER_CONFIGS]
BRIDGES = [pytest.param({}, id="plain"), pytest.param(BRIDGE, id="bridge")]


@pytest.mark.parametrize("bridge", BRIDGES)
@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
@torch.no_grad()
def test_forward_shape_and_the_picture_matters(encoder, decoder, bridge):
    model, input_ids = build_encoder_decoder(encoder, decoder, **bridge), random_words(2, 5)
    logits = model(pixel_values=random_images(2), decoder_input_ids=input_ids).logits
    assert logits.shape == (2, 5, len(VOCABULARY))
    others = model(pixel_values=random_images(2, seed=9), decoder_input_ids=input_ids).logits
    assert (logits - others).abs().mean() > 0.01


@pytest.mark.parametrize("bridge", BRIDGES)
@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
@torch.no_grad()
def test_cached_features_equal_pictures(encoder, decoder, bridge):
    model, images = build_encoder_decoder(encoder, decoder, **bridge), random_images(2)
    input_ids = random_words(2, 5)
    features = model.get_vision_features(images)
    expected = model(pixel_values=images, decoder_input_ids=input_ids).logits
    assert torch.equal(model(vision_features=features, decoder_input_ids=input_ids).logits, expected)
    bridged = model.get_encoder_outputs(vision_features=features)
    assert torch.equal(model(encoder_outputs=bridged, decoder_input_ids=input_ids).logits, expected)
    as_tuple = (bridged.last_hidden_state,)
    assert torch.equal(model(encoder_outputs=as_tuple, decoder_input_ids=input_ids).logits, expected)
    half = model(vision_features=features.half(), decoder_input_ids=input_ids).logits
    torch.testing.assert_close(half, expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"do_sample": True}], ids=["greedy", "beams", "sampling"])
@pytest.mark.parametrize("decoder", DECODER_CONFIGS)
def test_generate_from_pictures_features_and_without_cache(decoder, settings):
    model, images = build_encoder_decoder("mobilenet_v2", decoder, **BRIDGE), random_images(3)
    settings = {**settings, "max_new_tokens": 8, "min_new_tokens": 8}
    sources = [
        {"inputs": images},
        {"pixel_values": images},
        {"vision_features": model.get_vision_features(images)},
        {"pixel_values": images, "use_cache": False},
    ]
    results = []
    for source in sources:
        torch.manual_seed(0)
        results.append(model.generate(**source, **settings))
    assert results[0].shape == (3, 9)
    assert (results[0][:, 0] == BOS).all()
    assert all(torch.equal(result, results[0]) for result in results[1:])
    torch.manual_seed(0)
    assert not torch.equal(model.generate(random_images(3, seed=9), **settings), results[0])


@pytest.mark.parametrize("decoder", DECODER_CONFIGS)
def test_generate_one_by_one_equals_a_batch(decoder):
    model, images = build_encoder_decoder("vit", decoder, **BRIDGE), random_images(3)
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "num_beams": 2}
    batch = model.generate(images, **settings)
    alone = torch.cat([model.generate(image[None], **settings) for image in images])
    assert torch.equal(batch, alone)


def test_encoder_and_bridge_run_once_a_generate(monkeypatch):
    model = build_encoder_decoder("vit", **BRIDGE)
    calls = []
    for module in (model.encoder, *model.bridge_layers):
        module.register_forward_hook(lambda *args: calls.append(1))
    model.generate(random_images(2), max_new_tokens=6, min_new_tokens=6, num_beams=3)
    assert len(calls) == 3


@pytest.mark.parametrize("decoder", DECODER_CONFIGS)
@torch.no_grad()
def test_padding_changes_nothing(decoder):
    model, images = build_encoder_decoder("vit", decoder, **BRIDGE), random_images(2)
    input_ids = random_words(2, 6)
    input_ids[1, 4:] = PAD
    mask = (input_ids != PAD).long()
    padded = model(pixel_values=images, decoder_input_ids=input_ids, decoder_attention_mask=mask).logits
    alone = model(pixel_values=images[1:], decoder_input_ids=input_ids[1:, :4]).logits
    torch.testing.assert_close(padded[1:, :4], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bridge", BRIDGES)
@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
@torch.no_grad()
def test_reload_through_the_auto_class(encoder, decoder, bridge, tmp_path):
    model = build_encoder_decoder(encoder, decoder, **bridge)
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(reloaded) is HfcapEncoderDecoderModel
    inputs = {"pixel_values": random_images(2), "decoder_input_ids": random_words(2, 5)}
    assert torch.equal(reloaded(**inputs).logits, model(**inputs).logits)
    generation_config = GenerationConfig.from_pretrained(tmp_path)
    for config in (reloaded.config, reloaded.config.decoder, reloaded.generation_config, generation_config):
        ids = (config.pad_token_id, config.decoder_start_token_id, config.eos_token_id)
        assert ids == (PAD, BOS, EOS)


@pytest.mark.parametrize(("encoder", "decoder"), [("vit", "gpt2"), ("dinov2", "bert")])
@torch.no_grad()
def test_without_a_bridge_the_weights_load_into_the_stock_class(encoder, decoder):
    model = build_encoder_decoder(encoder, decoder)
    config = VisionEncoderDecoderConfig(encoder=model.config.encoder.to_dict(), decoder=model.config.decoder.to_dict())
    stock = VisionEncoderDecoderModel(config).eval()
    stock.load_state_dict(model.state_dict(), strict=True)
    inputs = {"pixel_values": random_images(2), "decoder_input_ids": random_words(2, 5)}
    torch.testing.assert_close(model(**inputs).logits, stock(**inputs).logits, atol=1e-5, rtol=1e-5)


def test_widths_that_differ_are_projected():
    decoder_config = DECODER_CONFIGS["gpt2"]()
    decoder_config.n_embd = 48
    decoder = AutoModelForCausalLM.from_config(decoder_config)
    model = HfcapEncoderDecoderModel.from_parts(build_encoder("vit"), decoder)
    assert model.enc_to_dec_proj.weight.shape == (48, 32)
    assert isinstance(build_encoder_decoder("vit").enc_to_dec_proj, torch.nn.Identity)


def test_a_config_alone_builds_the_model():
    config = HfcapEncoderDecoderConfig(
        encoder=ENCODER_CONFIGS["mobilenet_v2"]().to_dict(),
        decoder=DECODER_CONFIGS["bert"]().to_dict(),
        pad_token_id=3,
        decoder_start_token_id=8,
        eos_token_id=9,
        num_bridge_layers=1,
    )
    model = HfcapEncoderDecoderModel(config)
    assert (config.image_seq_length, config.vision_hidden_size) == (16, 320)
    assert config.decoder.is_decoder
    assert config.decoder.add_cross_attention
    for holder in (model.config, model.decoder.config, model.generation_config):
        assert (holder.pad_token_id, holder.decoder_start_token_id, holder.eos_token_id) == (3, 8, 9)
    assert model.generate(random_images(1), max_new_tokens=2)[0, 0] == 8


def test_parts_keep_their_weights_and_backend():
    encoder = build_encoder("vit")
    decoder = AutoModelForCausalLM.from_config(DECODER_CONFIGS["gpt2"](), attn_implementation="eager")
    parts = {"encoder": encoder, "decoder": decoder}
    before = {f"{part}.{name}": tensor.clone() for part in parts for name, tensor in parts[part].state_dict().items()}
    model = HfcapEncoderDecoderModel.from_parts(encoder, decoder, num_bridge_layers=1)
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
    assert model.config.decoder._attn_implementation == model.decoder.config._attn_implementation == "eager"
    assert model.config.encoder._attn_implementation == "sdpa"


def test_a_decoder_without_cross_attention_is_refused():
    config = DECODER_CONFIGS["gpt2"]()
    config.add_cross_attention = False
    with pytest.raises(ValueError, match="add_cross_attention=False, it must be True"):
        HfcapEncoderDecoderModel.from_parts(build_encoder("vit"), AutoModelForCausalLM.from_config(config))


def test_position_embeddings_refuse_another_number_of_features():
    model = build_encoder_decoder("mobilenet_v2", **BRIDGE)
    with pytest.raises(ValueError, match="25 features per image for 16 position embeddings"):
        model(pixel_values=torch.randn(1, 3, 40, 40), decoder_input_ids=random_words(1, 2))


@pytest.mark.parametrize("sources", [(), ("pixel_values", "vision_features"), ("pixel_values", "encoder_outputs")])
def test_exactly_one_source_of_features(sources):
    model, images = build_encoder_decoder("vit"), random_images(1)
    available = {
        "pixel_values": images,
        "vision_features": model.get_vision_features(images),
        "encoder_outputs": model.get_encoder_outputs(images),
    }
    with pytest.raises(ValueError, match="exactly one of pixel_values"):
        model(decoder_input_ids=random_words(1, 2), **{name: available[name] for name in sources})


@pytest.mark.parametrize("decoder", DECODER_CONFIGS)
@torch.no_grad()
def test_resized_embeddings(decoder, tmp_path):
    model, size = build_encoder_decoder("vit", decoder, **BRIDGE), len(VOCABULARY)
    inputs = {"pixel_values": random_images(2), "decoder_input_ids": random_words(2, 5)}
    before = model(**inputs).logits
    model.resize_token_embeddings(size + 5)
    assert model.config.decoder.vocab_size == size + 5
    after = model(**inputs).logits
    assert after.shape[-1] == size + 5
    torch.testing.assert_close(after[..., :size], before)
    model.save_pretrained(tmp_path)
    assert torch.equal(AutoModelForImageTextToText.from_pretrained(tmp_path)(**inputs).logits, after)


@torch.no_grad()
def test_loss_does_not_shift_again():
    model, images, labels = build_encoder_decoder("vit"), random_images(2), random_words(2, 5)
    labels[1, 3:] = -100
    decoder_input_ids = torch.cat(
        [torch.full((2, 1), BOS), labels[:, :-1].masked_fill(labels[:, :-1] < 0, PAD)], dim=1
    )
    logits = model(pixel_values=images, decoder_input_ids=decoder_input_ids).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(model(pixel_values=images, labels=labels).loss, expected)
    with_inputs = model(pixel_values=images, labels=labels, decoder_input_ids=decoder_input_ids).loss
    torch.testing.assert_close(with_inputs, expected)
    halved = model(pixel_values=images, labels=labels, num_items_in_batch=torch.tensor(16)).loss
    torch.testing.assert_close(halved, expected * 8 / 16)


def test_dropout_of_the_image_acts_in_training_only():
    model, images = build_encoder_decoder("vit", image_dropout=0.5), random_images(1)
    first, second = (model.get_encoder_outputs(images).last_hidden_state for _ in range(2))
    assert torch.equal(first, second)
    model.train()
    assert not torch.equal(*(model.get_encoder_outputs(images).last_hidden_state for _ in range(2)))


@torch.no_grad()
def test_positions_tell_patches_apart():
    features = torch.randn(2, 16, 320)
    order = torch.randperm(16)
    outputs = {}
    for has_positions in (False, True):
        options = {**BRIDGE, "image_position_embeddings": has_positions}
        model = build_encoder_decoder("mobilenet_v2", **options)
        straight = model.get_encoder_outputs(vision_features=features).last_hidden_state
        permuted = model.get_encoder_outputs(vision_features=features[:, order]).last_hidden_state
        outputs[has_positions] = (straight[:, order] - permuted).abs().max()
    assert outputs[False] < 1e-5
    assert outputs[True] > 1e-3


@torch.no_grad()
def test_feature_norm_takes_out_the_scale_of_the_raw_features():
    features = torch.randn(2, 16, 320)
    for has_norm in (False, True):
        model = build_encoder_decoder("mobilenet_v2", feature_layer_norm=has_norm)
        once, tenfold = (model.get_encoder_outputs(vision_features=features * scale)[0] for scale in (1, 10))
        assert torch.allclose(once, tenfold, atol=1e-3) == has_norm


@torch.no_grad()
def test_each_bridge_layer_refines_the_image_tokens():
    features = torch.randn(1, 16, 320)
    model = build_encoder_decoder("mobilenet_v2", num_bridge_layers=2)
    both = model.get_encoder_outputs(vision_features=features).last_hidden_state
    for index in range(2):
        layer = model.bridge_layers[index]
        model.bridge_layers[index] = torch.nn.Identity()
        assert not torch.allclose(model.get_encoder_outputs(vision_features=features)[0], both, atol=1e-3)
        model.bridge_layers[index] = layer
    torch.testing.assert_close(both.mean(-1), torch.zeros(1, 16), atol=1e-4, rtol=0)  # the LayerNorm at the end
