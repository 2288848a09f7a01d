"""Snapshot of an ONNX export in a clean process: greedy tokens, logits of given captions, texts of tokens.

Run as a script (`python -P onnx_snapshot.py REQUEST.json`) it reads an export with onnxruntime, tokenizers and NumPy
alone and writes down what they say. torch, transformers and hfcap cannot be imported there.
"""

import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BLOCKED = ("torch", "transformers", "hfcap")


class _Blocked:
    """An import hook before all others: what `BLOCKED` names is not available."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked: an ONNX export must work without it)")


if __name__ == "__main__":
    sys.meta_path.insert(0, _Blocked())

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

PAST, PRESENT = "past_key_values", "present"


class Graphs:
    """The graphs of one variant of an export.

    Args:
        folder: the export.
        settings: its `hfcap_ondevice.json`.
        variant: key of `settings["variants"]`.
        num_threads: threads of one operation.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], variant: str, num_threads: int = 1):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = num_threads, 3
        self.sessions = {
            name: onnxruntime.InferenceSession(str(folder / found["file"]), options, ["CPUExecutionProvider"])
            for name, found in settings["variants"][variant].items()
        }
        self.image_token_id = settings["image_token_id"]
        self.decoder = self.sessions["decoder_model_merged"]
        self.inputs = {one.name: one for one in self.decoder.get_inputs()}
        self.outputs = [one.name for one in self.decoder.get_outputs()]

    def encode(self, pixel_values: np.ndarray) -> np.ndarray:
        """Give what the decoder attends to, or the features in place of image tokens, of (B, 3, H, W) float32."""
        name = "encoder_model" if self.image_token_id is None else "vision_encoder"
        return self.sessions[name].run(None, {"pixel_values": pixel_values})[0]

    def begin(self, features: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Run the decoder from its start; see `step`."""
        past = {
            name: np.zeros((len(tokens), one.shape[1], 0, one.shape[3]), np.float32)
            for name, one in self.inputs.items()
            if name.startswith(PAST)
        }
        return self.step(features, tokens, past, 0)

    def step(
        self, features: np.ndarray, tokens: np.ndarray, past: dict[str, np.ndarray], length: int
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Run the decoder on (B, T) tokens after `length` others; give logits (B, T, V) and the longer cache."""
        batch_size, num_tokens = tokens.shape
        given = {
            "input_ids": tokens,
            "encoder_hidden_states": features,
            "attention_mask": np.ones((batch_size, length + num_tokens), np.int64),
            "position_ids": np.arange(length, length + num_tokens)[None].repeat(batch_size, 0),
        }
        if "inputs_embeds" in self.inputs:
            embeddings = self.sessions["embed_tokens"].run(None, {"input_ids": tokens})[0]
            embeddings[tokens == self.image_token_id] = features.reshape(-1, features.shape[-1])[
                : int((tokens == self.image_token_id).sum())
            ]
            given["inputs_embeds"] = embeddings
        given = {name: value for name, value in given.items() if name in self.inputs}
        found = dict(zip(self.outputs, self.decoder.run(None, given | past), strict=True))
        return found["logits"], {name: found[name.replace(PAST, PRESENT)] for name in past}


def greedy(
    graphs: Graphs,
    pixel_values: np.ndarray,
    prompt: Sequence[int],
    ends: Sequence[int],
    never: Sequence[int],
    limit: int,
) -> list[list[int]]:
    """Give the most probable token, one after another, until one of `ends` (included) or `limit` tokens.

    Args:
        graphs: of the captioner.
        pixel_values: (B, 3, H, W) float32.
        prompt: tokens before each caption.
        ends: tokens that end a caption.
        never: tokens that no caption has.
        limit: most tokens of a caption.
    """
    features = graphs.encode(np.ascontiguousarray(pixel_values))
    tokens = np.array([list(prompt)] * len(features))
    logits, past = graphs.begin(features, tokens)
    captions: list[list[int]] = [[] for _ in features]
    is_done = np.zeros(len(features), bool)
    for length in range(tokens.shape[1], tokens.shape[1] + limit):
        scores = logits[:, -1]
        scores[:, list(never)] = -np.inf
        chosen = scores.argmax(-1)
        for row in np.flatnonzero(~is_done):
            captions[row].append(int(chosen[row]))
        is_done |= np.isin(chosen, list(ends))
        if is_done.all():
            break
        logits, past = graphs.step(features, chosen[:, None], past, length)
    return captions


def log_probabilities(graphs: Graphs, pixel_values: np.ndarray, prompt: Sequence[int], caption: Sequence[int]) -> list:
    """Log-probability of each token of a caption of (1, 3, H, W) pixels, with no token ruled out."""
    features = graphs.encode(np.ascontiguousarray(pixel_values))
    logits, past = graphs.begin(features, np.array([list(prompt)]))
    rows, length = [logits[0, -1]], len(prompt)
    for place, token in enumerate(caption[:-1]):
        logits, past = graphs.step(features, np.array([[token]]), past, length + place)
        rows.append(logits[0, -1])
    scores = np.stack(rows).astype(np.float64)
    scores -= scores.max(-1, keepdims=True)
    logs = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    return logs[np.arange(len(caption)), list(caption)].tolist()


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what a request asks of an export.

    Args:
        request: `folder`; `variant`; `pixel_values`, an .npy file (N, 3, H, W); `batch_sizes`; `ends`, `never` and
            `limit` of `greedy`; `scored`, N captions as token ids; `texts`, token ids to decode.
    """
    folder = Path(request["folder"])
    settings = json.loads((folder / "hfcap_ondevice.json").read_text(encoding="utf-8"))
    graphs = Graphs(folder, settings, request["variant"], request["num_threads"])
    pixels, prompt = np.load(request["pixel_values"], mmap_mode="r"), settings["prompt_ids"]
    search = {name: request[name] for name in ("ends", "never", "limit")}
    decode = Tokenizer.from_file(str(folder / "tokenizer.json")).decode  # special tokens are left out
    return {
        "greedy": {
            str(size): [
                row
                for start in range(0, len(pixels), size)
                for row in greedy(graphs, pixels[start : start + size], prompt, **search)
            ]
            for size in request["batch_sizes"]
        },
        "log_probabilities": [
            log_probabilities(graphs, picture[None], prompt, caption)
            for picture, caption in zip(pixels, request["scored"], strict=False)  # none, or one each
        ],
        "texts": [decode(row) for row in request["texts"]],
        "modules": sorted({name.split(".")[0] for name in sys.modules} & set(BLOCKED)),
    }


def main(request_file: str) -> None:
    """Answer a request file: the answer is written beside it."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    Path(request["answer"]).write_text(json.dumps(answer(request)), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except Exception as error:
        traceback.print_exc()
        # The last line is what the other process reports.
        sys.exit(" ".join(f"{type(error).__name__}: {error}".split()))
