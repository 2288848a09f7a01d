"""Snapshot of a tagger: weights, settings and scores of pictures, in a clean process.

Run as a script (`python -P tagger_snapshot.py REQUEST.json`) it loads an export as a stranger would, by
`pipeline("image-classification")`, and writes down what is there. It imports nothing from hfcap.
"""

import hashlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

# Settings that say who wrote the file and where from, and nothing of what the model does.
NOT_COMPARED = ("transformers_version", "_commit_hash", "_name_or_path", "architectures", "dtype", "torch_dtype")


def describe(model, image_processor) -> dict[str, Any]:
    """Class, weights by name as [shape, dtype, SHA-256], configuration and image processor."""
    config = json.loads(json.dumps(model.config.to_dict(), default=str))
    return {
        "class": type(model).__name__,
        "weights": {name: _describe_tensor(tensor) for name, tensor in model.state_dict().items()},
        "config": {name: value for name, value in config.items() if name not in NOT_COMPARED},
        "image_processor": json.loads(json.dumps(image_processor.to_dict(), default=str)),
    }


def _describe_tensor(tensor: torch.Tensor) -> list:
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return [list(tensor.shape), str(tensor.dtype), hashlib.sha256(content).hexdigest()]


def pipeline_scores(model, image_processor, pictures: list[Image.Image]) -> list[dict[str, float]]:
    """Score of each label for each picture, by the pipeline, one by one: a batch rounds otherwise."""
    classify = pipeline("image-classification", model=model, image_processor=image_processor)
    rows = [classify(picture.convert("RGB"), top_k=model.config.num_labels) for picture in pictures]
    return [{found["label"]: found["score"] for found in row} for row in rows]


def main(request_file: str) -> None:
    """Answer a request file: the answer is written where it says."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    torch.set_num_threads(request["num_threads"])
    model, info = AutoModelForImageClassification.from_pretrained(
        request["folder"], use_safetensors=True, output_loading_info=True
    )
    image_processor = AutoImageProcessor.from_pretrained(request["folder"], backend="pil")
    pictures = [Image.open(path) for path in request["pictures"]]
    unfit = {kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    found = unfit | describe(model, image_processor) | {"scores": pipeline_scores(model, image_processor, pictures)}
    Path(request["answer"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Exception as error:
        traceback.print_exc()
        # The last line is what the other process reports.
        sys.exit(" ".join(f"{type(error).__name__}: {error}".split()))
