import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, Gemma2Config, GenerationConfig, LlamaConfig

from hfcap.models import HfcapLlavaConfig, HfcapLlavaForConditionalGeneration
from tiny.parts import (
    BOS,
    ENCODER_CONFIGS,
    IMAGE_ID,
    LANGUAGE_MODEL_CONFIGS,
    PAD,
    VOCABULARY,
    build_encoder,
    build_llava,
    random_images,
    random_words,
)

PAIRS = [
    *((encoder, "llama") for encoder in ENCODER_CONFIGS),
    *(("vit", language_model) for language_model in ("qwen3", "gpt2")),
    ("mobilenet_v2", "gpt2"),
]
LANGUAGE_MODELS = [("vit", language_model) for language_model in LANGUAGE_MODEL_CONFIGS]


def build_prompt(model, num_words=4, batch_size=2, seed=2):
    """BOS, the image tokens, some words; (B, L)."""
    head = torch.tensor([[BOS] + [IMAGE_ID] * model.config.image_seq_length])
    return torch.cat([head.expand(batch_size, -1), random_words(batch_size, num_words, seed=seed)], dim=1)


@pytest.mark.parametrize(("encoder", "language_model"), PAIRS)
@torch.no_grad()
def test_forward_shape_and_the_picture_matters(encoder, language_model):
    model = build_llava(encoder, language_model)
    input_ids = build_prompt(model)
    logits = model(input_ids=input_ids, pixel_values=random_images(2)).logits
    assert logits.shape == (*input_ids.shape, len(VOCABULARY))
    others = model(input_ids=input_ids, pixel_values=random_images(2, seed=9)).logits
    assert (logits - others).abs().mean() > 0.01


@pytest.mark.parametrize(("encoder", "language_model"), PAIRS)
@torch.no_grad()
def test_cached_features_equal_pictures(encoder, language_model):
    model, images = build_llava(encoder, language_model), random_images(2)
    input_ids = build_prompt(model)
    features = model.get_vision_features(images)
    assert features.shape[0] == 2
    expected = model(input_ids=input_ids, pixel_values=images).logits
    assert torch.equal(model(input_ids=input_ids, vision_features=features).logits, expected)
    half = model(input_ids=input_ids, vision_features=features.half()).logits
    torch.testing.assert_close(half, expected, atol=0.05, rtol=0.05)
    for settings in ({}, {"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}):
        torch.manual_seed(0)
        expected = model.generate(input_ids=input_ids, pixel_values=images, max_new_tokens=5, **settings)
        torch.manual_seed(0)
        tokens = model.generate(input_ids=input_ids, vision_features=features, max_new_tokens=5, **settings)
        assert torch.equal(tokens, expected)


@pytest.mark.parametrize(("encoder", "language_model"), LANGUAGE_MODELS)
@torch.no_grad()
def test_left_padding_changes_nothing(encoder, language_model):
    model, images = build_llava(encoder, language_model), random_images(2)
    long, short = build_prompt(model, 7, 1), build_prompt(model, 3, 1, seed=5)
    padded = torch.cat([torch.full((1, 4), PAD), short], dim=1)
    input_ids = torch.cat([long, padded])
    inputs = {"attention_mask": (input_ids != PAD).long(), "pixel_values": images}
    position_ids = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=input_ids, position_ids=position_ids, **inputs).logits[1, 4:]
    expected = model(input_ids=short, pixel_values=images[1:]).logits[0]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    for settings in ({}, {"num_beams": 3}):
        settings = {**settings, "max_new_tokens": 6, "min_new_tokens": 6}
        batched = model.generate(input_ids=input_ids, **inputs, **settings)[1, input_ids.shape[1] :]
        alone = model.generate(input_ids=short, pixel_values=images[1:], **settings)[0, short.shape[1] :]
        assert torch.equal(batched, alone)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize(("encoder", "language_model"), LANGUAGE_MODELS)
def test_cache_changes_no_token(encoder, language_model, num_beams):
    model, images = build_llava(encoder, language_model), random_images(2)
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "num_beams": num_beams}
    inputs = {"input_ids": build_prompt(model), "pixel_values": images}
    cached = model.generate(**inputs, **settings, use_cache=True)
    assert torch.equal(cached, model.generate(**inputs, **settings, use_cache=False))
    # The words generated depend on the picture, else the test would pass for a model that cannot see.
    blind = model.generate(input_ids=inputs["input_ids"], pixel_values=random_images(2, seed=9), **settings)
    assert not torch.equal(cached, blind)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"do_sample": True}], ids=["greedy", "beams", "sampling"])
@pytest.mark.parametrize("language_model", LANGUAGE_MODEL_CONFIGS)
def test_image_tokens_are_never_generated(language_model, settings):
    model = build_llava("vit", language_model)
    # A head that wants nothing but image tokens.
    model.lm_head.register_forward_hook(
        lambda module, inputs, logits: logits.index_fill(-1, torch.tensor([IMAGE_ID]), 50.0)
    )
    inputs = {"input_ids": build_prompt(model), "pixel_values": random_images(2)}
    length = inputs["input_ids"].shape[1]
    tokens = model.generate(**inputs, max_new_tokens=6, **settings)[:, length:]
    assert (tokens != IMAGE_ID).all()
    own = model.generate(**inputs, generation_config=GenerationConfig(max_new_tokens=6, **settings))[:, length:]
    assert (own != IMAGE_ID).all()
    model.generation_config.suppress_tokens = None
    tokens = model.generate(**inputs, max_new_tokens=6, **settings)[:, length:]
    assert (tokens == IMAGE_ID).all()


@pytest.mark.parametrize(("encoder", "language_model"), PAIRS)
@torch.no_grad()
def test_reload_through_the_auto_class(encoder, language_model, tmp_path):
    model = build_llava(encoder, language_model)
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(reloaded) is HfcapLlavaForConditionalGeneration
    assert reloaded.config.image_seq_length == model.config.image_seq_length
    assert GenerationConfig.from_pretrained(tmp_path).suppress_tokens == [IMAGE_ID]
    assert reloaded.generation_config.suppress_tokens == [IMAGE_ID]
    inputs = {"input_ids": build_prompt(model), "pixel_values": random_images(2)}
    assert torch.equal(reloaded(**inputs).logits, model(**inputs).logits)
    is_tied = reloaded.lm_head.weight is reloaded.get_input_embeddings().weight
    assert is_tied == (language_model != "llama")


def test_a_config_alone_builds_the_model():
    config = HfcapLlavaConfig(
        vision_config=ENCODER_CONFIGS["mobilenet_v2"]().to_dict(),
        text_config=LANGUAGE_MODEL_CONFIGS["gpt2"]().to_dict(),
        image_token_id=IMAGE_ID,
    )
    model = HfcapLlavaForConditionalGeneration(config)
    assert (config.image_seq_length, config.vision_hidden_size, config.vision_grid) == (16, 320, [4, 4])
    assert config.tie_word_embeddings
    assert model.lm_head.weight is model.model.language_model.wte.weight
    assert model.generation_config.suppress_tokens == [IMAGE_ID]


def test_parts_keep_their_weights_and_settings():
    encoder = build_encoder("vit")
    language_model = AutoModelForCausalLM.from_config(LANGUAGE_MODEL_CONFIGS["llama"](), attn_implementation="eager")
    language_model.generation_config.eos_token_id = [2, 7]
    before = {name: tensor.clone() for name, tensor in language_model.state_dict().items()}
    encoder_before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    model = HfcapLlavaForConditionalGeneration.from_parts(encoder, language_model, IMAGE_ID)
    state = model.state_dict()
    for name, tensor in before.items():
        own_name = name if name.startswith("lm_head") else name.replace("model.", "model.language_model.", 1)
        assert torch.equal(state[own_name], tensor)
    assert all(torch.equal(state[f"model.vision_tower.{name}"], encoder_before[name]) for name in encoder_before)
    assert model.config.text_config._attn_implementation == "eager"
    assert model.config.vision_config._attn_implementation == "sdpa"
    assert model.generation_config.eos_token_id == [2, 7]


def test_image_token_outside_the_vocabulary_is_refused():
    language_model = AutoModelForCausalLM.from_config(LANGUAGE_MODEL_CONFIGS["llama"]())
    with pytest.raises(ValueError, match=r"image_token_id is 48, .* 48 embeddings.*resize_token_embeddings"):
        HfcapLlavaForConditionalGeneration.from_parts(build_encoder("vit"), language_model, 48)


def test_soft_capped_heads_are_refused():
    config = HfcapLlavaConfig(vision_config=ENCODER_CONFIGS["vit"](), text_config=Gemma2Config())
    with pytest.raises(ValueError, match="final_logit_softcapping=30"):
        HfcapLlavaForConditionalGeneration(config)


@pytest.mark.parametrize("surplus", [-1, 1])
def test_wrong_number_of_image_tokens_gives_both_numbers(surplus):
    model = build_llava("vit")
    input_ids = torch.tensor([[BOS] + [IMAGE_ID] * (16 + surplus) + [7]])
    with pytest.raises(ValueError, match=rf"{16 + surplus} image tokens .* 16 image features.*image_seq_length"):
        model(input_ids=input_ids, pixel_values=random_images(1))


def test_two_sources_of_features_are_refused():
    model, images = build_llava("vit"), random_images(1)
    with pytest.raises(ValueError, match="exactly one of pixel_values and vision_features"):
        model(
            input_ids=build_prompt(model, 1, 1), pixel_values=images, vision_features=model.get_vision_features(images)
        )


@torch.no_grad()
def test_get_image_features_puts_the_projection_into_pooler_output():
    model, images = build_llava("mobilenet_v2"), random_images(2)
    outputs = model.get_image_features(pixel_values=images)
    assert outputs.last_hidden_state.shape == (2, 16, 320)
    projected = model.model.multi_modal_projector(outputs.last_hidden_state)
    assert torch.equal(outputs.pooler_output, projected)
    assert projected.shape == (2, 16, 32)


@pytest.mark.parametrize(
    ("encoder", "factor", "num_tokens"), [("vit", 2, 4), ("mobilenet_v2", 3, 4), ("dinov2", 4, 1)]
)
@torch.no_grad()
def test_pixel_shuffle_reduces_image_tokens(encoder, factor, num_tokens, tmp_path):
    model = build_llava(encoder, pixel_shuffle_factor=factor)
    assert model.config.image_seq_length == num_tokens
    inputs = {"input_ids": build_prompt(model), "pixel_values": random_images(2)}
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert torch.equal(reloaded(**inputs).logits, model(**inputs).logits)


def test_pixel_shuffle_refuses_cls_tokens():
    with pytest.raises(ValueError, match="17 image tokens are not 4 x 4"):
        build_llava("vit", pixel_shuffle_factor=2, vision_feature_select_strategy="full")


@torch.no_grad()
def test_image_tokens_say_where_they_are(tmp_path):
    model = build_llava("mobilenet_v2", image_position_embeddings=True)
    features = torch.ones(1, 16, 320)
    tokens = model.get_image_features(vision_features=features).pooler_output
    positions = model.model.multi_modal_projector.image_positions.weight
    assert positions.shape == (16, 32)
    torch.testing.assert_close(tokens[0] - tokens[0, :1], positions - positions[:1], rtol=0, atol=1e-4)
    inputs = {"input_ids": build_prompt(model), "pixel_values": random_images(2)}
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert torch.equal(reloaded(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("language_model", LANGUAGE_MODEL_CONFIGS)
@torch.no_grad()
def test_resized_embeddings(language_model, tmp_path):
    model = build_llava("vit", language_model)
    inputs = {"input_ids": build_prompt(model), "pixel_values": random_images(2)}
    before, size = model(**inputs).logits, len(VOCABULARY)
    model.resize_token_embeddings(size + 5)
    assert model.config.text_config.vocab_size == size + 5
    after = model(**inputs).logits
    assert after.shape[-1] == size + 5
    torch.testing.assert_close(after[..., :size], before)
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert torch.equal(reloaded(**inputs).logits, after)


@torch.no_grad()
def test_logits_to_keep():
    model = build_llava("vit")
    inputs = {"input_ids": build_prompt(model), "pixel_values": random_images(2)}
    logits = model(**inputs).logits
    torch.testing.assert_close(model(**inputs, logits_to_keep=2).logits, logits[:, -2:])
    torch.testing.assert_close(model(**inputs, logits_to_keep=torch.tensor([3, 5])).logits, logits[:, [3, 5]])
    keep = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    keep[0, 17:], keep[1, 20] = True, True
    torch.testing.assert_close(model(**inputs, logits_to_keep=keep).logits, logits[keep])


@torch.no_grad()
def test_loss_is_shifted_once():
    model = build_llava("vit")
    inputs = {"input_ids": build_prompt(model), "pixel_values": random_images(2)}
    labels = inputs["input_ids"].clone()
    labels[:, :17] = -100
    logits = model(**inputs).logits
    expected = torch.nn.functional.cross_entropy(logits[:, 16:-1].flatten(0, 1), labels[:, 17:].flatten())
    torch.testing.assert_close(model(**inputs, labels=labels).loss, expected)
    shift_labels = torch.nn.functional.pad(labels, (0, 1), value=-100)[:, 1:].contiguous()
    torch.testing.assert_close(model(**inputs, labels=shift_labels, shift_labels=shift_labels).loss, expected)
    halved = model(**inputs, labels=labels, num_items_in_batch=torch.tensor(16)).loss
    torch.testing.assert_close(halved, expected * 8 / 16)


def test_llama_without_tying_has_its_own_head():
    tied = HfcapLlavaConfig(text_config=LlamaConfig(tie_word_embeddings=True))
    assert tied.tie_word_embeddings
    assert not HfcapLlavaConfig(text_config=LlamaConfig()).tie_word_embeddings
    with pytest.raises(ValueError, match="pixel_shuffle_factor is 0"):
        HfcapLlavaConfig(pixel_shuffle_factor=0)
