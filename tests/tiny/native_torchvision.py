"""Tiny random captioners whose processors need torchvision (they handle video as well), as in `tiny.native`."""

from transformers import (
    Gemma3Config,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ImageProcessorPil,
    Gemma4Processor,
    Gemma4VideoProcessor,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLProcessor,
    InternVLVideoProcessor,
    Lfm2VlConfig,
    Lfm2VlImageProcessor,
    Lfm2VlProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Mistral3Config,
    PixtralImageProcessorPil,
    PixtralProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3_5Config,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SmolVLMConfig,
    SmolVLMImageProcessorPil,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from tiny.native import CHAT, LLAMA, QWEN2, SIDE, SQUARE, TEXT, VISION, WIDTH, ids_of, tokenizer_of

QWEN_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_CHAT = CHAT.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")
QWEN_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}


def named_tokens(tokenizer, names):
    """A named special token is an attribute of the tokenizer, and is saved with it."""
    return type(tokenizer)(
        tokenizer_object=tokenizer.backend_tokenizer,
        pad_token=tokenizer.pad_token,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        extra_special_tokens=names,
    )


def build_smolvlm(captions):
    tokenizer = tokenizer_of(captions, "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    tokenizer.fake_image_token, tokenizer.image_token = "<fake_token_around_image>", "<image>"
    tokenizer.global_image_token, tokenizer.end_of_utterance_token = "<global-img>", "<end_of_utterance>"
    image_processor = SmolVLMImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": SIDE})
    processor = SmolVLMProcessor(
        image_processor, tokenizer, SmolVLMVideoProcessor(), image_seq_len=4, chat_template=CHAT
    )
    config = SmolVLMConfig(
        vision_config=VISION,
        text_config={**LLAMA, "vocab_size": len(tokenizer), **ids_of(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    return config, processor


def _qwen_ids(tokenizer):
    names = ("vision_start", "vision_end", "image", "video")
    return {f"{n}_token_id": tokenizer.convert_tokens_to_ids(t) for n, t in zip(names, QWEN_TOKENS, strict=True)}


def build_qwen2_vl(captions):
    tokenizer = tokenizer_of(captions, *QWEN_TOKENS)
    vision = {"depth": 2, "embed_dim": 32, "mlp_ratio": 2, "num_heads": 2, "patch_size": 8, "hidden_size": 32}
    text = {**QWEN2, "vocab_size": len(tokenizer), "rope_parameters": QWEN_ROPE, **ids_of(tokenizer)}
    config = Qwen2VLConfig(
        vision_config={**vision, "initializer_range": 0.2},
        text_config=text | {"model_type": "qwen2_vl_text"},
        **_qwen_ids(tokenizer),
    )
    limits = {"patch_size": 8, "min_pixels": 16 * 16, "max_pixels": SIDE * SIDE}
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessorPil(**limits), tokenizer, Qwen2VLVideoProcessor(**limits), chat_template=QWEN_CHAT
    )
    return config, processor


def build_qwen2_5_vl(captions):
    tokenizer = tokenizer_of(captions, *QWEN_TOKENS)
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 8}
    config = Qwen2_5_VLConfig(
        vision_config={**vision, "out_hidden_size": 32, "window_size": 32, "fullatt_block_indexes": [1]},
        text_config={**QWEN2, "vocab_size": len(tokenizer), "rope_parameters": QWEN_ROPE, **ids_of(tokenizer)}
        | {"model_type": "qwen2_5_vl_text"},
        **_qwen_ids(tokenizer),
    )
    limits = {"patch_size": 8, "min_pixels": 16 * 16, "max_pixels": SIDE * SIDE}
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessorPil(**limits), tokenizer, Qwen2VLVideoProcessor(**limits), chat_template=QWEN_CHAT
    )
    return config, processor


def build_qwen3_vl(captions):
    tokenizer = tokenizer_of(captions, *QWEN_TOKENS)
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 8}
    text = {**TEXT, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": len(tokenizer)}
    config = Qwen3VLConfig(
        vision_config={
            **vision,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
            "initializer_range": 0.2,
        },
        text_config={**text, "rope_parameters": QWEN_ROPE, **ids_of(tokenizer)},
        **_qwen_ids(tokenizer),
    )
    limits = {"patch_size": 8, "min_pixels": 16 * 16, "max_pixels": SIDE * SIDE}
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessorPil(**limits), tokenizer, Qwen3VLVideoProcessor(patch_size=8), chat_template=QWEN_CHAT
    )
    return config, processor


def build_qwen3_5(captions):
    tokenizer = tokenizer_of(captions, *QWEN_TOKENS)
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 8}
    config = Qwen3_5Config(
        vision_config={**vision, "out_hidden_size": 32, "num_position_embeddings": 16, "initializer_range": 0.2},
        text_config={
            **TEXT,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "rope_parameters": QWEN_ROPE | {"partial_rotary_factor": 0.5},
            "vocab_size": len(tokenizer),
            **ids_of(tokenizer),
        },
        **_qwen_ids(tokenizer),
    )
    limits = {"patch_size": 8, "min_pixels": 16 * 16, "max_pixels": SIDE * SIDE}
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessorPil(**limits), tokenizer, Qwen3VLVideoProcessor(patch_size=8), chat_template=QWEN_CHAT
    )
    return config, processor


def build_llava_onevision(captions):
    tokenizer = tokenizer_of(captions, "<image>", "<video>")
    pinpoints = [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE]]
    config = LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
        text_config={**QWEN2, "vocab_size": len(tokenizer), **ids_of(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
    )
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessorPil(**SQUARE, image_grid_pinpoints=pinpoints),
        tokenizer,
        LlavaOnevisionVideoProcessor(**SQUARE),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=CHAT,
    )
    return config, processor


def build_internvl(captions):
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = named_tokens(tokenizer_of(captions, *names.values()), names)
    vision = {**WIDTH, "num_attention_heads": 2, "image_size": [SIDE, SIDE], "patch_size": [8, 8]}
    config = InternVLConfig(
        vision_config=vision,
        text_config={**QWEN2, "vocab_size": len(tokenizer), "tie_word_embeddings": False, **ids_of(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    processor = InternVLProcessor(
        GotOcr2ImageProcessorPil(**SQUARE, max_patches=2),
        tokenizer,
        InternVLVideoProcessor(**SQUARE),
        image_seq_length=4,
        chat_template=CHAT.replace("<image>", "<IMG_CONTEXT>"),
    )
    return config, processor


def build_gemma3(captions):
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = named_tokens(tokenizer_of(captions, *names.values()), names)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
    config = Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
        text_config={
            **TEXT,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
            "vocab_size": len(tokenizer),
            **ids_of(tokenizer),
        },
        mm_tokens_per_image=4,
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
        image_token_index=ids["image_token"],
    )
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil(**SQUARE),
        tokenizer,
        image_seq_length=4,
        chat_template=CHAT.replace("<image>", "<start_of_image>"),
    )
    return config, processor


def build_lfm2_vl(captions):
    names = {"image_token": "<image>", "image_start_token": "<|image_start|>", "image_end_token": "<|image_end|>"}
    names |= {"image_thumbnail_token": "<|img_thumbnail|>"}
    tokenizer = named_tokens(tokenizer_of(captions, *names.values()), names)
    config = Lfm2VlConfig(
        vision_config={
            **WIDTH,
            "num_attention_heads": 2,
            "patch_size": 8,
            "num_patches": 16,
            "vision_use_head": False,
        },
        text_config={
            **TEXT,
            "num_key_value_heads": 2,
            "layer_types": ["conv", "full_attention"],
            "block_auto_adjust_ff_dim": False,
            "vocab_size": len(tokenizer),
            **ids_of(tokenizer),
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_size=32,
    )
    # A picture of 48 x 32 pixels is cut into two tiles, and comes whole as well.
    tiles = {"encoder_patch_size": 8, "tile_size": SIDE, "min_image_tokens": 4, "max_image_tokens": 4}
    image_processor = Lfm2VlImageProcessor(**tiles, max_tiles=2, max_pixels_tolerance=1.0)
    return config, Lfm2VlProcessor(image_processor, tokenizer, chat_template=CHAT)


def build_mistral3(captions, text="mistral"):
    tokenizer = tokenizer_of(captions, "[IMG]", "[IMG_BREAK]", "[IMG_END]")
    config = Mistral3Config(
        vision_config={**WIDTH, "num_attention_heads": 2, "patch_size": 8, "image_size": 64, "head_dim": 16},
        text_config={**LLAMA, "model_type": text, "head_dim": 8, "vocab_size": len(tokenizer), **ids_of(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
    )
    processor = PixtralProcessor(
        PixtralImageProcessorPil(size={"longest_edge": 48}, patch_size=16),
        tokenizer,
        patch_size=8,
        spatial_merge_size=2,
        chat_template=CHAT.replace("<image>", "[IMG]"),
    )
    return config, processor


def build_gemma4(captions, audio=False, **text):
    names = {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>"}
    names |= {"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"}
    tokenizer = named_tokens(tokenizer_of(captions, *names.values(), "<|video|>"), names)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
    vision = {"patch_size": 4, "pooling_kernel_size": 3}
    config = Gemma4Config(
        vision_config={**WIDTH, **vision, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
        | {"position_embedding_size": 64},
        text_config={
            **TEXT,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "global_head_dim": 8,
            "sliding_window": 32,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 8,
            "vocab_size": len(tokenizer),
            "vocab_size_per_layer_input": len(tokenizer),
            **ids_of(tokenizer),
            **text,
        },
        audio_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2} if audio else None,
        video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
        eoa_token_index=ids.pop("eoa_token"),
        **{f"{name}_id": value for name, value in ids.items()},
    )
    processor = Gemma4Processor(
        Gemma4AudioFeatureExtractor(),
        Gemma4ImageProcessorPil(**vision, max_soft_tokens=70),
        tokenizer,
        Gemma4VideoProcessor(**vision, max_soft_tokens=70),
        image_seq_length=70,
        chat_template=CHAT.replace("<image>", "<|image|>"),
    )
    return config, processor


BUILDERS = {
    "gemma4": build_gemma4,
    "lfm2_vl": build_lfm2_vl,
    "mistral3": build_mistral3,
    "qwen3_5": build_qwen3_5,
    "smolvlm": build_smolvlm,
    "qwen2_vl": build_qwen2_vl,
    "qwen2_5_vl": build_qwen2_5_vl,
    "qwen3_vl": build_qwen3_vl,
    "llava_onevision": build_llava_onevision,
    "internvl": build_internvl,
    "gemma3": build_gemma3,
}
