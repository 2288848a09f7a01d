"""Captioners joined from parts: what is asked for of the parts is what the captioner gets."""

import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor

from hfcap.generation.caption import caption_rows
from hfcap.generation.inputs import prompt_text
from hfcap.models.model_types import MODEL_TYPES
from hfcap.training.arguments import CaptionTrainingArguments, ModelArguments
from hfcap.training.build import build_captioner
from hfcap.training.collators import CaptionCollator, check_positions
from hfcap.training.model_inputs import model_inputs
from hfcap.training.tokenizer_training import train_tokenizer
from refusals import refused
from tiny.captioners import TINY_ENCODER, TINY_GPT2, TINY_LLAMA, build_joined
from tiny.training import loads_whole

VIT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


def test_pictures_that_fill_the_memory_are_refused(tmp_path):
    args = CaptionTrainingArguments(output_dir=str(tmp_path))
    parts = {"encoder_config": TINY_ENCODER, "decoder_config": TINY_GPT2, "vocab_size": 270}
    with refused(option="image_size", got=200_000, says="200,000 pixels on a side"):
        build_captioner(ModelArguments(**parts, image_size=200_000), args, ["a dog runs"] * 6)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ViTImageProcessorPil", {"size": {"height": 32, "width": 32}}),  # squeezes
        ("MobileNetV2ImageProcessorPil", {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}),
        ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 32}, "crop_pct": 0.875}),  # crops by a share
    ],
)
def test_a_pretrained_encoder_sees_pictures_of_the_size_asked_for(name, settings, tmp_path):
    config = transformers.BitConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_groups=4, image_size=32)
    transformers.BitModel(config).save_pretrained(tmp_path)
    getattr(transformers, name)(**settings).save_pretrained(tmp_path)
    args = CaptionTrainingArguments(output_dir=str(tmp_path))
    captions = ["a dog runs", "a cat sleeps"] * 3
    shapes = {}
    for side in (None, 64):
        parts = {
            "encoder": str(tmp_path),
            "decoder_config": TINY_GPT2,
            "bridge_config": {"image_position_embeddings": True},
        }
        model, processor = build_captioner(
            ModelArguments(family="encoder_decoder", image_size=side, vocab_size=270, **parts), args, captions
        )
        inputs = processor(images=Image.new("RGB", (90, 60)), return_tensors="pt")
        with torch.no_grad():
            shapes[side] = tuple(model.get_vision_features(inputs["pixel_values"]).shape[1:])
            model(**inputs, decoder_input_ids=torch.tensor([[1]]))
        assert inputs["pixel_values"].shape[-2:] == (side or 32,) * 2
    assert shapes[64][0] == 4 * shapes[None][0]


def save_encoder(folder, name, side, processor_side, **sizes):
    config = getattr(transformers, f"{name}Config")(**sizes)
    if side is not None:
        config.image_size = side
    getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    processor = transformers.ViTImageProcessorPil(size={"height": processor_side, "width": processor_side})
    processor.save_pretrained(folder)


RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
VIT_SIZES = {name: VIT[name] for name in VIT if name != "image_size"} | {"patch_size": 14}


@pytest.mark.parametrize(
    ("name", "side", "sizes", "tokens"),
    [("ResNet", None, RESNET, 16), ("Dinov2", 56, VIT_SIZES, 4)],  # 4 x 4 of 8 pixels, 2 x 2 of 14
)
def test_an_encoder_sees_what_its_image_processor_makes(name, side, sizes, tokens, tmp_path):
    save_encoder(tmp_path, name, side, 28, **sizes)
    model_args = ModelArguments(encoder=str(tmp_path), decoder_config=TINY_LLAMA, vocab_size=270)
    model, processor = build_captioner(model_args, CaptionTrainingArguments(), ["a dog runs"] * 6)
    assert (model.config.image_size, model.config.image_seq_length) == (28, tokens)
    row = {"image": Image.new("RGB", (90, 60)), "captions": ["a dog"]}
    batch = CaptionCollator(processor, model.config, "caption")([row])
    assert int((batch["input_ids"] == model.config.image_token_id).sum()) == tokens
    with torch.no_grad():
        model(input_ids=batch["input_ids"], pixel_values=batch["pixel_values"])


@pytest.mark.parametrize("side", [56, [56, 56]])
def test_an_encoder_for_one_size_alone_says_which(side, tmp_path):
    save_encoder(tmp_path, "ViT", side, 28, **VIT_SIZES)
    parts = {"encoder": str(tmp_path), "decoder_config": TINY_LLAMA, "vocab_size": 270}
    args = CaptionTrainingArguments()
    with refused(option="image_size", fix="set image_size: 56, or pass an encoder for 28"):
        build_captioner(ModelArguments(**parts), args, ["a dog runs"] * 6)
    model, _ = build_captioner(ModelArguments(**parts, image_size=56), args, ["a dog runs"] * 6)
    assert model.config.image_seq_length == 16


def test_an_encoder_for_oblong_pictures_is_not_said_to_take_square_ones(tmp_path):
    save_encoder(tmp_path, "ViT", [56, 42], 28, **VIT_SIZES)
    model_args = ModelArguments(encoder=str(tmp_path), decoder_config=TINY_LLAMA, vocab_size=270)
    with refused(option="image_size", fix="pass an encoder for 28", says="[56, 42] pixels"):
        build_captioner(model_args, CaptionTrainingArguments(), ["a dog runs"] * 6)


def test_parts_that_do_not_fit_are_one_line():
    bert = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model_args = ModelArguments(encoder_config=TINY_ENCODER, decoder_config=bert, image_size=32)
    with refused(option="family", got="llava", says="head of BertLMHeadModel has a bias"):
        build_captioner(model_args, CaptionTrainingArguments(), ["a dog runs"] * 6)


def test_an_encoder_without_an_image_processor_is_one_line(tmp_path):
    transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**TINY_ENCODER)).save_pretrained(tmp_path)
    model_args = ModelArguments(encoder=str(tmp_path), decoder_config=TINY_LLAMA)
    with refused(option="encoder", says="cannot be loaded"):
        build_captioner(model_args, CaptionTrainingArguments(), ["a dog runs"] * 6)


SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32}


def build_with(family, decoder_config):
    return build_joined(
        family, ["a dog"] * 6, CaptionTrainingArguments(), decoder_config=decoder_config, vocab_size=270
    )


def train_and_caption(model, processor, tokens):
    """One row of `tokens` caption tokens through the model, and a caption as long out of it."""
    model.generation_config.max_new_tokens = tokens
    collator = CaptionCollator(processor, model.config, max_caption_tokens=tokens)
    check_positions(model, collator)
    row = {"image": Image.new("RGB", (32, 32)), "captions": ["a dog " * 40]}
    with torch.no_grad():
        model(**model_inputs(collator([row]), model))
    assert len(caption_rows(model, processor, [row], min_new_tokens=tokens)) == 1


@pytest.mark.parametrize(
    ("family", "decoder_config", "positions"),
    [
        ("llava", TINY_GPT2 | {"n_positions": 32}, 32),
        ("encoder_decoder", TINY_GPT2 | {"n_positions": 32}, 32),
        ("encoder_decoder", {"model_type": "roberta", **SMALL}, 31),  # the first is that of padding
        ("llava", {"model_type": "opt", **SMALL, "ffn_dim": 32, "word_embed_proj_dim": 32}, 32),  # of 34 rows
    ],
)
def test_captions_that_the_decoder_has_no_positions_for_are_refused(family, decoder_config, positions):
    model, processor = build_with(family, decoder_config)
    # Four image tokens and a BOS; the start token, or the line break after the picture, starts the caption.
    before = 0 if family == "encoder_decoder" else 5
    most = positions - before
    for name, tokens, new_tokens, got in (
        ("max_caption_tokens", 64, 8, 64),
        ("max_new_tokens", 8, 40, 40),
        ("max_caption_tokens", most + 1, 8, most + 1),
    ):
        model.generation_config.max_new_tokens = new_tokens
        collator = CaptionCollator(processor, model.config, max_caption_tokens=tokens)
        with refused(option=name, got=got, wanted=f"{most} or less", says=f"prompt take {before}"):
            check_positions(model, collator)
    train_and_caption(model, processor, most)


@pytest.mark.parametrize(
    "decoder_config",
    [
        TINY_LLAMA | {"max_position_embeddings": 32},
        {"model_type": "falcon", **SMALL, "alibi": True},
        {"model_type": "xglm", "d_model": 32, "ffn_dim": 32, "num_layers": 1, "attention_heads": 2}
        | {"max_position_embeddings": 32},
    ],
    ids=lambda config: config["model_type"],
)
def test_positions_that_are_computed_have_no_end(decoder_config):
    train_and_caption(*build_with("llava", decoder_config), 64)


@pytest.mark.parametrize("family", ["llava", "encoder_decoder"])
def test_pretrained_parts_train_in_float32_whatever_they_were_saved_in(family, tmp_path):
    tokenizer = train_tokenizer(["a dog runs", "a cat sleeps"] * 3, 270)
    decoder = TINY_LLAMA if family == "llava" else TINY_GPT2
    config = transformers.AutoConfig.for_model(**decoder, vocab_size=len(tokenizer))
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path / "decoder")
    tokenizer.save_pretrained(tmp_path / "decoder")
    encoder = transformers.AutoModel.from_config(transformers.ViTConfig(**VIT), dtype=torch.bfloat16)
    encoder.save_pretrained(tmp_path / "encoder")
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessorPil(size=size).save_pretrained(tmp_path / "encoder")
    parts = {"encoder": str(tmp_path / "encoder"), "decoder": str(tmp_path / "decoder")}
    args = CaptionTrainingArguments(output_dir=str(tmp_path))
    model, _ = build_captioner(ModelArguments(family=family, **parts), args, [])
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", ["llava", "encoder_decoder"])
@pytest.mark.parametrize(
    "encoder",
    [TINY_ENCODER, {"model_type": "vit", **VIT}, {"model_type": "dinov2", **VIT}],
    ids=lambda e: e["model_type"],
)
def test_a_checkpoint_is_loaded_whole_whatever_its_tensors_are_called(family, encoder, tmp_path):
    decoder = TINY_LLAMA if family == "llava" else TINY_GPT2
    parts = {"encoder_config": encoder, "decoder_config": decoder, "image_size": 32, "vocab_size": 270}
    args = CaptionTrainingArguments(output_dir=str(tmp_path))
    model, _ = build_captioner(ModelArguments(family=family, **parts), args, ["a dog runs", "a cat sleeps"] * 3)
    model.save_pretrained(tmp_path)
    renamed = set(load_file(tmp_path / "model.safetensors")) - set(model.state_dict())
    assert bool(renamed) == (encoder is not TINY_ENCODER)  # the names of the Hub's files are older
    assert loads_whole(model, tmp_path)


CHAT = "{% for m in messages %}{{ m['role'] ~ ': ' ~ m['content'] ~ '\\n' }}{% endfor %}{{ 'caption: ' }}"


def test_a_chat_template_stands_in_for_the_decoders_own(tmp_path):
    _, processor = build_joined("llava", ["a dog runs"] * 6, chat_template=CHAT)
    processor.save_pretrained(tmp_path)
    for each in (processor, AutoProcessor.from_pretrained(tmp_path)):
        assert prompt_text(each, MODEL_TYPES["hfcap_llava"], "Say it.") == "user: <image>\nSay it.\ncaption: "


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ messages", "unexpected end of template"),
        ("{{ raise_exception('no user') }}", "no user"),
        ("{{ messages[0]['role'] + 5 }}", "can only concatenate str"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ 'text'.index('z') }}", "substring not found"),
        ("describe it", "the picture 0 times and the instruction 0 times"),
        (CHAT + CHAT, "the picture 2 times and the instruction 2 times"),
    ],
)
def test_a_chat_template_without_the_picture_is_one_line(template, says):
    with refused(option="chat_template", says=says):
        build_joined("llava", ["a dog runs"] * 6, chat_template=template)
