"""Decoding settings of an ONNX export: those of a generation config that captioning without torch follows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Literal

from hfcap.errors import ConfigError

# Settings that change captions and are not followed here, with the value that turns each off, besides None.
_NOT_FOLLOWED = {
    **dict.fromkeys(("do_sample", "renormalize_logits", "remove_invalid_values", "token_healing"), False),
    **dict.fromkeys(("guidance_scale", "encoder_repetition_penalty", "num_return_sequences", "num_beam_groups"), 1),
    **dict.fromkeys(("encoder_no_repeat_ngram_size", "diversity_penalty", "penalty_alpha"), 0),
    **dict.fromkeys(("bad_words_ids", "sequence_bias", "forced_bos_token_id", "forced_eos_token_id")),
    **dict.fromkeys(("exponential_decay_length_penalty", "begin_suppress_tokens", "stop_strings", "constraints")),
    **dict.fromkeys(("force_words_ids", "watermarking_config", "dola_layers", "prompt_lookup_num_tokens")),
}
# Settings that are whole numbers, with the least of each.
_WHOLE = {"num_beams": 1, "max_new_tokens": 1, "min_new_tokens": 0, "min_length": 0, "no_repeat_ngram_size": 0}


@dataclass(frozen=True)
class DecodingSettings:
    """How captions are decoded; names and meanings are those of transformers' `GenerationConfig`.

    Raises:
        ConfigError: a value that a setting cannot have.
    """

    eos_token_id: tuple[int, ...]
    max_new_tokens: int = 40
    min_new_tokens: int | None = None
    min_length: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    suppress_tokens: tuple[int, ...] = ()

    def __post_init__(self):
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            if name == "min_new_tokens" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(option=name, got=value, wanted=f"a whole number, {least} or more")
        for name in ("length_penalty", "repetition_penalty"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ConfigError(option=name, got=value, wanted="a number")
        if not self.repetition_penalty > 0:
            raise ConfigError(option="repetition_penalty", got=self.repetition_penalty, wanted="above 0")
        if self.early_stopping not in (True, False, "never"):
            raise ConfigError(option="early_stopping", got=self.early_stopping, wanted='true, false or "never"')

    def changed(self, changes: Mapping[str, Any]) -> "DecodingSettings":
        """Return these settings with changes; those that are None stay.

        As in training and `hfcap caption`, a changed number of beams decides about early stopping, and one beam has no
        length penalty, unless they are changed as well.

        Raises:
            ConfigError: a setting that is not known or not followed.
        """
        changes = {name: value for name, value in changes.items() if value is not None}
        known = [field.name for field in fields(self)]
        for name in changes:
            if name not in known:
                close = get_close_matches(name, known, n=1)
                fix = f"did you mean {close[0]!r}?" if close else "remove it"
                if name == "length":  # of captioners in torch
                    fix = "remove it, or caption with the run that was exported"
                raise ConfigError("captioning without torch has no such setting", option=name, fix=fix)
        if "num_beams" in changes:
            changes = {"early_stopping": changes["num_beams"] != 1} | changes
            if changes["num_beams"] == 1:
                changes = {"length_penalty": 1.0} | changes
        for name in ("eos_token_id", "suppress_tokens"):
            if name in changes:
                changes[name] = _ids(name, changes[name])
        return replace(self, **changes)


def read_decoding(decoding: Mapping[str, Any]) -> DecodingSettings:
    """Read the decoding settings of an export, `decoding` of `hfcap_ondevice.json`.

    Raises:
        ConfigError: a setting that is not followed here, or no end token.
    """
    for name, off in _NOT_FOLLOWED.items():
        value = decoding.get(name)
        if value is not None and value != off:
            raise ConfigError(
                "captioning without torch does not follow it", option=name, got=value, fix="change it and export again"
            )
    if decoding.get("eos_token_id") is None:
        raise ConfigError("no token ends a caption", option="eos_token_id", fix="set it and export again")
    known = {field.name for field in fields(DecodingSettings)}
    own = {name: value for name, value in decoding.items() if name in known and value is not None}
    ids = {name: _ids(name, own.get(name, ())) for name in ("eos_token_id", "suppress_tokens")}
    return DecodingSettings(**own | ids)


def _ids(name: str, value: int | list[int] | tuple[int, ...]) -> tuple[int, ...]:
    ids = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in ids):
        raise ConfigError(option=name, got=value, wanted="token ids, 0 or more")
    return ids
