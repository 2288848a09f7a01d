"""Decoding settings: defaults of a new captioner, changes, recording, refusals."""

import json
from collections.abc import Mapping
from typing import Any

from peft import PeftModel
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from hfcap.errors import ConfigError
from hfcap.models.model_types import spec_of

# How a new captioner decodes, where a run does not say.
DEFAULT_DECODING = {"num_beams": 3, "length_penalty": 1.0, "no_repeat_ngram_size": 0, "max_new_tokens": 40}
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
# Without effect, and refused by `save_pretrained`, where nothing is sampled.
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
# A clock would decide about the caption, and how keys and values are kept is for `hfcap.generation.decoding` to say:
# with the cache that Gemma 3's checkpoints name, beams could not share their image.
OF_THE_MACHINE = ("max_time", "cache_implementation", "cache_config")
# Searches and stops for which `generate` needs code from the Hub, another model or a tokenizer; 0, 1 and None are off.
UNSUPPORTED = (
    "num_beam_groups",
    "penalty_alpha",
    "constraints",
    "force_words_ids",
    "dola_layers",
    "prompt_lookup_num_tokens",
    "assistant_early_exit",
    "use_mtp",
    "stop_strings",
    "token_healing",
)
# What `generate` returns besides one caption per picture.
OUTPUTS = ("num_return_sequences", "return_dict_in_generate", *GenerationConfig.extra_output_flags)


def fresh_settings(model: PreTrainedModel | PeftModel, **settings) -> GenerationConfig:
    """Return `settings` with the model's token ids and suppressed tokens, and with no other setting of the model."""
    own = model.generation_config
    return GenerationConfig(**{name: getattr(own, name) for name in (*TOKEN_IDS, "suppress_tokens")}, **settings)


def image_token_ids(config: PreTrainedConfig) -> list[int]:
    """Ids of the tokens that stand for picture features in the prompt of a captioner; a caption must have none."""
    if not spec_of(config).image_tokens:
        return []
    found = (getattr(config, name, None) for name in ("image_token_id", "video_token_id"))
    return [token_id for token_id in found if token_id is not None]


def end_token_ids(settings: GenerationConfig) -> list[int]:
    """Ids of the tokens that end a caption, of which a checkpoint may list several."""
    ids = settings.eos_token_id
    return [] if ids is None else ids if isinstance(ids, list) else [ids]


def drop_unused(settings: GenerationConfig) -> None:
    """Reset what has no place in captioning: sampling, several captions per picture, time, beam settings for one beam.

    Captions are a function of the picture, and a setting without effect would stop `save_pretrained`.
    """
    settings.update(**dict.fromkeys((*SAMPLING, *OUTPUTS, *OF_THE_MACHINE)))
    if settings.do_sample:
        settings.do_sample = False
    if (settings.num_beams or 1) == 1:
        neutral = {"early_stopping": False, "length_penalty": 1.0}
        settings.update(**{name: value for name, value in neutral.items() if getattr(settings, name) is not None})


def change_decoding(model: PreTrainedModel | PeftModel, changes: Mapping[str, Any]) -> None:
    """Let `model` decode with changed settings, now and when it is saved; the others stay as they are.

    Raises:
        ConfigError: a changed setting has no effect beside the others, or a value that it cannot have.
    """
    settings = model.generation_config
    settings.update(**changes)
    if "num_beams" in changes:
        settings.early_stopping = changes["num_beams"] > 1
        if changes["num_beams"] == 1 and "length_penalty" not in changes:
            settings.length_penalty = 1.0
    if "max_new_tokens" in changes:
        settings.max_length = None  # of a checkpoint: it would count the prompt as well
    check_savable(settings)


def check_savable(settings: GenerationConfig) -> None:
    """Check that decoding settings can be followed, and saved.

    Raises:
        ConfigError: they cannot; names each setting, its value and the fix.
    """
    for name in UNSUPPORTED:
        value = getattr(settings, name, None)  # some are new
        if value not in (None, False, 0, 1):
            raise ConfigError(
                "captioning does not support it", option=name, got=value, fix="remove it from generation_config.json"
            )
    if (settings.num_beams or 1) < 1:
        raise ConfigError(option="num_beams", got=settings.num_beams, wanted="1 or more")
    try:
        settings.validate(strict=True)
    except ValueError as error:
        lines = str(error).splitlines()
        issues = [line.removeprefix("- ") for line in lines if line.startswith("- ")] or lines[:1]
        raise ConfigError(f"they cannot be saved: {' '.join(issues)}", option="decoding settings") from error


def recorded_settings(model: PreTrainedModel | PeftModel, **changes) -> dict[str, Any]:
    """Return all settings that decide the captions, as JSON values: those that are set, token ids aside."""
    settings = json.loads(model.generation_config.to_json_string(use_diff=False, ignore_metadata=True))
    first = {name: settings.get(name) for name in DEFAULT_DECODING}  # in the order in which people look for them
    recorded = first | settings | changes
    return {name: value for name, value in recorded.items() if value is not None and name not in TOKEN_IDS}
