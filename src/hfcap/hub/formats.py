"""Export formats: a stock transformers class, hfcap's own, or hfcap's own with remote code.

In this order: a stock transformers class (nothing to install), ours after `pip install "hfcap[train]"`, ours with the
code in the repository (`trust_remote_code`). What stock classes can express is said in one place, here, and by a test
a row.
"""

import copy
from typing import Literal

import torch
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    TrOCRProcessor,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)

from hfcap.errors import ConfigError
from hfcap.generation.inputs import keep_caption_prompt
from hfcap.models import (
    HfcapEncoderDecoderModel,
    HfcapLlavaForConditionalGeneration,
    measure_image_features,
)
from hfcap.models.image_features import get_image_size

Format = Literal["native", "hfcap", "remote-code"]


def choose_format(model: PreTrainedModel, wanted: str = "auto") -> tuple[Format, str]:
    """Choose the form to ship a captioner in.

    Args:
        model: the captioner.
        wanted: "auto", or a `Format` that it must be.

    Returns:
        The format, and the reason in a line.

    Raises:
        ConfigError: the captioner cannot be shipped as wanted.
    """
    if not isinstance(model, HfcapLlavaForConditionalGeneration | HfcapEncoderDecoderModel):
        if wanted not in ("auto", "native"):
            raise ConfigError(
                f"{type(model).__name__} is a transformers class already",
                option="--format",
                got=wanted,
                wanted="native",
            )
        return "native", f"{type(model).__name__} is a class of transformers"
    stock = LlavaForConditionalGeneration if _is_llava(model) else VisionEncoderDecoderModel
    obstacle = llava_obstacle(model) if _is_llava(model) else encoder_decoder_obstacle(model)
    if wanted == "native" and obstacle:
        raise ConfigError(
            f"{stock.__name__} cannot express {obstacle}",
            option="--format",
            got=wanted,
            fix="use hfcap or remote-code",
        )
    if wanted in ("hfcap", "remote-code"):
        return wanted, "as asked for"
    if obstacle:
        return "hfcap", f'{stock.__name__} cannot express {obstacle}; needs `pip install "hfcap[train]"`'
    return "native", f"{stock.__name__} expresses all of it"


def _is_llava(model: PreTrainedModel) -> bool:
    return isinstance(model, HfcapLlavaForConditionalGeneration)


def _num_prefix_tokens(encoder: PreTrainedModel, config: PreTrainedConfig) -> int:
    """CLS and register tokens that an encoder puts before its patches."""
    shape = measure_image_features(encoder, get_image_size(encoder.config, config.image_size))
    return shape.num_tokens - shape.rows * shape.columns


def _is_vit(config: PreTrainedConfig) -> bool:
    """Whether stock classes can read the width of the encoder's features and the size of its patches."""
    return all(isinstance(getattr(config, name, None), int) for name in ("hidden_size", "patch_size"))


def llava_obstacle(model: HfcapLlavaForConditionalGeneration) -> str | None:
    """Say what stock LLaVA cannot express about a captioner, or None."""
    config, tower = model.config, model.model.vision_tower
    if not _is_vit(config.vision_config):
        return f"a {config.vision_config.model_type} encoder (no hidden_size and patch_size)"
    if config.pixel_shuffle_factor > 1:
        return f"pixel_shuffle_factor={config.pixel_shuffle_factor}"
    if config.image_position_embeddings:
        return "image_position_embeddings=True"
    if config.vision_feature_layer is None:
        return "vision_feature_layer=None (features after the final LayerNorm)"
    prefix = _num_prefix_tokens(tower, config)
    if config.vision_feature_select_strategy == "default" and prefix > 1:
        return f"dropping {prefix} tokens before the patches (it drops one)"
    kept = prefix if config.vision_feature_select_strategy == "full" else 0
    rows, columns = (side // config.vision_config.patch_size for side in _sides(tower.config, config))
    if rows * columns + kept != config.image_seq_length:
        return f"{config.image_seq_length} image tokens ({rows} x {columns} patches, {kept} others)"
    embeddings = getattr(model.model.language_model, "embed_tokens", None)
    if config.tie_word_embeddings and embeddings is not model.get_input_embeddings():
        return f"the tied embeddings of {config.text_config.model_type} (not named embed_tokens)"
    return None


def _sides(encoder_config: PreTrainedConfig, config: PreTrainedConfig) -> tuple[int, int]:
    size = get_image_size(encoder_config, config.image_size)
    return (size, size) if isinstance(size, int) else tuple(size)


def encoder_decoder_obstacle(model: HfcapEncoderDecoderModel) -> str | None:
    """Say what a stock VisionEncoderDecoderModel cannot express about a captioner, or None."""
    config = model.config
    if not isinstance(getattr(config.encoder, "hidden_size", None), int):
        return f"a {config.encoder.model_type} encoder (no hidden_size)"
    # The dropouts do nothing once trained.
    for name in ("feature_layer_norm", "image_position_embeddings", "num_bridge_layers"):
        if getattr(config, name):
            return f"{name}={getattr(config, name)}"
    if config.vision_feature_layer is not None:
        return f"vision_feature_layer={config.vision_feature_layer} (it takes the last)"
    if config.vision_feature_select_strategy == "default" and _num_prefix_tokens(model.encoder, config):
        return "dropping the tokens before the patches"
    return None


def to_stock(model: PreTrainedModel, processor: ProcessorMixin) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Give the same weights and settings as stock classes; the tensors are shared, not copied.

    A captioner of a stock class is given back as it is. What `choose_format` does not call native must not come here.
    """
    if not isinstance(model, HfcapLlavaForConditionalGeneration | HfcapEncoderDecoderModel):
        return model, processor
    convert = _to_stock_llava if _is_llava(model) else _to_stock_encoder_decoder
    # On the meta device no memory is taken and nothing is initialised: the tensors come from the trained model.
    with torch.device("meta"):
        stock, stock_processor = convert(model, processor)
    stock.load_state_dict(model.state_dict(), strict=True, assign=True)
    stock.tie_weights()
    stock.config.dtype = model.dtype
    stock.generation_config = copy.deepcopy(model.generation_config)
    return stock, stock_processor


def _to_stock_llava(model, processor) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    config, prefix = model.config, _num_prefix_tokens(model.model.vision_tower, model.config)
    if processor.caption_prompt is not None:
        keep_caption_prompt(processor, processor.caption_prompt)
    # Stock "default" drops the first token of any encoder, CLS or not.
    strategy = "default" if prefix and config.vision_feature_select_strategy == "default" else "full"
    stock_config = LlavaConfig(
        vision_config=config.vision_config.to_dict(),
        text_config=config.text_config.to_dict(),
        image_token_index=config.image_token_id,
        image_seq_length=config.image_seq_length,
        projector_hidden_act=config.projector_hidden_act,
        multimodal_projector_bias=config.multimodal_projector_bias,
        vision_feature_layer=config.vision_feature_layer,
        vision_feature_select_strategy=strategy,
        tie_word_embeddings=config.tie_word_embeddings,
    )
    stock_processor = LlavaProcessor(
        processor.image_processor,
        processor.tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=strategy,
        chat_template=processor.chat_template,
        image_token=processor.image_token,
        num_additional_image_tokens=prefix,
    )
    return LlavaForConditionalGeneration(stock_config), stock_processor


def _to_stock_encoder_decoder(model, processor) -> tuple[VisionEncoderDecoderModel, TrOCRProcessor]:
    config = model.config
    stock_config = VisionEncoderDecoderConfig(
        encoder=config.encoder.to_dict(),
        decoder=config.decoder.to_dict(),
        pad_token_id=config.pad_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
        eos_token_id=config.eos_token_id,
    )
    stock_processor = TrOCRProcessor(processor.image_processor, processor.tokenizer)
    return VisionEncoderDecoderModel(stock_config), stock_processor
