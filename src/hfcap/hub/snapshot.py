"""What a checkpoint is to whoever loads it: weights, settings, processor, and captions of given pictures.

Run as a script (`python -P snapshot.py REQUEST.json`) it loads an export as a stranger would and writes that down. It
imports nothing from hfcap, so that it can be run where hfcap is not to be had.
"""

import hashlib
import json
import sys
import traceback
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image

# Settings that say which library wrote the file, and nothing of what the model does.
_NOT_COMPARED = ("transformers_version", "_from_model_config", "_commit_hash")
GREEDY = {"num_beams": 1, "do_sample": False, "early_stopping": False}


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


def describe_processor(processor) -> dict[str, Any]:
    """Chat template, image processor and tokenizer, each as plain values."""
    tokenizer = processor.tokenizer
    if hasattr(tokenizer, "backend_tokenizer"):
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        # What the last call left behind.
        rules |= {"truncation": None, "padding": None}
    else:
        rules = tokenizer.get_vocab()
    return {
        "chat_template": getattr(processor, "chat_template", None),
        "image_processor": _plain(processor.image_processor.to_dict()),
        "tokenizer": {
            "vocabulary, merges and rules": hashlib.sha256(json.dumps(rules).encode()).hexdigest(),
            "special tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
            "padding side": tokenizer.padding_side,
            "model_max_length": tokenizer.model_max_length,
        },
    }


def _describe_tensor(tensor: torch.Tensor) -> list:
    content = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy()
    return [list(tensor.shape), str(tensor.dtype), hashlib.sha256(content).hexdigest()]


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str, sort_keys=True))


@torch.inference_mode()
def greedy_captions(model, processor, pictures: list[Image.Image], prompt: str | None) -> list[str]:
    """Caption one picture after another by what every transformers user has: processor, `generate`, decoding."""
    model.eval()
    captions = []
    for picture in pictures:
        picture = picture.convert("RGB")
        if getattr(processor, "chat_template", None):
            content = [{"type": "image", "image": picture}] + ([{"type": "text", "text": prompt}] if prompt else [])
            batch = processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        else:
            batch = processor(images=picture, return_tensors="pt", **({"text": prompt} if prompt else {}))
        # A checkpoint in bfloat16 takes its pictures in bfloat16.
        batch = batch.to(model.device, model.dtype)
        tokens = model.generate(**batch, **GREEDY)
        if not model.config.is_encoder_decoder and "input_ids" in batch:
            tokens = tokens[:, batch["input_ids"].shape[1] :]
        captions.append(processor.tokenizer.decode(tokens[0], skip_special_tokens=True).strip())
    return captions


class _Blocked:
    """An import hook before all others: hfcap is not to be had, as on a machine that never saw it."""

    def find_spec(self, name, path=None, target=None):
        if name == "hfcap" or name.startswith("hfcap."):
            raise ModuleNotFoundError(f"No module named {name!r} (blocked: this export must load without it)")


def load(request: dict[str, Any]) -> tuple[Any, Any, dict[str, list[str]]]:
    """Load `request["folder"]` through the Auto classes: model, processor, and what did not fit."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder, trusted = request["folder"], {"trust_remote_code": request["remote_code"]}
    source = request["base"] or folder
    model, info = AutoModelForImageTextToText.from_pretrained(
        source, revision=request["revision"] or "main", use_safetensors=True, output_loading_info=True, **trusted
    )
    if request["base"]:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder, use_safetensors=True)
    processor = AutoProcessor.from_pretrained(folder, **request["backend"], **trusted)
    unfit = {kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    return model, processor, unfit


def main(request_file: str) -> None:
    """Answer a request file: load, describe, caption; write the answer beside it."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    if request["with_hfcap"]:
        import hfcap.models  # noqa: F401  (registers the Auto classes, as the export's card tells people)
    else:
        sys.meta_path.insert(0, _Blocked())
    torch.set_num_threads(request["num_threads"])
    model, processor, unfit = load(request)
    pictures = [Image.open(path) for path in request["pictures"]]
    answer = {
        "class": type(model).__name__,
        **unfit,
        **describe_model(model),
        **describe_processor(processor),
        "captions": greedy_captions(model, processor, pictures, request["prompt"]),
    }
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Exception as error:
        traceback.print_exc()
        # The last line is what the other process reports.
        sys.exit(" ".join(f"{type(error).__name__}: {error}".split()))
