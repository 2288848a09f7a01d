"""Table of supported model types: parts, prompts, image tokens, packing, strategies.

A new model type is a new row: read its modeling and processing files, fill in the spec, and let
`tests/training/test_native_captioners.py` say whether they are true. Facts are data: no classes, no functions.
"""

from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedConfig

from hfcap.errors import ConfigError

Part = Literal["encoder", "projector", "lm"]

ALL_STRATEGIES = ("full", "frozen_encoder", "projector", "lora", "qlora")
WITHOUT_PROJECTOR = ("full", "frozen_encoder", "lora", "qlora")

# Language models in which packed rows give the gradient of separate ones: they take 4-D masks and explicit positions.
# Text decoders with cross-attention to the image come last.
PACKABLE_DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gpt2", "opt")
PACKABLE_CROSS_ATTENTION = ("gpt2", "bert")

# transformers that hfcap itself needs (pyproject.toml), and the oldest release in which exports were tried.
OWN_TRANSFORMERS, OLDEST_TRANSFORMERS = "5.21", "4.57.3"
# Encoders and language models with which they were.
PARTS_OF_OLDEST = ("vit", "dinov2", "dinov2_with_registers", "clip_vision_model", "siglip_vision_model")
PARTS_OF_OLDEST += ("blip_vision_model", "blip_2_vision_model", "blip_2_qformer", "git_vision_model")
PARTS_OF_OLDEST += ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text", "gpt2", "opt")
PARTS_OF_OLDEST += ("bert", "blip_text_model")


@dataclass(frozen=True)
class ModelTypeSpec:
    """Facts of one model type.

    Attributes:
        encoder: full name prefixes of the vision encoder's parameters and modules. Full, since a bare "vision_tower"
            matches nothing in a list of modules to leave unquantised, silently.
        projector: the same of what stands between the two, where it lies inside one of them or can stay out of 4 bits
            by name; a parameter that has none of these prefixes belongs to the projector as well.
        lm: the same of the language model.
        head: its output layer, which LoRA leaves alone and which stays out of 4 bits.
        strategies: what `strategy` may be.
        layout: "decoder_only", the caption goes on where the prompt ends (`input_ids`), or "encoder_decoder", the
            caption is a sequence of its own (`decoder_input_ids`).
        prompt: how the instruction is written: by the processor's "chat" template, or as "text" right after the image
            or the start token.
        image_tokens: whether the processor writes image tokens into the prompt, one for each image feature. Without
            them the model prepends the features itself (GIT) or attends to them (BLIP, encoder-decoders).
        image_token_in_text: the processor wants its image token before a "text" prompt, and warns of every picture
            without one (PaliGemma; the tokens are the same).
        fewest_image_tokens: of a picture that the model takes; Mistral 3 fails at a single one, unless there are other
            pictures in the batch.
        start_token: setting of the model's config that names the token before the prompt, for types without image
            tokens (the others leave it to tokenizer and template). Dots go into sub-configs.
        end_token: setting that names the token that ends a caption; None: the tokenizer's EOS, or SEP where it has no
            EOS.
        token_types: name of the per-token input that the processor computes for the prompt and the collator goes on
            for the caption (PaliGemma: prefix or suffix; Gemma 3 and Qwen: which tokens are an image).
        caption_token_type: its value for caption tokens.
        two_way: what is read in both directions: the tokens of the "image", or the whole "prefix" with the prompt. Its
            tokens are those whose type is not `caption_token_type`.
        mask_per_layer_type: the model takes a dictionary of masks, one for each kind of layer (`layer_types`).
        mrope: positions have three dimensions (M-RoPE), which the model's `get_rope_index` derives from token types
            and picture sizes.
        packable: language models (their `model_type`) with which packed rows give the loss and the gradient of
            separate rows; shown for each by a test.
        logits: for which positions the head computes vocabulary logits while training: the "targets" (the model, or a
            packable decoder, takes a boolean `logits_to_keep`), or the "text" (an integer: the last so many).
        generate_drops_last: `generate` cuts the last prompt token off (BLIP expects SEP there).
        generate_by: the part whose `generate`, and whose generation settings, the model's own `generate` uses.
        needs_torchvision: its processor handles video as well, which transformers does with torchvision alone.
        feature_input: name under which the model takes cached features, the raw output of its frozen encoder; None:
            there is no feature cache. Native models take them as `pixel_values`
            (`hfcap.models.vision_features.accept_cached_features`), if all pictures give features of one shape.
        oldest_transformers: oldest release that is known to caption with a native export as hfcap does, with parts of
            `PARTS_OF_OLDEST`; shown for each by a test. (Idefics 3 and SmolVLM place patches otherwise there.)
        onnx: whether `hfcap export --format onnx` writes it; shown for each by a test.
    """

    encoder: tuple[str, ...]
    projector: tuple[str, ...]
    lm: tuple[str, ...]
    head: tuple[str, ...] = ("lm_head",)
    strategies: tuple[str, ...] = ALL_STRATEGIES
    layout: Literal["decoder_only", "encoder_decoder"] = "decoder_only"
    prompt: Literal["chat", "text"] = "chat"
    image_tokens: bool = True
    image_token_in_text: bool = False
    fewest_image_tokens: int = 1
    start_token: str | None = None
    end_token: str | None = None
    token_types: str | None = None
    caption_token_type: int = 0
    two_way: Literal["image", "prefix"] | None = None
    mask_per_layer_type: bool = True
    mrope: bool = False
    packable: tuple[str, ...] = ()
    logits: Literal["targets", "text"] = "targets"
    generate_drops_last: bool = False
    generate_by: str | None = None
    needs_torchvision: bool = False
    feature_input: Literal["vision_features", "pixel_values"] | None = None
    oldest_transformers: str = OWN_TRANSFORMERS
    onnx: bool = False


_LLAVA_PARTS = {
    "encoder": ("model.vision_tower.",),
    "projector": ("model.multi_modal_projector.",),
    "lm": ("model.language_model.", "lm_head."),
}
_ENCODER_DECODER = {
    "encoder": ("encoder.",),
    "projector": ("enc_to_dec_proj.",),
    "lm": ("decoder.",),
    "head": ("decoder.lm_head", "decoder.cls"),
    "layout": "encoder_decoder",
    "prompt": "text",
    "image_tokens": False,
    "start_token": "decoder_start_token_id",
    "packable": PACKABLE_CROSS_ATTENTION,
}

_IDEFICS3 = {
    "encoder": ("model.vision_model.",),
    "projector": ("model.connector.",),
    "lm": ("model.text_model.", "lm_head."),
    "packable": PACKABLE_DECODERS,
}
_QWEN_VL = {
    "encoder": ("model.visual.",),
    "projector": ("model.visual.merger.", "model.visual.deepstack_merger_list."),
    "lm": ("model.language_model.", "lm_head."),
    "token_types": "mm_token_type_ids",
    "mrope": True,
    "needs_torchvision": True,
}

MODEL_TYPES: dict[str, ModelTypeSpec] = {
    "hfcap_llava": ModelTypeSpec(
        **_LLAVA_PARTS, packable=PACKABLE_DECODERS, feature_input="vision_features", onnx=True
    ),
    "hfcap_encoder_decoder": ModelTypeSpec(
        **_ENCODER_DECODER, strategies=("full", "frozen_encoder"), feature_input="vision_features", onnx=True
    ),
    "llava": ModelTypeSpec(
        **_LLAVA_PARTS,
        packable=PACKABLE_DECODERS,
        feature_input="pixel_values",
        oldest_transformers=OLDEST_TRANSFORMERS,
        onnx=True,
    ),
    "idefics3": ModelTypeSpec(**_IDEFICS3),
    "smolvlm": ModelTypeSpec(**_IDEFICS3, needs_torchvision=True),
    "llava_onevision": ModelTypeSpec(**_LLAVA_PARTS, packable=PACKABLE_DECODERS, needs_torchvision=True),
    "internvl": ModelTypeSpec(**_LLAVA_PARTS, packable=PACKABLE_DECODERS, needs_torchvision=True),
    "qwen2_vl": ModelTypeSpec(**_QWEN_VL, packable=("qwen2_vl_text",)),
    "qwen2_5_vl": ModelTypeSpec(**_QWEN_VL, packable=("qwen2_5_vl_text",)),
    "qwen3_vl": ModelTypeSpec(**_QWEN_VL, packable=("qwen3_vl_text",)),
    # Three of four layers of Qwen 3.5 are recurrent: a reference would go on from the end of the one beside it.
    "qwen3_5": ModelTypeSpec(**_QWEN_VL),
    "gemma3": ModelTypeSpec(
        **_LLAVA_PARTS,
        token_types="token_type_ids",
        two_way="image",
        packable=("gemma3_text",),
        oldest_transformers=OLDEST_TRANSFORMERS,
    ),
    # Its audio encoder hears nothing, and must not count as a projector.
    "gemma4": ModelTypeSpec(
        encoder=("model.vision_tower.", "model.audio_tower.", "model.embed_audio."),
        projector=("model.embed_vision.",),
        lm=("model.language_model.", "lm_head."),
        token_types="mm_token_type_ids",
        packable=("gemma4_text",),
        needs_torchvision=True,
    ),
    "mistral3": ModelTypeSpec(
        **_LLAVA_PARTS, packable=("mistral", "ministral3"), fewest_image_tokens=2, needs_torchvision=True
    ),
    # LFM 2's layers are convolutions in the main: a reference would read the end of the one beside it.
    "lfm2_vl": ModelTypeSpec(**_LLAVA_PARTS, needs_torchvision=True),
    "paligemma": ModelTypeSpec(
        **_LLAVA_PARTS,
        prompt="text",
        image_token_in_text=True,
        token_types="token_type_ids",
        caption_token_type=1,
        two_way="prefix",
        packable=("gemma", "gemma2"),
        mask_per_layer_type=False,
        feature_input="pixel_values",
        oldest_transformers=OLDEST_TRANSFORMERS,
    ),
    "blip-2": ModelTypeSpec(
        encoder=("vision_model.",),
        projector=("qformer.", "language_projection."),
        lm=("language_model.",),
        head=("language_model.lm_head",),
        prompt="text",
        end_token="text_config.eos_token_id",
        packable=PACKABLE_DECODERS,
        generate_by="language_model",
        feature_input="pixel_values",
        oldest_transformers=OLDEST_TRANSFORMERS,
    ),
    "blip": ModelTypeSpec(
        encoder=("vision_model.",),
        projector=(),
        lm=("text_decoder.",),
        head=("text_decoder.cls",),
        strategies=WITHOUT_PROJECTOR,
        prompt="text",
        image_tokens=False,
        start_token="text_config.bos_token_id",
        end_token="text_config.sep_token_id",
        packable=("blip_text_model",),
        generate_drops_last=True,
        generate_by="text_decoder",
        feature_input="pixel_values",
        oldest_transformers=OLDEST_TRANSFORMERS,
    ),
    # GIT puts its own columns for the picture before a 2-D mask, and cannot before a 4-D one.
    "git": ModelTypeSpec(
        encoder=("git.image_encoder.",),
        projector=("git.visual_projection.", "git.img_temporal_embedding."),
        lm=("git.embeddings.", "git.encoder.", "output."),
        head=("output",),
        prompt="text",
        image_tokens=False,
        start_token="bos_token_id",
        end_token="eos_token_id",
        logits="text",
        oldest_transformers=OLDEST_TRANSFORMERS,
    ),
    "vision-encoder-decoder": ModelTypeSpec(
        **_ENCODER_DECODER,
        strategies=WITHOUT_PROJECTOR,
        feature_input="pixel_values",
        oldest_transformers=OLDEST_TRANSFORMERS,
        onnx=True,
    ),
}


# Types that people train and the facts cannot describe, each with the reason.
NOT_SERVED = {
    "fast_vlm": "its encoder is one of timm, and no test has run it",
    "florence2": "it reads prompt and picture with an encoder and writes the caption with a decoder: two texts a row",
    "molmo2": "a picture has tokens of eight ids, all of which read each other, and no test has run it",
}


def spec_of_type(model_type: str) -> ModelTypeSpec:
    """Look up a model type.

    Raises:
        ConfigError: there are no facts about it; the message says why not, or names the file to extend.
    """
    if model_type in NOT_SERVED:
        raise ConfigError(
            NOT_SERVED[model_type],
            option="model_type",
            got=model_type,
            wanted=f"one of {', '.join(MODEL_TYPES)}",
            fix="choose another model",
        )
    if model_type not in MODEL_TYPES:
        raise ConfigError(
            option="model_type",
            got=model_type,
            wanted=f"one of {', '.join(MODEL_TYPES)}",
            fix="choose another model, or add a row to the table in src/hfcap/models/model_types.py",
        )
    return MODEL_TYPES[model_type]


def spec_of(config: PreTrainedConfig) -> ModelTypeSpec:
    """Look up the type of the captioner that `config` describes."""
    return spec_of_type(config.model_type)


def is_packable(config: PreTrainedConfig) -> bool:
    """Whether packed rows are known to give the gradient of separate rows with this captioner's language model.

    Where all layers share one mask, a picture must leave room in their sliding window (PaliGemma 2 with 896 pixels
    does not).
    """
    spec, language_model = spec_of(config), config.get_text_config(decoder=True)
    window = None if spec.mask_per_layer_type else getattr(language_model, "sliding_window", None)
    has_room = window is None or language_model.num_image_tokens < window
    # Gemma 4 from 26B on reads a picture in both directions, in some of its layers alone.
    is_causal = getattr(language_model, "use_bidirectional_attention", None) not in ("vision", "all")
    return has_room and is_causal and language_model.model_type in spec.packable


def oldest_transformers(config: PreTrainedConfig) -> str:
    """Oldest release of transformers that is known to caption with an export of this captioner as hfcap does."""
    parts = {part.model_type for part in vars(config).values() if isinstance(part, PreTrainedConfig)}
    return spec_of(config).oldest_transformers if parts <= set(PARTS_OF_OLDEST) else OWN_TRANSFORMERS


def setting_at(config: PreTrainedConfig, path: str) -> int | None:
    """Value of a setting of a config, or of a sub-config where the path has dots."""
    for name in path.split("."):
        config = getattr(config, name, None)
    return config


def model_types_table() -> str:
    """`MODEL_TYPES` as a Markdown table, for `docs/models.md`."""
    lines = [
        "| model type | prompt | image tokens | strategies | packed rows exact with | label-only logits "
        "| feature cache | needs |"
    ]
    lines.append("| --- " * 8 + "|")
    for model_type, spec in MODEL_TYPES.items():
        prompt = {"chat": "chat template", "text": "plain text"}[spec.prompt]
        packable = ", ".join(spec.packable) or "not packed"
        logits = "yes" if spec.logits == "targets" else "text positions"
        image_tokens = "in the prompt" if spec.image_tokens else "none"
        needs = "torchvision" if spec.needs_torchvision else ""
        cache, strategies = "yes" if spec.feature_input else "no", ", ".join(spec.strategies)
        cells = [f"`{model_type}`", prompt, image_tokens, strategies, packable, logits, cache, needs]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [f"| `{model_type}` | refused: {reason} |" + " |" * 6 for model_type, reason in NOT_SERVED.items()]
    return "\n".join(lines)
