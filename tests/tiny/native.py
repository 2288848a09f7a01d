"""Tiny random native captioners of transformers, one builder a model type, each with the processor it ships with."""

import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForImageTextToText,
    Blip2Config,
    Blip2Processor,
    BlipConfig,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    GitConfig,
    GitProcessor,
    Idefics3Config,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlavaConfig,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaProcessor,
    SiglipImageProcessorPil,
    TrOCRProcessor,
    VisionEncoderDecoderConfig,
    ViTImageProcessorPil,
)

from hfcap.training.tokenizer_training import train_tokenizer

SIDE = 32
# Larger weights than usual: at 0.02 the logits hardly depend on the picture, and a wrong model would pass.
WIDTH = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "initializer_range": 0.2}
VISION = {**WIDTH, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 8}  # 16 patches
TEXT = {**WIDTH, "num_attention_heads": 4, "max_position_embeddings": 256}
LLAMA = {"model_type": "llama", **TEXT, "num_key_value_heads": 2}
QWEN2 = {"model_type": "qwen2", **TEXT, "num_key_value_heads": 2}
BERT = {"model_type": "bert", **TEXT, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
GPT2 = {
    "model_type": "gpt2",
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 256,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "initializer_range": 0.2,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SQUARE = {"size": {"height": SIDE, "width": SIDE}}
# As the published templates of these types write a prompt: an image token, the text, and who speaks next.
CHAT = (
    "{% for message in messages %}{% for item in message.content %}{{ '<image>' if item.type == 'image' else "
    "item.text }}{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def tokenizer_of(captions, *special, cls_sep=False):
    tokenizer = train_tokenizer(captions, 350)
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    if cls_sep:
        tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]"})
        tokenizer.eos_token = tokenizer.bos_token = None
        # As BERT's does, which BLIP and GIT come with.
        around = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]")]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    return tokenizer


def ids_of(tokenizer):
    names = ("pad", "bos", "eos")
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}


def build_llava(captions, text=LLAMA):
    tokenizer = tokenizer_of(captions, "<image>")
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **VISION},
        text_config={**text, "vocab_size": len(tokenizer), **ids_of(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE["size"])
    return config, LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )


def build_idefics3(captions):
    tokenizer = tokenizer_of(captions, "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    image_processor = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": SIDE})
    processor = Idefics3Processor(image_processor, tokenizer, image_seq_len=4, chat_template=CHAT)
    config = Idefics3Config(
        vision_config=VISION,
        text_config={**LLAMA, "vocab_size": len(tokenizer), **ids_of(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        scale_factor=2,
    )
    return config, processor


def build_paligemma(captions):
    tokenizer = tokenizer_of(captions)
    processor = PaliGemmaProcessor(SiglipImageProcessorPil(**SQUARE, image_seq_length=16), tokenizer)
    config = PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False, "projection_dim": 32},
        text_config={
            **LLAMA,
            "model_type": "gemma",
            "head_dim": 8,
            "vocab_size": len(tokenizer),
            **ids_of(tokenizer),
        },
        image_token_index=processor.image_token_id,
        projection_dim=32,
        hidden_size=32,
    )
    return config, processor


def build_blip(captions):
    tokenizer = tokenizer_of(captions, "[DEC]", cls_sep=True)
    config = BlipConfig(
        vision_config=VISION,
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.convert_tokens_to_ids("[DEC]"),
            "pad_token_id": tokenizer.pad_token_id,
            "sep_token_id": tokenizer.sep_token_id,
        },
    )
    return config, BlipProcessor(BlipImageProcessorPil(**SQUARE), tokenizer)


def build_blip_2(captions):
    tokenizer = tokenizer_of(captions)
    processor = Blip2Processor(BlipImageProcessorPil(**SQUARE), tokenizer, num_query_tokens=4)
    opt = {"model_type": "opt", "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Blip2Config(
        vision_config=VISION,
        qformer_config={**TEXT, **NO_DROPOUT, "vocab_size": len(tokenizer)},
        text_config={
            **opt,
            "word_embed_proj_dim": 32,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 256,
            "dropout": 0.0,
            "init_std": 0.2,
            **ids_of(tokenizer),
        },
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return config, processor


def build_git(captions):
    tokenizer = tokenizer_of(captions, cls_sep=True)
    config = GitConfig(
        vision_config=VISION,
        **TEXT,
        **NO_DROPOUT,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE["size"])
    return config, GitProcessor(image_processor, tokenizer)


def build_vision_encoder_decoder(captions, decoder=GPT2):
    tokenizer = tokenizer_of(captions)
    config = VisionEncoderDecoderConfig(
        encoder={"model_type": "vit", **VISION, "hidden_size": 48},
        decoder={
            **decoder,
            "vocab_size": len(tokenizer),
            "is_decoder": True,
            "add_cross_attention": True,
            **ids_of(tokenizer),
        },
        decoder_start_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return config, TrOCRProcessor(ViTImageProcessorPil(**SQUARE), tokenizer)


BUILDERS = {
    "llava": build_llava,
    "idefics3": build_idefics3,
    "paligemma": build_paligemma,
    "blip": build_blip,
    "blip-2": build_blip_2,
    "git": build_git,
    "vision-encoder-decoder": build_vision_encoder_decoder,
}


# Their processors handle video, for which transformers needs torchvision (SmolVLM: num2words as well).
PROMPT = "describe the picture"
NEED_TORCHVISION = ("smolvlm", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl", "gemma3")
NEED_TORCHVISION += ("lfm2_vl", "mistral3", "qwen3_5", "gemma4")


def build_native(model_type, captions, **options):
    """Model and processor of a type, with the same weights every time."""
    if model_type in BUILDERS:
        builder = BUILDERS[model_type]
    else:
        from tiny import native_torchvision

        builder = native_torchvision.BUILDERS[model_type]
    config, processor = builder(captions, **options)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # BLIP-2 and Gemma 3 start these from zero, and a norm behind makes any step from there a large one.
            if name == "query_tokens" or name.endswith("mm_input_projection_weight"):
                parameter.normal_()
    return model.eval(), processor
