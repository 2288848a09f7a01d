"""Tiny random encoders, decoders and a tokenizer, built in process: no network, milliseconds."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    ConvNextConfig,
    Dinov2Config,
    GPT2Config,
    LlamaConfig,
    MobileNetV2Config,
    PreTrainedTokenizerFast,
    Qwen3Config,
    SiglipVisionConfig,
    ViTConfig,
)
from transformers.models.mobilenet_v2.image_processing_pil_mobilenet_v2 import MobileNetV2ImageProcessorPil

from hfcap.models import HfcapEncoderDecoderModel, HfcapLlavaForConditionalGeneration

IMAGE_SIZE = 32
VOCABULARY = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "\n", *(f"word{index}" for index in range(42))]
PAD, BOS, EOS, _, IMAGE_ID = range(5)

# initializer_range: at the usual 0.02 the logits hardly depend on the input, and a wrong model would pass.
_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
    "initializer_range": 0.2,
}
ENCODER_CONFIGS = {
    "mobilenet_v2": lambda: MobileNetV2Config(
        depth_multiplier=0.25, finegrained_output=False, output_stride=8, image_size=IMAGE_SIZE, initializer_range=0.2
    ),
    "convnext": lambda: ConvNextConfig(
        hidden_sizes=[8, 16, 24, 40],
        depths=[1, 1, 1, 1],
        patch_size=2,
        image_size=IMAGE_SIZE,
        layer_scale_init_value=1.0,
        initializer_range=0.2,
    ),
    "vit": lambda: ViTConfig(**_VIT),
    "siglip": lambda: SiglipVisionConfig(**_VIT),
    "dinov2": lambda: Dinov2Config(**_VIT, mlp_ratio=2),
}

_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": len(VOCABULARY),
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
_GPT2 = {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "vocab_size": len(VOCABULARY),
    "initializer_range": 0.2,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
LANGUAGE_MODEL_CONFIGS = {
    "llama": lambda: LlamaConfig(**_TEXT, num_key_value_heads=2),
    "qwen3": lambda: Qwen3Config(**_TEXT, num_key_value_heads=2, head_dim=8, tie_word_embeddings=True),
    "gpt2": lambda: GPT2Config(**_GPT2),
}
DECODER_CONFIGS = {
    "gpt2": lambda: GPT2Config(**_GPT2, is_decoder=True, add_cross_attention=True),
    "bert": lambda: BertConfig(**_TEXT, is_decoder=True, add_cross_attention=True),
}

BRIDGE = {
    "feature_layer_norm": True,
    "image_position_embeddings": True,
    "image_dropout": 0.1,
    "num_bridge_layers": 2,
}


def build_encoder(name, seed=0):
    torch.manual_seed(seed)
    encoder = AutoModel.from_config(ENCODER_CONFIGS[name]()).train()
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # fresh statistics would make all pictures look the same
            module.momentum = 1.0
    with torch.no_grad():
        encoder(random_images(8, seed=seed))
    return encoder.eval()


def build_llava(encoder="vit", language_model="llama", seed=0, **config_fields):
    vision_tower = build_encoder(encoder, seed)
    language_model = AutoModelForCausalLM.from_config(LANGUAGE_MODEL_CONFIGS[language_model]())
    model = HfcapLlavaForConditionalGeneration.from_parts(vision_tower, language_model, IMAGE_ID, **config_fields)
    return enlarge_new_parts(model).eval()


def build_encoder_decoder(encoder="vit", decoder="gpt2", seed=0, **config_fields):
    vision_encoder = build_encoder(encoder, seed)
    text_decoder = AutoModelForCausalLM.from_config(DECODER_CONFIGS[decoder]())
    model = HfcapEncoderDecoderModel.from_parts(vision_encoder, text_decoder, **config_fields)
    return enlarge_new_parts(model).eval()


def enlarge_new_parts(model):
    """Scale the 0.02 initialisation of the new layers up, so that the picture matters to the logits."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "multi_modal_projector" in name or "enc_to_dec_proj" in name:
                parameter.mul_(10)
    return model


def build_tokenizer():
    """Words split at spaces and line breaks; BOS is added, as Llama tokenizers do."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=["<image>"],
        padding_side="left",
    )


def build_image_processor():
    return MobileNetV2ImageProcessorPil(
        do_resize=True, size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, do_center_crop=False
    )


def random_images(count=2, seed=1):
    return torch.randn(count, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(seed))


def random_words(*shape, seed=2):
    return torch.randint(6, len(VOCABULARY), shape, generator=torch.Generator().manual_seed(seed))
