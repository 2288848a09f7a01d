"""Checks of what a run starts from: a captioner, the parts that one is joined from, or an encoder alone."""

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from hfcap.errors import ConfigError
from hfcap.models import HfcapEncoderDecoderConfig, HfcapLlavaConfig
from hfcap.models.pretrained import pretrained_config
from hfcap.training.argument_checks import refuse_settings
from hfcap.training.arguments import EncoderArguments, ModelArguments, QLoraArguments
from hfcap.training.config_checks import check_decoder, check_keys, config_class_of
from hfcap.training.data_arguments import DataArguments
from hfcap.training.support import Backend

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
    "chat_template",
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
            "only recipes/train_qlora.py loads a model in 4 bits",
            option="strategy",
            got=args.strategy,
            fix="use that recipe",
        )
    unused = _changed(args, ("lora_r", "lora_alpha", "lora_dropout"))
    if unused and args.strategy != "lora":
        raise ConfigError(
            f"strategy {args.strategy!r} trains no LoRA matrices",
            option=unused[0],
            got=getattr(args, unused[0]),
            fix="remove it, or set strategy: lora",
        )
    if args.model is not None:
        check_model(args)
    else:
        _check_joined(args)


def _check_joined(args: ModelArguments) -> None:
    """Check the parts that a captioner is built from."""
    for part in ("encoder", "decoder"):
        _check_part(args, part)
    if args.decoder is None:
        decoder_class = config_class_of("decoder_config", args.decoder_config)
    else:
        decoder_class = type(pretrained_config("decoder", args.decoder))
        unused = _changed(args, ("vocab_size", "plain_text"))
        if unused:
            raise ConfigError(
                f"decoder {args.decoder!r} has its own tokenizer",
                option=unused[0],
                got=getattr(args, unused[0]),
                fix="remove it",
            )
    check_decoder(args.family, decoder_class)
    if args.chat_template is not None and args.family != "llava":
        raise ConfigError(
            "the prompt of an encoder-decoder is plain text",
            option="chat_template",
            got=args.chat_template,
            fix="remove it",
        )
    captioner = HfcapLlavaConfig if args.family == "llava" else HfcapEncoderDecoderConfig
    check_keys("bridge_config", args.bridge_config or {}, captioner)
    if args.encoder is not None and args.encoder_training is None:
        pretrained_config("encoder", args.encoder)
    if args.encoder_training is not None and args.encoder is None:
        raise ConfigError(
            "the trained encoder has no place",
            option="encoder_training",
            got=args.encoder_training,
            fix="set encoder to the model/ folder of that run",
        )
    if args.encoder_config is not None:
        _require_image_size(args)
    if args.image_processor_config is not None:
        raise ConfigError(
            "only the image processor of a loaded `model` can be changed",
            option="image_processor_config",
            got=args.image_processor_config,
            fix="remove it; with an encoder, image_size sets the size",
        )


def check_model(args: ModelArguments) -> None:
    """Check that a captioner to start from is named, and that nothing is said of how to build one.

    Raises:
        ConfigError: it is not, it is an adapter, or a setting would be left unread.
    """
    if args.model is None:
        raise ConfigError(
            "no captioner to start from", option="model", fix="pass a run folder, a model folder or a Hub id"
        )
    check_whole_weights(args.model)
    unused = _changed(args, BUILDING)
    if unused:
        raise ConfigError(
            "it is loaded whole, so nothing is built from parts",
            option="model",
            got=args.model,
            fix=f"remove {', '.join(unused)}, or model",
        )


def check_whole_weights(model: str) -> None:
    """Check that a captioner to start from is no adapter.

    Raises:
        ConfigError: it is one.
    """
    folder = Path(model).expanduser()
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ConfigError(
            "this is an adapter, and an adapter trained on top of it would need both to be loaded",
            option="model",
            got=model,
            wanted="whole weights",
            fix="pass its run folder, whose merged/ is then loaded, or merge it first: "
            f"hfcap export {model} --merge --to FOLDER, then --model FOLDER",
        )


def _changed(args: ModelArguments, names: Iterable[str]) -> list[str]:
    """Those of some settings that are not as they are by default."""
    defaults = {field.name: field.default for field in fields(args)}
    return [name for name in names if getattr(args, name) != defaults[name]]


def check_encoder(data_args: DataArguments, args: EncoderArguments, backend: Backend) -> None:
    """Check the arguments of a run that trains an encoder alone.

    Raises:
        ConfigError: the backend divides weights, and nothing gathers them to save the encoder; not one encoder is
            named, no size of its pictures, a stream, whose words nobody has counted, or a setting of captioners.
    """
    if backend in ("zero3", "fsdp1", "fsdp2"):
        raise ConfigError(
            "an encoder alone is not trained on an engine that divides its weights",
            option="training engine",
            got=backend,
            wanted="single or ddp",
            fix="train the encoder on one process or with DDP, then pass its model/ as `encoder` and remove "
            "encoder_training",
        )
    _check_part(args, "encoder")
    _require_image_size(args)
    refused = {
        "streaming": (data_args.streaming, "the words of all captions are counted before training"),
        "references": (data_args.references, "an encoder learns the words of all captions of an image"),
        "prompt": (data_args.prompt, "an encoder learns the words of captions, without a prompt"),
        "cached_crops": (data_args.cached_crops, "an encoder that trains has no cached features"),
    }
    refuse_settings(refused)


def _require_image_size(args: EncoderArguments) -> None:
    if args.image_size is None:
        raise ConfigError("an encoder needs the side of its images in pixels", option="image_size", fix="set it")


def _check_part(args: EncoderArguments, part: str) -> None:
    pretrained, config = getattr(args, part), getattr(args, f"{part}_config")
    if (pretrained is None) == (config is None):
        raise ConfigError(
            f"neither {part} nor {part}_config is set" if config is None else f"{part}_config is set too",
            option=part,
            got=pretrained,
            fix=f"set either {part} (pretrained) or {part}_config (from scratch), or start from a model",
        )
    if config is not None:
        check_keys(f"{part}_config", config, config_class_of(f"{part}_config", config))
