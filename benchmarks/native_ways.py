"""Native captioners that `train_throughput.py --native` trains in both ways: Qwen3-VL and Gemma 3 of chosen sizes."""

import torch
from transformers import (
    AutoModelForImageTextToText,
    Gemma3Config,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLProcessor,
)

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CHAT = (
    "{% for message in messages %}{% for item in message.content %}{{ 'IMAGE' if item.type == 'image' else "
    "item.text }}{% endfor %}{% endfor %}{{ '\\n' }}"
)


class Qwen3VLImageProcessor(Qwen3VLProcessor):
    """Without the part for video, which needs torchvision."""

    def check_argument_for_proper_class(self, argument_name, argument):
        """Let the video processor be missing."""
        if argument_name != "video_processor":
            super().check_argument_for_proper_class(argument_name, argument)


def build_qwen3_vl(settings, tokenizer: PreTrainedTokenizerFast):
    """Model and processor; four patches of the encoder make an image token, and half of its layers are deepstack's."""
    names = {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    names |= {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    tokenizer.add_special_tokens({"additional_special_tokens": list(names.values())})
    encoder, text = settings.encoder, settings.llama
    config = Qwen3VLConfig(
        vision_config={
            "depth": encoder["num_hidden_layers"],
            "hidden_size": encoder["hidden_size"],
            "intermediate_size": encoder["intermediate_size"],
            "num_heads": encoder["num_attention_heads"],
            "patch_size": encoder["patch_size"],
            "out_hidden_size": text["hidden_size"],
            "num_position_embeddings": 4 * settings.image_tokens,
            "deepstack_visual_indexes": list(range(0, encoder["num_hidden_layers"], 2)),
        },
        text_config={
            **text,
            **IDS,
            "head_dim": text["hidden_size"] // text["num_attention_heads"],
            "vocab_size": len(tokenizer),
        },
        **{f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()},
    )
    pixels = settings.image_size**2
    image_processor = Qwen2VLImageProcessorPil(patch_size=encoder["patch_size"], min_pixels=pixels, max_pixels=pixels)
    prompt = CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    return config, Qwen3VLImageProcessor(image_processor, tokenizer, None, chat_template=prompt)


def build_gemma3(settings, tokenizer: PreTrainedTokenizerFast):
    """Model and processor, with Gemma 3's pattern of layers: every sixth one sees more than the window of 1,024."""
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer.add_special_tokens({"additional_special_tokens": list(names.values())})
    tokenizer = type(tokenizer)(
        tokenizer_object=tokenizer.backend_tokenizer,
        pad_token=tokenizer.pad_token,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        padding_side=tokenizer.padding_side,
        extra_special_tokens=names,
    )
    text, side = settings.llama, settings.image_size
    head_dim = text["hidden_size"] // text["num_attention_heads"]
    config = Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", **settings.encoder, "vision_use_head": False},
        text_config={
            **text,
            **IDS,
            "head_dim": head_dim,
            "query_pre_attn_scalar": head_dim,
            "sliding_window": 1024,
            "vocab_size": len(tokenizer),
        },
        mm_tokens_per_image=settings.image_tokens,
        **{f"{name}_index": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()},
    )
    processor = Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": side, "width": side}),
        tokenizer,
        image_seq_length=settings.image_tokens,
        chat_template=CHAT.replace("IMAGE", "<start_of_image>"),
    )
    return config, processor


BUILDERS = {"qwen3_vl": build_qwen3_vl, "gemma3": build_gemma3}


def build_native(settings, tokenizer: PreTrainedTokenizerFast):
    """Model and processor of `settings.native`, with the same random weights every time."""
    config, processor = BUILDERS[settings.native](settings, tokenizer)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    if settings.native == "gemma3":
        # It starts from zero, and then neither encoder nor picture would have a gradient.
        torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.02)
    return model, processor
