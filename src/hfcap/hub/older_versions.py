"""Exports that transformers 4 reads as well: names and settings that both versions know.

transformers 5 reads its earlier forms, not the other way round: there a tokenizer class is not found, a renamed vision
tower keeps its random weights with a warning, and a rotary base that lies elsewhere becomes the default, silently.
Verification shows that what is written here is read as the captioner that was exported; a test in an environment with
the older version shows that its captions are the same (`tests/hub/test_older_versions.py`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from hfcap.atomic_files import write_json
from hfcap.models.model_types import OWN_TRANSFORMERS, oldest_transformers

# Since 5.6 their weights lie one level higher, without this prefix.
TOWERS = ("CLIPVisionModel", "SiglipVisionModel", "Siglip2VisionModel")
TOWER_PREFIX = "vision_model."


def save_model(model: PreTrainedModel, folder: Path, max_shard_size: str) -> None:
    """Save weights and settings of a model; those of a vision tower and of rotary positions as in version 4 too."""
    model.save_pretrained(folder, state_dict=_older_names(model), max_shard_size=max_shard_size)
    config = folder / "config.json"
    write_json(config, with_older_settings(model.config, json.loads(config.read_text(encoding="utf-8"))))


def with_older_settings(config: PreTrainedConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Add to the `settings` of a configuration what version 4 reads in their place, if it knows the type at all.

    Of Gemma 4, which it does not, version 5 cannot read the two forms of rotary positions beside each other.
    """
    return dict(settings) if oldest_transformers(config) == OWN_TRANSFORMERS else _with_older_rope(settings)


def complete_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    """Let a tokenizer say, when it is saved, what another version or process would take from a default."""
    # `AutoProcessor` hands the `backend` of the image processor to the tokenizer too, which saves it: loaded with
    # "pil" it takes itself for one without offsets, and `return_assistant_tokens_mask` fails.
    settings = {"backend": "tokenizers", "model_input_names": tokenizer.model_input_names}
    rules = json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"] or {}
    if "add_prefix_space" in rules:  # version 4 overrides that of the rules, by False where nothing is said
        settings["add_prefix_space"] = rules["add_prefix_space"]
    for name, value in settings.items():
        setattr(tokenizer, name, value)
        tokenizer.init_kwargs[name] = value


def save_processor(processor: ProcessorMixin, folder: Path) -> None:
    """Save a processor; the class and the further special tokens of its tokenizer are named as in version 4."""
    processor.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    if settings["tokenizer_class"] == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    more = settings.pop("extra_special_tokens", [])
    if more:
        settings["additional_special_tokens"] = more
    usual = PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES
    named = {name: settings[name] for name in processor.tokenizer.special_tokens_map if name not in usual}
    if named:  # by the type: "image_token"
        settings["extra_special_tokens"] = named
    write_json(path, settings)


def _older_names(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    towers = [f"{name}." for name, module in model.named_modules() if name and type(module).__name__ in TOWERS]
    state = {}
    for name, tensor in model.state_dict().items():
        tower = next((tower for tower in towers if name.startswith(tower)), "")
        state[f"{tower}{TOWER_PREFIX if tower else ''}{name.removeprefix(tower)}"] = tensor
    return state


def _with_older_rope(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Add `rope_theta` and `rope_scaling` beside the `rope_parameters` of a configuration and those in it."""
    settings = {
        name: _with_older_rope(value) if isinstance(value, dict) else value for name, value in settings.items()
    }
    rope = settings.get("rope_parameters")
    if not rope:
        return settings
    if "full_attention" in rope:  # Gemma 3: one for each kind of layer
        settings["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    settings["rope_theta"] = rope["rope_theta"]
    scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
    if scaling != {"rope_type": "default"}:
        settings["rope_scaling"] = scaling
    return settings
