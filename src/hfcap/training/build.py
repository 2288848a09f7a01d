"""Building of a captioner from an encoder and a decoder, with its processor."""

from collections.abc import Iterable

from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    ProcessorMixin,
    ViTImageProcessorPil,
)
from transformers.image_processing_utils import BaseImageProcessor

from hfcap.checkpoint_files import check_checkpoint
from hfcap.errors import ConfigError, as_config_error
from hfcap.generation.inputs import BLANK
from hfcap.generation.loading import check_image_processor, with_settings
from hfcap.generation.settings import (
    DEFAULT_DECODING,
    change_decoding,
    fresh_settings,
)
from hfcap.models import (
    HfcapEncoderDecoderModel,
    HfcapEncoderDecoderProcessor,
    HfcapLlavaForConditionalGeneration,
    HfcapLlavaProcessor,
    add_image_token,
    measure_image_features,
)
from hfcap.models.model_types import is_packable
from hfcap.models.model_utils import compile_layers
from hfcap.models.pretrained import load_vision_encoder, load_whole, loading, one_line, pretrained_config
from hfcap.training.arguments import CaptionTrainingArguments, EncoderArguments, ModelArguments
from hfcap.training.tokenizer_training import train_tokenizer


def build_captioner(
    model_args: ModelArguments, args: CaptionTrainingArguments, captions: Iterable[str]
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Join `encoder` and `decoder`, pretrained or from their configs, into a captioner of `family`, in float32.

    Weights in bfloat16, as most language models are published, would lose most of what AdamW adds to them.

    Args:
        model_args: which parts.
        args: decoding defaults, kept in the model's `generation_config`.
        captions: training captions, for the tokenizer of a decoder from scratch.

    Returns:
        The model, and the processor that `AutoProcessor` will load beside it.

    Raises:
        ConfigError: a pretrained part cannot be loaded, the parts do not fit each other, or the encoder does not take
            pictures of the size asked for.
    """
    encoder, image_processor = build_encoder(model_args)
    if model_args.decoder is None:
        tokenizer = train_tokenizer(captions, model_args.vocab_size, model_args.plain_text)
    else:
        check_checkpoint(model_args.decoder)
        with loading("decoder", model_args.decoder):
            tokenizer = AutoTokenizer.from_pretrained(model_args.decoder, trust_remote_code=False)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
    if model_args.chat_template is not None:
        tokenizer.chat_template = model_args.chat_template
    join = _join_llava if model_args.family == "llava" else _join_encoder_decoder
    with one_line("family", model_args.family, "cannot be built from these parts"):
        model, processor = join(model_args, encoder, image_processor, tokenizer)
    # Those of a pretrained decoder stay behind: it may sample, and penalise repetition.
    model.generation_config = fresh_settings(model, **DEFAULT_DECODING, early_stopping=True)
    set_decoding(model, args)
    return model, processor


def set_decoding(model: PreTrainedModel, args: CaptionTrainingArguments) -> None:
    """Let `model` decode, now and when it is saved, as a run asks; what a run does not say stays as it is.

    Raises:
        ConfigError: see `change_decoding`.
    """
    change_decoding(model, given_decoding(args))


def given_decoding(args: CaptionTrainingArguments) -> dict[str, int | float]:
    """Decoding settings that a run states."""
    return {name: getattr(args, name) for name in DEFAULT_DECODING if getattr(args, name) is not None}


def choose_kernels(model: PreTrainedModel | PeftModel, model_args: ModelArguments) -> None:
    """Let `model` train with FlexAttention and with compiled layers, where a run asks for them; both change rounding.

    Neither is saved, and captioning does without them (`hfcap.models.attention.eager_sdpa`).

    Raises:
        ConfigError: FlexAttention for a language model with which it was not shown to give the gradient of SDPA, or
            for which transformers does not have it.
    """
    if model_args.attn_implementation == "flex_attention":
        if not is_packable(model.config):
            language_model = model.config.get_text_config(decoder=True).model_type
            raise ConfigError(
                f"only packed rows use it, and {model.config.model_type} with {language_model} is not packed "
                "(docs/models.md)",
                option="attn_implementation",
                got="flex_attention",
                fix="remove it",
            )
        try:
            model.set_attn_implementation({"text_config": "flex_attention"})
        except ValueError as error:
            raise ConfigError(
                f"transformers does not have it for {model.config.model_type}",
                option="attn_implementation",
                got="flex_attention",
                fix="remove it",
            ) from error
    if model_args.compile_layers:
        compile_layers(model)


def build_encoder(model_args: EncoderArguments) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Load the pretrained `encoder`, or make one of `encoder_config`, with its image processor."""
    if model_args.encoder is not None:
        check_checkpoint(model_args.encoder)
        with loading("encoder", model_args.encoder):
            image_processor = AutoImageProcessor.from_pretrained(
                model_args.encoder, backend="pil", trust_remote_code=False
            )
            encoder = load_vision_encoder(model_args.encoder)
        check_image_processor(image_processor, "encoder", model_args.encoder)
        if model_args.image_size is not None:
            image_processor = with_side(image_processor, model_args.image_size)
            check_image_processor(image_processor, "image_size", model_args.image_size)
        return encoder, image_processor
    encoder = AutoModel.from_config(AutoConfig.for_model(**model_args.encoder_config))
    side = model_args.image_size
    image_processor = ViTImageProcessorPil(
        size={"height": side, "width": side}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    check_image_processor(image_processor, "image_size", side)
    return encoder, image_processor


def picture_size(encoder: PreTrainedModel, image_processor: BaseImageProcessor) -> int | list[int]:
    """Size in pixels of the pictures that an image processor makes, which an encoder's config may not state.

    Raises:
        ConfigError: the encoder does not take pictures of this size.
    """
    height, width = image_processor([BLANK], return_tensors="pt")["pixel_values"].shape[-2:]
    size, own = height if height == width else [height, width], getattr(encoder.config, "image_size", None)
    try:
        measure_image_features(encoder, size)
    except (ValueError, RuntimeError) as error:
        sides = list(own) if isinstance(own, (list, tuple)) else [own, own]
        if own is None or sides == [height, width]:
            raise
        option = f"set image_size: {sides[0]}, or " if sides[0] == sides[1] else ""  # its sides are equal
        raise ConfigError(
            f"the {encoder.config.model_type} encoder is for images of {own} pixels, and its image processor makes "
            f"{size}",
            option="image_size",
            fix=f"{option}pass an encoder for {size}",
        ) from error
    return size


def with_side(image_processor: BaseImageProcessor, side: int) -> BaseImageProcessor:
    """Let an image processor make squares of `side` pixels: squeezed or cropped, as it did."""
    settings = image_processor.to_dict()
    size, crop = settings["size"], settings.get("crop_size")
    if "shortest_edge" in size:
        size = {"shortest_edge": round(size["shortest_edge"] * side / crop["height"]) if crop else side}
    else:
        size = {"height": side, "width": side}
    return with_settings(
        image_processor, {"size": size} | ({"crop_size": {"height": side, "width": side}} if crop else {})
    )


def _load_decoder(source: str, **settings) -> PreTrainedModel:
    """Load a language model in float32, some settings of its config changed."""
    config = pretrained_config("decoder", source)
    config.update(settings)  # as keywords of the model, those that the config does not have would go to its __init__
    return load_whole(AutoModelForCausalLM, "decoder", source, may_lack=r"cross_?att|encoder_attn", config=config)


def _join_llava(model_args, encoder, image_processor, tokenizer) -> tuple[PreTrainedModel, ProcessorMixin]:
    image_token_id = add_image_token(tokenizer)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    if model_args.decoder is not None:
        decoder = _load_decoder(model_args.decoder)
        # The mean of the others is a sensible start, but costs a covariance; the image token's row is never read.
        decoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    else:
        config = AutoConfig.for_model(**model_args.decoder_config, vocab_size=len(tokenizer), **ids)
        decoder = AutoModelForCausalLM.from_config(config)
    model = HfcapLlavaForConditionalGeneration.from_parts(
        encoder,
        decoder,
        image_token_id,
        image_size=picture_size(encoder, image_processor),
        **(model_args.bridge_config or {}),
    )
    model.generation_config.update(**ids)
    processor = HfcapLlavaProcessor(image_processor, tokenizer, image_seq_length=model.config.image_seq_length)
    if model_args.chat_template is not None:
        _check_chat_template(processor, model_args.chat_template)
    return model, processor


def _check_chat_template(processor: HfcapLlavaProcessor, template: str) -> None:
    """Refuse a template that does not render, or does not show the picture and the instruction once each."""
    content = [{"type": "image"}, {"type": "text", "text": "INSTRUCTION"}]
    with as_config_error("chat_template", (Exception,)):  # a template is a program: it may divide by 0
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    counts = text.count(processor.image_token), text.count("INSTRUCTION")
    if counts != (1, 1):
        raise ConfigError(
            f"it shows the picture {counts[0]} times and the instruction {counts[1]} times",
            option="chat_template",
            got=template,
            fix="show the content of each message once (message['content'], a string)",
        )


def _join_encoder_decoder(model_args, encoder, image_processor, tokenizer) -> tuple[PreTrainedModel, ProcessorMixin]:
    processor = HfcapEncoderDecoderProcessor(image_processor, tokenizer)
    ids = {"bos_token_id": processor.start_token_id, "eos_token_id": processor.end_token_id}
    ids["pad_token_id"] = tokenizer.pad_token_id
    cross_attention = {"is_decoder": True, "add_cross_attention": True}
    if model_args.decoder is not None:
        decoder = _load_decoder(model_args.decoder, **cross_attention)
    else:
        config = AutoConfig.for_model(**model_args.decoder_config, **cross_attention, **ids, vocab_size=len(tokenizer))
        decoder = AutoModelForCausalLM.from_config(config)
    model = HfcapEncoderDecoderModel.from_parts(
        encoder,
        decoder,
        decoder_start_token_id=processor.start_token_id,
        eos_token_id=processor.end_token_id,
        pad_token_id=tokenizer.pad_token_id,
        image_size=picture_size(encoder, image_processor),
        **(model_args.bridge_config or {}),
    )
    return model, processor
