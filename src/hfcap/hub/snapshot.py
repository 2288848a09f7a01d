"""Snapshot of a loaded checkpoint: weights, settings, processor and captions, in a clean process.

Run as a script (`python -P snapshot.py REQUEST.json`) it loads an export as a stranger would and writes that down. It
imports nothing from hfcap, so that it can be run where hfcap is not available.
"""

import hashlib
import json
import sys
import traceback
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

# Settings that say who wrote the file and where from, and nothing of what the model does; dtypes are those of tensors.
_NOT_COMPARED = ("transformers_version", "_from_model_config", "_commit_hash", "_name_or_path")
_NOT_OF_CONFIG = (*_NOT_COMPARED, "architectures", "dtype", "torch_dtype", "auto_map")
_NOT_OF_PROCESSOR = ("processor_class", "auto_map", "chat_template", "image_processor", "video_processor", "tokenizer")
_NOT_OF_TOKENIZER = (
    *_NOT_OF_PROCESSOR,
    *("name_or_path", "vocab_file", "tokenizer_file", "is_local", "local_files_only", "tokenizer_class"),
    *("added_tokens_decoder", "tokenizer_object", "files_loaded", "caption_prompt"),
    # Both appear when special tokens are loaded: they are compared by their own names, and as `extra_special_tokens`.
    *("additional_special_tokens", "model_specific_special_tokens"),
)
_ALWAYS_OF_TOKENIZER = ("truncation_side", "padding_side", "model_max_length", "model_input_names")
_ALWAYS_OF_TOKENIZER += ("extra_special_tokens",)
_NOT_OF_ADAPTER = ("base_model_name_or_path", "revision", "inference_mode", "peft_version")
GREEDY = {"num_beams": 1, "do_sample": False, "early_stopping": False}
SEED = 0


def describe_model(model) -> dict[str, Any]:
    """Weights by name as [shape, dtype, SHA-256], groups of tied names, and the generation settings."""
    state = model.state_dict()
    places = defaultdict(list)
    for name, tensor in state.items():
        places[tensor.data_ptr(), tuple(tensor.shape)].append(name)
    settings = model.generation_config.to_dict()
    return {
        "weights": {name: _describe_tensor(tensor) for name, tensor in state.items()},
        "ties": sorted(sorted(names) for names in places.values() if len(names) > 1),
        "generation_config": {key: value for key, value in settings.items() if key not in _NOT_COMPARED},
    }


def describe_config(model) -> dict[str, Any]:
    """Class, the whole configuration, and that of an adapter: each setting by its path, such as `text_config.eps`."""
    adapters = getattr(model, "peft_config", {})
    loaded = model.get_base_model() if adapters else model
    return {
        "class": type(model).__name__,
        "config": dict(_settings(_plain(loaded.config.to_dict()), _NOT_OF_CONFIG)),
        "adapter": {
            name: sorted(value) if isinstance(value, set) else _plain(value)
            for adapter in adapters.values()
            for name, value in adapter.to_dict().items()
            if name not in _NOT_OF_ADAPTER
        },
    }


def _settings(values: dict[str, Any], left_out: tuple[str, ...], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting of nested ones with its path."""
    for name, value in values.items():
        if name in left_out:
            continue
        if isinstance(value, dict) and value:
            yield from _settings(value, left_out, f"{path}{name}.")
        else:
            yield path + name, value


def describe_processor(processor) -> dict[str, Any]:
    """Chat template, caption prompt, and all settings of processor, image processor and tokenizer as plain values."""
    tokenizer = processor.tokenizer
    if hasattr(tokenizer, "backend_tokenizer"):
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        # What the last call left behind.
        rules |= {"truncation": None, "padding": None}
    else:
        rules = tokenizer.get_vocab()
    own = getattr(processor, "caption_prompt", None)
    video = getattr(processor, "video_processor", None)
    return {
        "chat_template": getattr(processor, "chat_template", None),
        "caption_prompt": own if own is not None else tokenizer.init_kwargs.get("caption_prompt"),
        "processor": dict(_settings(_plain(processor.to_dict()), (*_NOT_OF_PROCESSOR, "caption_prompt"))),
        "image_processor": _plain(processor.image_processor.to_dict()),
        "video_processor": {} if video is None else _plain(video.to_dict()),
        "tokenizer": {
            "vocabulary, merges and rules": hashlib.sha256(json.dumps(rules).encode()).hexdigest(),
            **{name: _plain(getattr(tokenizer, name)) for name in _ALWAYS_OF_TOKENIZER},
            **{
                # As `save_pretrained` does: what was set later is an attribute.
                name: _plain(getattr(tokenizer, name, value))
                for name, value in tokenizer.init_kwargs.items()
                if name not in (*_NOT_OF_TOKENIZER, *tokenizer.SPECIAL_TOKENS_ATTRIBUTES)
            },
            **{name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        },
    }


def _describe_tensor(tensor: torch.Tensor) -> list:
    content = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy()
    return [list(tensor.shape), str(tensor.dtype), hashlib.sha256(content).hexdigest()]


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str, sort_keys=True))


@torch.inference_mode()
def captions(usage: str, model, processor, pictures: list[Image.Image], **settings) -> list[str]:
    """Caption one picture after another by the Python that the card prints, `hfcap.hub.usage`.

    Args:
        usage: that Python.
        model: captioner with its generation settings.
        processor: its processor.
        pictures: of any mode.
        settings: override the generation settings; those of `GREEDY` leave no choice.
    """
    model.eval()
    own = model.generation_config
    before = {name: getattr(own, name) for name in settings}
    own.update(**settings)
    said = []
    try:
        for picture in pictures:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(SEED)  # where the settings ask for samples
                names = {"torch": torch, "model": model, "processor": processor, "picture": picture.convert("RGB")}
                exec(usage, names)
            said.append(names["caption"])
    finally:
        own.update(**before)
    return said


class _Blocked:
    """An import hook before all others: hfcap is not available, as on a machine that never saw it."""

    def find_spec(self, name, path=None, target=None):
        if name == "hfcap" or name.startswith("hfcap."):
            raise ModuleNotFoundError(f"No module named {name!r} (blocked: this export must load without it)")


def load(request: dict[str, Any]) -> tuple[Any, Any, dict[str, list[str]]]:
    """Load `request["folder"]` through the Auto classes: model, processor, and what did not fit."""
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

    folder, trusted = request["folder"], {"trust_remote_code": request["remote_code"]}
    source = request["base"] or folder
    model, info = AutoModelForImageTextToText.from_pretrained(
        source, revision=request["revision"] or "main", use_safetensors=True, output_loading_info=True, **trusted
    )
    if request["base"]:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder, use_safetensors=True)
    processor = AutoProcessor.from_pretrained(folder, **trusted)
    if request["with_pillow"]:
        # `AutoProcessor` would hand `backend` to the tokenizer, which then takes itself for one without offsets.
        processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil", **trusted)
    unfit = {kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    return model, processor, unfit


def answer(request: dict[str, Any], pictures: list[Image.Image]) -> dict[str, Any]:
    """Load, describe and caption what a request names."""
    model, processor, unfit = load(request)
    return {
        **unfit,
        **describe_model(model),
        **describe_config(model),
        **describe_processor(processor),
        "captions": captions(request["usage"], model, processor, pictures, **GREEDY),
        "captions_as_shipped": captions(request["usage"], model, processor, pictures),
    }


def main(request_file: str) -> None:
    """Answer a request file: the answer is written beside it."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    if request["with_hfcap"]:
        import hfcap.models  # noqa: F401  (registers the Auto classes, as the export's card tells people)
    else:
        sys.meta_path.insert(0, _Blocked())
    torch.set_num_threads(request["num_threads"])
    found = answer(request, [Image.open(path) for path in request["pictures"]])
    Path(request["answer"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Exception as error:
        traceback.print_exc()
        # The last line is what the other process reports.
        sys.exit(" ".join(f"{type(error).__name__}: {error}".split()))
