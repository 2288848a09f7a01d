"""Candidates of an image that share its prefix are the ones stock `generate` gives, token for token."""

from contextlib import contextmanager

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GPT2Config,
    Idefics3Config,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Ministral3Config,
    Mistral3Config,
    MistralConfig,
    OPTConfig,
    Qwen2Config,
    SmolVLMConfig,
    VisionEncoderDecoderModel,
)
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig

from hfcap.generation.decoding import generate
from hfcap.models import HfcapLlavaForConditionalGeneration
from hfcap.models.model_types import is_packable
from tiny.parts import (
    BOS,
    BRIDGE,
    ENCODER_CONFIGS,
    EOS,
    IMAGE_ID,
    LANGUAGE_MODEL_CONFIGS,
    PAD,
    build_encoder,
    build_encoder_decoder,
    build_llava,
    enlarge_new_parts,
    random_images,
    random_words,
)
from tiny.prefixes import CONFIGS, build_prefixed, prompts_of

MAX_NEW_TOKENS = 9
IDS = {"decoder_start_token_id": BOS, "pad_token_id": PAD, "eos_token_id": EOS}


def build_stock_llava():
    config = LlavaConfig(
        vision_config=ENCODER_CONFIGS["siglip"](),
        text_config=LANGUAGE_MODEL_CONFIGS["llama"](),
        image_token_index=IMAGE_ID,
        image_seq_length=16,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return enlarge_new_parts(LlavaForConditionalGeneration(config)).eval()


VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.2,
}


def build_idefics3(config_class=Idefics3Config, vision_class=Idefics3VisionConfig):
    config = config_class(
        vision_config=vision_class(**VISION).to_dict(),
        text_config=LANGUAGE_MODEL_CONFIGS["llama"]().to_dict(),
        image_token_id=IMAGE_ID,
        scale_factor=2,
        pad_token_id=PAD,
    )
    model = AutoModelForImageTextToText.from_config(config).eval()
    model.model.connector.modality_projection.proj.weight.data.mul_(10)
    return model


def build_internvl():
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(**VISION | {"image_size": [32, 32], "patch_size": [8, 8]}).to_dict(),
        text_config=LANGUAGE_MODEL_CONFIGS["llama"]().to_dict(),
        image_token_id=IMAGE_ID,
        image_seq_length=4,
    )
    return enlarge_new_parts(InternVLForConditionalGeneration(config)).eval()


def build_mistral3(text_class):
    config = Mistral3Config(
        vision_config={"model_type": "pixtral", **VISION, "head_dim": 16},
        text_config=text_class(
            **{**LANGUAGE_MODEL_CONFIGS["llama"]().to_diff_dict(), "head_dim": 8, "rope_parameters": None}
        ).to_dict(),
        image_token_index=IMAGE_ID,
    )
    return enlarge_new_parts(AutoModelForImageTextToText.from_config(config)).eval()


def build_llava_of(config_class, **more):
    """Our LLaVA-style model around a language model of another type."""
    text = {**LANGUAGE_MODEL_CONFIGS["llama"]().to_diff_dict(), **more}
    del text["model_type"]
    language_model = AutoModelForCausalLM.from_config(config_class(**text))
    model = HfcapLlavaForConditionalGeneration.from_parts(build_encoder("siglip"), language_model, IMAGE_ID)
    return enlarge_new_parts(model).eval()


def build_stock_encoder_decoder():
    decoder = GPT2Config(**LANGUAGE_MODEL_CONFIGS["gpt2"]().to_dict() | {"add_cross_attention": True})
    model = VisionEncoderDecoderModel(encoder=build_encoder("vit"), decoder=AutoModelForCausalLM.from_config(decoder))
    for config in (model.config, model.generation_config):
        config.update(IDS)
    return model.eval()


BUILDERS = {
    "hfcap_llava, llama": lambda: build_llava("siglip", "llama"),
    "hfcap_llava, qwen3": lambda: build_llava("mobilenet_v2", "qwen3"),
    "hfcap_llava, gpt2": lambda: build_llava("siglip", "gpt2"),
    "llava": build_stock_llava,
    "idefics3": build_idefics3,
    "hfcap_encoder_decoder, gpt2": lambda: build_encoder_decoder("vit", "gpt2", **IDS, **BRIDGE),
    "hfcap_encoder_decoder, bert": lambda: build_encoder_decoder("mobilenet_v2", "bert", **IDS),
    "vision-encoder-decoder, gpt2": build_stock_encoder_decoder,
}

SEARCHES = {
    "beam 3": {"num_beams": 3},
    "beam 5, long": {"num_beams": 5, "length_penalty": 2.0},
    "beam 5, short": {"num_beams": 5, "length_penalty": -1.0, "early_stopping": True},
    "beam 4, two of them": {"num_beams": 4, "num_return_sequences": 2, "no_repeat_ngram_size": 2},
    "beam 3, processors": {
        "num_beams": 3,
        "repetition_penalty": 1.5,
        "min_new_tokens": 5,
        "suppress_tokens": [7, 8, 9],
    },
    "samples": {"do_sample": True, "num_return_sequences": 4, "top_k": 0},
    "sampled beams": {"do_sample": True, "num_beams": 3, "top_k": 0},
}


def inputs_of(model, prompt_lengths=(6, 3, 5)):
    """Pictures, and prompts of these lengths, padded on the left."""
    images = random_images(len(prompt_lengths))
    if model.config.is_encoder_decoder:
        return {"pixel_values": images}
    # Idefics3 and SmolVLM have 4 image tokens after their pixel shuffle, and take several pictures a prompt.
    num_image_tokens = getattr(model.config, "image_seq_length", 4)
    words = random_words(len(prompt_lengths), max(prompt_lengths))
    longest = 1 + num_image_tokens + max(prompt_lengths)
    input_ids = torch.full((len(prompt_lengths), longest), PAD)
    for row, length in enumerate(prompt_lengths):
        prompt = torch.tensor([BOS] + [IMAGE_ID] * num_image_tokens + words[row, :length].tolist())
        input_ids[row, longest - len(prompt) :] = prompt
    pixel_values = images[:, None] if model.config.model_type in ("idefics3", "smolvlm") else images
    sizes = {"image_sizes": torch.full((len(images), 2), 32)} if model.config.model_type == "mistral3" else {}
    return {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long(), "pixel_values": pixel_values} | sizes


@contextmanager
def decoded_rows(model):
    """Collect how many rows each forward of the language model's decoder has."""
    rows = []
    layer = model.decoder if model.config.is_encoder_decoder else model.get_decoder()
    key = "input_ids" if model.config.is_encoder_decoder else "inputs_embeds"
    hook = layer.register_forward_pre_hook(lambda _, args, kwargs: rows.append(len(kwargs[key])), with_kwargs=True)
    yield rows
    hook.remove()


def both(model, inputs, seed=0, **settings):
    settings = {"max_new_tokens": MAX_NEW_TOKENS, **settings}
    torch.manual_seed(seed)
    expected = model.generate(**inputs, **settings)
    torch.manual_seed(seed)
    with decoded_rows(model) as rows:
        return expected, generate(model, inputs, **settings), set(rows)


@pytest.fixture(scope="module", params=BUILDERS)
def model(request):
    torch.manual_seed(0)
    return BUILDERS[request.param]()


@pytest.mark.parametrize("search", SEARCHES)
def test_tokens_are_those_of_stock_generate(model, search):
    inputs = inputs_of(model)
    expected, tokens, rows = both(model, inputs, **SEARCHES[search])
    assert torch.equal(tokens, expected)
    assert rows == {3}  # the candidates really were columns
    # Else the test would pass for a model that cannot see, or for one that always says the same.
    other = generate(model, inputs | {"pixel_values": inputs["pixel_values"].flip(0)}, **SEARCHES[search])
    assert not torch.equal(tokens, other)


@pytest.mark.parametrize(
    "build",
    [
        lambda: build_idefics3(SmolVLMConfig, SmolVLMVisionConfig),
        build_internvl,
        lambda: build_mistral3(MistralConfig),
        lambda: build_mistral3(Ministral3Config),
        lambda: build_llava_of(MistralConfig, sliding_window=None),
        lambda: build_llava_of(Qwen2Config),
        lambda: build_llava_of(OPTConfig, ffn_dim=64, word_embed_proj_dim=32, init_std=0.2, dropout=0.0),
    ],
    ids=["smolvlm", "internvl", "mistral3", "mistral3 of ministral3", "mistral", "qwen2", "opt"],
)
def test_tokens_of_further_types_are_those_of_stock_generate(build):
    torch.manual_seed(0)
    model = build()
    assert is_packable(model.config)
    expected, tokens, rows = both(model, inputs_of(model), num_beams=4, num_return_sequences=2)
    assert torch.equal(tokens, expected)
    assert rows == {3}


@pytest.mark.parametrize("name", CONFIGS)
def test_tokens_behind_other_prefixes_are_those_of_stock_generate(name):
    """Positions in three dimensions, prefixes that are read in both directions; padding, and pictures of any shape."""
    model = build_prefixed(name).eval()
    inputs = prompts_of(model)
    for search in ("samples", "beam 4, two of them"):
        expected, tokens, rows = both(model, inputs, **SEARCHES[search])
        assert torch.equal(tokens, expected)
        # A window counts tokens, and those of other candidates lie between: then stock `generate` does it.
        assert rows == ({3 * 4} if "short window" in name else {3})
    _, other, _ = both(model, inputs | {"pixel_values": -inputs["pixel_values"]}, **SEARCHES[search])
    assert not torch.equal(tokens, other)


def test_greedy_is_stock_generate(model):
    expected, tokens, _ = both(model, inputs_of(model))
    assert torch.equal(tokens, expected)


def test_captions_do_not_depend_on_the_batch(model):
    settings = {"num_beams": 4, "max_new_tokens": MAX_NEW_TOKENS, "min_new_tokens": MAX_NEW_TOKENS}
    inputs = inputs_of(model)
    together = generate(model, inputs, **settings)[:, -MAX_NEW_TOKENS:]
    for row, tokens in enumerate(together):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        if "attention_mask" in alone:
            padding = int((alone["attention_mask"] == 0).sum())
            alone |= {name: alone[name][:, padding:] for name in ("input_ids", "attention_mask")}
        assert torch.equal(generate(model, alone, **settings)[0, -MAX_NEW_TOKENS:], tokens)


def test_cached_features_and_lora_share_the_prefix_too():
    model = build_llava("siglip", "llama")
    inputs = inputs_of(model)
    expected, _, _ = both(model, inputs, num_beams=3)
    pixel_values = inputs.pop("pixel_values")
    features = {"vision_features": model.get_vision_features(pixel_values)}
    tokens = generate(model, inputs | features, num_beams=3, max_new_tokens=MAX_NEW_TOKENS)
    assert torch.equal(tokens, expected)

    lora = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = get_peft_model(model, lora).eval()
    inputs["pixel_values"] = pixel_values
    with decoded_rows(adapted.get_base_model()) as rows:
        tokens = generate(adapted, inputs, num_beams=3, max_new_tokens=MAX_NEW_TOKENS)
    assert set(rows) == {3}
    assert torch.equal(tokens, adapted.generate(**inputs, num_beams=3, max_new_tokens=MAX_NEW_TOKENS))
    assert not torch.equal(tokens, expected)


@pytest.mark.parametrize(
    ("build", "settings"),
    [
        (build_stock_llava, {"use_cache": False}),
        (build_stock_llava, {"cache_implementation": "static"}),
        (build_stock_llava, {"output_hidden_states": True}),
        (lambda: build_llava_of(MistralConfig, sliding_window=8), {}),
    ],
)
def test_what_cannot_be_shared_is_left_to_stock_generate(build, settings):
    model = build()
    expected, tokens, rows = both(model, inputs_of(model), num_beams=3, **settings)
    assert torch.equal(tokens, expected)
    assert rows == {9}


def test_a_prompt_that_ends_with_the_picture_is_left_to_stock_generate():
    model = build_stock_llava()
    inputs = inputs_of(model, prompt_lengths=(0, 0))
    expected, tokens, rows = both(model, inputs, num_beams=3)
    assert torch.equal(tokens, expected)
    assert rows == {6}


def test_an_error_leaves_the_model_as_it_was():
    model = build_stock_llava()
    inputs = inputs_of(model)
    with pytest.raises(ValueError, match="not used by the model"):
        generate(model, inputs, num_beams=3, no_such_setting=1)
    expected, tokens, _ = both(model, inputs, num_beams=3)
    assert torch.equal(tokens, expected)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
