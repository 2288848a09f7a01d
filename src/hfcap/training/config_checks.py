"""Validation of encoder, decoder and bridge configurations before anything is built."""

import inspect
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, GenerationConfig, PreTrainedConfig

from hfcap.errors import ConfigError
from hfcap.models.model_types import PACKABLE_CROSS_ATTENTION
from hfcap.models.pretrained import one_line
from hfcap.training.parsing import nearest

_TOKENS = dict.fromkeys(
    ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "image_token_id"),
    "the tokenizer sets it",
)
_MEASURED = dict.fromkeys(("image_seq_length", "vision_hidden_size", "vision_grid"), "it is measured from the encoder")
_PARTS = dict.fromkeys(
    ("encoder", "decoder", "vision_config", "text_config"), "the parts have encoder_config and decoder_config"
)
_DTYPE = dict.fromkeys(("dtype", "torch_dtype"), "weights train in float32; the option precision sets their products")
# Keys of each configuration that hfcap sets itself, and from what.
SET_BY_HFCAP: dict[str, dict[str, str]] = {
    "encoder_config": _DTYPE,
    "decoder_config": {
        **_TOKENS,
        **_DTYPE,
        "vocab_size": "the option vocab_size sets it",
        **dict.fromkeys(("is_decoder", "add_cross_attention"), "the option family sets it"),
    },
    "bridge_config": {
        **_TOKENS,
        **_MEASURED,
        **_PARTS,
        "image_size": "the option image_size sets it",
        "model_type": "the option family sets it",
    },
}
# Every class takes these for a `GenerationConfig` and drops them, so that they would go unread.
_DROPPED = set(GenerationConfig().to_dict())
# Masks and caches read it from any configuration that has it.
_READ_LATER = {"layer_types"}


def config_class_of(option: str, config: Mapping) -> type[PreTrainedConfig]:
    """Class of the configuration of a part from scratch.

    Raises:
        ConfigError: `model_type` is missing or unknown.
    """
    if "model_type" not in config:
        raise ConfigError(f"missing; only {sorted(config)} are there", option=f"{option}.model_type", fix="add it")
    model_type = config["model_type"]
    if model_type not in CONFIG_MAPPING:
        raise ConfigError(
            "unknown to transformers",
            option=f"{option}.model_type",
            got=model_type,
            fix=nearest(str(model_type), CONFIG_MAPPING),
        )
    return CONFIG_MAPPING[model_type]


def check_keys(option: str, config: Mapping, config_class: type[PreTrainedConfig]) -> None:
    """Check that a configuration holds keys which its class reads; transformers keeps all others without a word.

    Raises:
        ConfigError: an unknown key (with the nearest known one), one that hfcap sets itself, or a value that the class
            refuses.
    """
    known = {field.name for field in fields(config_class) if field.init} | set(config_class.attribute_map)
    taken = SET_BY_HFCAP[option]
    settings = {key: value for key, value in config.items() if key != "model_type"}
    with one_line(option):
        for key in config:
            if key in taken:
                raise ConfigError(taken[key], option=f"{option}.{key}", got=config[key], fix="remove it")
            if key not in known | {"model_type"} and not _is_read(key, settings, config_class):
                raise ConfigError(
                    f"{config_class.model_type} has no such key",
                    option=f"{option}.{key}",
                    got=config[key],
                    fix=nearest(key, sorted(known - set(taken))),
                )
        config_class(**deepcopy(settings))


def _is_read(key: str, settings: Mapping, config_class: type[PreTrainedConfig]) -> bool:
    """Whether a key that is no field makes a difference to a configuration, beyond an attribute of its name."""
    if key in _READ_LATER:
        return True
    if getattr(inspect.getattr_static(config_class, key, None), "fset", key) is None:
        return False  # a property that cannot be set
    try:
        without = _state(config_class, {name: value for name, value in settings.items() if name != key})
    except (ValueError, StrictDataclassError):
        return True  # the others do not fit each other without it
    if key in without or f"_{key}" in without:
        return True  # computed, or kept privately, where it is not given
    state = _state(config_class, settings)
    return state != without | {key: settings[key]} and not (state == without and key in _DROPPED)


def _state(config_class: type[PreTrainedConfig], settings: Mapping) -> dict[str, object]:
    """All that a configuration of these settings holds: `to_dict` leaves private attributes out."""
    config = config_class(**deepcopy(settings))  # a copy: classes write defaults into nested settings
    return vars(config) | config.to_dict()


def check_decoder(family: str, config_class: type[PreTrainedConfig]) -> None:
    """Check that a decoder of this class can be one of the family.

    Raises:
        ConfigError: it is no language model, or has no cross-attention where the family needs it.
    """
    if config_class not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ConfigError(
            option="decoder", got=config_class.model_type, wanted="a causal language model, such as gpt2"
        )
    forward = MODEL_FOR_CAUSAL_LM_MAPPING[config_class].forward
    if family == "encoder_decoder" and "encoder_hidden_states" not in inspect.signature(forward).parameters:
        raise ConfigError(
            f"it needs a decoder with cross-attention, and {config_class.model_type} has none",
            option="family",
            got=family,
            fix=f"pass another decoder ({' and '.join(PACKABLE_CROSS_ATTENTION)} are known to work), or family: llava",
        )
