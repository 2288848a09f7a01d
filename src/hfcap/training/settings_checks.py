"""Checks of settings against each other, before any weights load."""

import logging
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Literal

import torch
from transformers import GenerationConfig, PreTrainedConfig

from hfcap.errors import ConfigError
from hfcap.generation.settings import DEFAULT_DECODING, check_savable
from hfcap.models import HfcapEncoderDecoderConfig, HfcapLlavaConfig
from hfcap.models.model_types import MODEL_TYPES, is_packable, spec_of_type
from hfcap.models.pretrained import pretrained_config
from hfcap.training.arguments import (
    CaptionTrainingArguments,
    DataArguments,
    EncoderArguments,
    ModelArguments,
    QLoraArguments,
)
from hfcap.training.build import given_decoding
from hfcap.training.config_checks import check_decoder, check_keys, config_class_of
from hfcap.training.engine import current_backend
from hfcap.training.strategies import TRAINED_PARTS
from hfcap.training.support import FAMILIES, NOT_ON_FSDP2, SUPPORT, Backend

logger = logging.getLogger(__name__)


# Settings of a captioner that is joined from parts: a loaded one has them already.
BUILDING = (
    "family",
    "encoder",
    "encoder_training",
    "encoder_config",
    "image_size",
    "decoder",
    "decoder_config",
    "bridge_config",
    "vocab_size",
    "plain_text",
)


def check_settings(
    data_args: DataArguments, model_args: ModelArguments, args: CaptionTrainingArguments, model_type: str
) -> None:
    """Check all settings of a run that trains a captioner of `model_type`, on the engine that will train it.

    Raises:
        ConfigError: see `check_supported`, `check_learning_rates`, `check_data` and `check_decoding`.
    """
    check_supported(model_args, model_type, current_backend())
    check_learning_rates(model_args, args, model_type)
    check_data(data_args, model_args, args)
    check_decoding(args, model_args.strategy in ("lora", "qlora"))


def check_supported(args: ModelArguments, model_type: str, backend: Backend) -> None:
    """Refuse what cannot work.

    Raises:
        ConfigError: strategy, model type and backend do not fit, or LoRA has no checkpoint to start from; cached
            features do not fit the model type or the strategy; FlexAttention does not fit the model type or the
            machine, or compiled layers the backend.
    """
    spec, family = spec_of_type(model_type), FAMILIES.get(model_type, "native")
    if args.strategy not in spec.strategies:
        raise ConfigError(
            f"strategy {args.strategy!r} is not offered for {model_type}: choose one of {', '.join(spec.strategies)}"
        )
    if args.strategy == "lora" and args.model is None:
        raise ConfigError(
            "strategy 'lora' needs a base model: pass --model, for "
            "instance the run of these parts with strategy 'projector'"
        )
    backends = SUPPORT[family, args.strategy]
    if backend not in backends:
        raise ConfigError(
            f"strategy {args.strategy!r} of {model_type} is not offered on {backend}: use one of {', '.join(backends)}"
        )
    if backend == "fsdp2" and model_type in NOT_ON_FSDP2:
        raise ConfigError(f"{model_type} is not offered on {backend}: use DDP or a ZeRO stage (docs/compatibility.md)")
    _check_kernels(args, model_type, backend)
    if args.feature_cache and spec.feature_input is None:
        able = ", ".join(name for name, other in MODEL_TYPES.items() if other.feature_input)
        raise ConfigError(
            f"feature_cache: {model_type} takes no cached features ({able} do): set feature_cache: false"
        )
    if args.feature_cache and "encoder" in TRAINED_PARTS[args.strategy]:
        raise ConfigError(
            f"feature_cache needs a frozen encoder, and strategy {args.strategy!r} trains it: "
            "set strategy: frozen_encoder, or feature_cache: false"
        )


def _check_kernels(args: ModelArguments, model_type: str, backend: Backend) -> None:
    if args.attn_implementation == "flex_attention":
        if spec_of_type(model_type).layout == "encoder_decoder":
            raise ConfigError(
                f"attn_implementation: flex_attention is for image and text in one row, and {model_type} looks at the "
                "image apart from its text; leave it out"
            )
        if not torch.cuda.is_available():
            raise ConfigError("attn_implementation: flex_attention trains on a GPU alone; leave it out here")
    if args.compile_layers and backend not in ("single", "ddp"):
        raise ConfigError(f"compile_layers is not offered on {backend}, which hooks into every layer; leave it out")


def check_learning_rates(model_args: ModelArguments, args: CaptionTrainingArguments, model_type: str) -> None:
    """Check that a part with a learning rate of its own trains.

    Raises:
        ConfigError: the strategy keeps it frozen, or the type has no such part: the rate would be left unread.
    """
    for part in ("encoder", "projector"):
        name = f"{part}_learning_rate"
        if getattr(args, name) is None:
            continue
        if not getattr(spec_of_type(model_type), part):
            raise ConfigError(f"{name} is {getattr(args, name):g}, and {model_type} has no {part}; leave it out")
        if part not in TRAINED_PARTS[model_args.strategy]:
            able = [strategy for strategy, parts in TRAINED_PARTS.items() if part in parts]
            raise ConfigError(
                f"{name} is {getattr(args, name):g}, and strategy {model_args.strategy!r} keeps the {part} frozen; "
                f"leave it out, or set strategy: {' or '.join(able)}"
            )


def choose_packing(packing: Literal["auto", "always", "never"], config: PreTrainedConfig) -> bool:
    """Whether a run lays all references of an image behind one copy of it.

    Raises:
        ConfigError: "always" for a model whose packed rows are not known to give the gradient of separate ones.
    """
    if packing == "never" or is_packable(config):
        return packing != "never"
    language_model = config.get_text_config(decoder=True).model_type
    reason = f"{config.model_type} with {language_model} is not among the models whose packed rows are exact"
    if packing == "always":
        raise ConfigError(
            f"packing: {reason} (docs/models.md lists them); set packing: auto for one row per reference"
        )
    logger.info("one row per reference, no packing: %s", reason)
    return False


def check_data(data_args: DataArguments, model_args: ModelArguments, args: CaptionTrainingArguments) -> None:
    """Check that the way data is read fits how it is used.

    Raises:
        ConfigError: a stream without `max_steps`, or with cached features; cached features of pictures that change.
    """
    if data_args.streaming and args.max_steps <= 0:
        raise ConfigError("streaming: a stream has no length; give max_steps, the optimizer steps to train")
    if data_args.streaming and model_args.feature_cache:
        raise ConfigError("streaming: the feature cache holds a whole data set; leave out one of the two")
    changing = [name for name, off in (("crop", 1), ("color_jitter", 0)) if getattr(data_args, name) != off]
    if model_args.feature_cache and changing:
        raise ConfigError(
            f"{changing[0]}: cached features are those of the plain (and mirrored) picture; leave it out, or set "
            "feature_cache: false"
        )


def check_captioner(args: ModelArguments) -> None:
    """Check that the arguments of a recipe name one captioner.

    Raises:
        ConfigError: neither a model nor its parts are named, or both are; 4 bits are asked for in another recipe than
            `train_qlora.py`; a setting would be left unread; a part does not exist, or does not fit the family.
    """
    if isinstance(args, QLoraArguments):
        check_model(args)
        return
    if args.strategy == "qlora":
        raise ConfigError(
            "strategy 'qlora' loads a `model` in 4 bits, and recipes/train_qlora.py does: use that recipe"
        )
    unused = _changed(args, ("lora_r", "lora_alpha", "lora_dropout"))
    if unused and args.strategy != "lora":
        raise ConfigError(f"{unused[0]}: strategy {args.strategy!r} has no LoRA; leave it out, or set strategy: lora")
    if args.model is not None:
        check_model(args)
        return
    for part in ("encoder", "decoder"):
        _check_part(args, part)
    if args.decoder is None:
        decoder_class = config_class_of("decoder_config", args.decoder_config)
    else:
        decoder_class = type(pretrained_config("decoder", args.decoder))
        unused = _changed(args, ("vocab_size", "plain_text"))
        if unused:
            raise ConfigError(f"{unused[0]}: decoder {args.decoder!r} brings a tokenizer of its own; leave it out")
    check_decoder(args.family, decoder_class)
    captioner = HfcapLlavaConfig if args.family == "llava" else HfcapEncoderDecoderConfig
    check_keys("bridge_config", args.bridge_config or {}, captioner)
    if args.encoder is not None and args.encoder_training is None:
        pretrained_config("encoder", args.encoder)
    if args.encoder_training is not None and args.encoder is None:
        raise ConfigError("encoder_training: say with `encoder` where its run leaves the encoder (its model/)")
    if args.encoder_config is not None and args.image_size is None:
        raise ConfigError("image_size: an encoder from scratch needs it (the side of the picture in pixels)")
    if args.image_processor_config is not None:
        raise ConfigError("image_processor_config is for a loaded `model`; with an encoder, image_size sets the size")


def check_model(args: ModelArguments) -> None:
    """Check that a captioner to start from is named, and that nothing is said of how to build one.

    Raises:
        ConfigError: it is not, it is an adapter, or a setting would be left unread.
    """
    if args.model is None:
        raise ConfigError("model: give the captioner to start from (a run folder, a model folder or a Hub id)")
    check_whole_weights(args.model)
    unused = _changed(args, BUILDING)
    if unused:
        raise ConfigError(f"model: {args.model!r} is built already; leave out {', '.join(unused)}, or model")


def check_whole_weights(model: str) -> None:
    """Check that a captioner to start from is no adapter.

    Raises:
        ConfigError: it is one.
    """
    folder = Path(model).expanduser()
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ConfigError(
            f"model: {model} is an adapter, and a run starts from whole weights: an adapter trained on top of it "
            "would need both to be loaded. Give what it was merged into (the run folder, which means its merged/), or "
            f"merge it first: hfcap export {model} --merge --to FOLDER, then --model FOLDER"
        )


def _changed(args: ModelArguments, names: Iterable[str]) -> list[str]:
    """Those of some settings that are not as they are by default."""
    defaults = {field.name: field.default for field in fields(args)}
    return [name for name in names if getattr(args, name) != defaults[name]]


def check_decoding(args: CaptionTrainingArguments, trains_adapter: bool) -> None:
    """Check that decoding settings are kept with what a run saves.

    Raises:
        ConfigError: they are given for an adapter, which has none of its own; or they do not fit each other.
    """
    given = given_decoding(args)
    if given and trains_adapter:
        raise ConfigError(
            f"{next(iter(given))}: an adapter decodes by the generation_config.json of its base; leave it out, train "
            "the base with it, or give it to recipes/evaluate.py and `hfcap caption`"
        )
    check_savable(GenerationConfig(**DEFAULT_DECODING | given))


def check_encoder(data_args: DataArguments, args: EncoderArguments, backend: Backend) -> None:
    """Check the arguments of a run that trains an encoder alone.

    Raises:
        ConfigError: the backend divides weights, and nothing gathers them to save the encoder; not one encoder is
            named, no size of its pictures, a stream, whose words nobody has counted, or a setting of captioners.
    """
    if backend in ("zero3", "fsdp1", "fsdp2"):
        raise ConfigError(
            f"an encoder alone is not trained on {backend}, which divides its weights: train it on one process or by "
            "DDP, then give its model/ as `encoder`, and leave out encoder_training"
        )
    _check_part(args, "encoder")
    if args.image_size is None:
        raise ConfigError("image_size: give it (the side of the picture in pixels that the encoder sees)")
    if data_args.streaming:
        raise ConfigError("streaming: the words of all captions are counted before training; leave it out")
    for name in ("references", "prompt"):
        if getattr(data_args, name) is not None:
            raise ConfigError(f"{name}: an encoder learns the words of all captions, without a prompt; leave it out")


def _check_part(args: EncoderArguments, part: str) -> None:
    pretrained, config = getattr(args, part), getattr(args, f"{part}_config")
    if (pretrained is None) == (config is None):
        raise ConfigError(f"give one of {part} (a pretrained one) and {part}_config (from scratch), or a model")
    if config is not None:
        check_keys(f"{part}_config", config, config_class_of(f"{part}_config", config))
