"""ONNX as an export format: graphs and settings that transformers.js and onnxruntime run without torch."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, ProcessorMixin

from hfcap.atomic_files import write_json
from hfcap.errors import ConfigError, VerificationError
from hfcap.generation.caption import generate_tokens
from hfcap.generation.inputs import CaptionPrefix, caption_prompt, encode_prefix
from hfcap.generation.loading import complete_settings
from hfcap.generation.settings import end_token_ids, fresh_settings
from hfcap.generation.word_probabilities import ForcedTokens
from hfcap.hub.onnx_files import GRAPHS, ONDEVICE_JSON, list_files, ondevice_settings, write_settings
from hfcap.models.model_types import MODEL_TYPES, spec_of

EXTRA = ("onnx", "onnxscript", "onnxruntime")
# The exporter of torch writes no lower one; the highest that onnxruntime's releases for the web read.
OPSETS = range(18, 22)
BATCH_SIZES = (1, 3)
# Log-probabilities of a caption's tokens may differ by so much: sums in another order round otherwise.
TOLERANCE = 1e-3
CLEAN_PROCESS = Path(__file__).with_name("onnx_snapshot.py")


def check_onnx(model: PreTrainedModel, opset: int) -> None:
    """Refuse what cannot be exported, before anything is traced.

    Raises:
        ConfigError: another model type, an operator set that is not written, or a library that is missing.
    """
    if not spec_of(model.config).onnx:
        able = [name for name, spec in MODEL_TYPES.items() if spec.onnx]
        raise ConfigError(
            f"a {model.config.model_type} captioner cannot be exported to ONNX",
            option="--format",
            got="onnx",
            wanted=f"a captioner of type {', '.join(able)}",
            fix="export it with --format auto",
        )
    if opset not in OPSETS:
        raise ConfigError(option="--opset", got=opset, wanted=f"{OPSETS[0]} to {OPSETS[-1]}")
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} is not installed",
            option="--format",
            got="onnx",
            fix='run: pip install "hfcap[onnx]"',
        )


class OnnxFormat:
    """A captioner as ONNX graphs with what transformers.js and `hfcap.ondevice` need around them.

    Like every export format it has `write`, `load` in a clean process, and `compare` of what was loaded with what is
    in memory: here tokens of captions, their log-probabilities, and texts.

    Args:
        model: the captioner, of a type that `check_onnx` lets pass; it becomes float32.
        processor: its processor.
        opset: version of the ONNX operators.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, opset: int):
        self.model, self.processor, self.opset = model.float(), processor, opset
        complete_settings(model, processor)
        self.greedy = fresh_settings(model, num_beams=1, max_new_tokens=model.generation_config.max_new_tokens)
        self.graphs: list[str] = []

    @torch.inference_mode()
    def expect(self, images: Sequence[Image.Image]) -> dict[str, Any]:
        """Caption pictures in PyTorch.

        Args:
            images: RGB.

        Returns:
            `pixel_values` (N, 3, H, W); `greedy`, token ids by batch size; `scored`, the token ids by the shipped
            settings; their `log_probabilities`; `tokens`, rows of token ids, and `texts`, what they say.
        """
        prefixes = [self.prefix(image) for image in images]
        shipped = copy.deepcopy(self.model.generation_config)
        shipped.num_return_sequences = 1
        greedy = {str(size): self._tokens(prefixes, self.greedy, size) for size in BATCH_SIZES}
        scored = self._tokens(prefixes, shipped, 1)
        tokens = [row for rows in (*greedy.values(), scored) for row in rows]
        decode = self.processor.tokenizer.decode
        return {
            "pixel_values": stack_pixels(prefixes),
            "greedy": greedy,
            "scored": scored,
            "log_probabilities": [self._score(*pair) for pair in zip(prefixes, scored, strict=True)],
            "tokens": tokens,
            "texts": [decode(row, skip_special_tokens=True) for row in tokens],
        }

    def prefix(self, image: Image.Image) -> CaptionPrefix:
        """Pixels of a picture, and the tokens before its caption."""
        return encode_prefix(self.processor, self.model.config, {"image": image}, caption_prompt(self.processor))

    def _tokens(
        self, prefixes: Sequence[CaptionPrefix], settings: GenerationConfig, batch_size: int
    ) -> list[list[int]]:
        """Token ids of captions, each up to its end token."""
        rows = [
            row
            for start in range(0, len(prefixes), batch_size)
            for row in generate_tokens(
                self.model, self.processor, prefixes[start : start + batch_size], copy.deepcopy(settings)
            )
        ]
        return [up_to_end(row, end_token_ids(settings)) for row in rows]

    def _score(self, prefix: CaptionPrefix, tokens: Sequence[int]) -> list[float]:
        """Log-probability of each token of a caption, with no token ruled out."""
        settings = copy.deepcopy(self.greedy)
        settings.update(suppress_tokens=None, max_new_tokens=len(tokens))
        forced = ForcedTokens(torch.tensor([tokens]))
        processors = LogitsProcessorList([forced])
        generate_tokens(self.model, self.processor, [prefix], settings, logits_processor=processors)
        return torch.cat(forced.log_probabilities).tolist()

    def write(self, folder: Path) -> None:
        """Write the float32 graphs and all settings."""
        from hfcap.hub.onnx_graphs import write_graphs

        (folder / GRAPHS).mkdir()
        size = self.prefix(Image.new("RGB", (32, 32))).vision["pixel_values"].shape[-2:]
        self.graphs = write_graphs(self.model, size, folder / GRAPHS, self.opset)
        write_settings(self.model, self.processor, folder)
        self.list_variants(folder, ["none"])

    def list_variants(self, folder: Path, variants: Sequence[str]) -> None:
        """Write `hfcap_ondevice.json`, with the files of these variants."""
        settings = ondevice_settings(self.model, self.processor, self.opset)
        write_json(folder / ONDEVICE_JSON, settings | {"variants": list_files(folder, self.graphs, variants)})

    def load(self, folder: Path, expected: dict[str, Any]) -> dict[str, Any]:
        """Do in a clean process what `expect` did: greedy captions, scores of the others, texts of tokens."""
        with TemporaryDirectory(prefix="hfcap-verify-") as scratch:
            pixels = Path(scratch, "pixels.npy")
            np.save(pixels, expected["pixel_values"])
            return self.ask(folder, "none", pixels, BATCH_SIZES, scored=expected["scored"], texts=expected["tokens"])

    def ask(
        self,
        folder: Path,
        variant: str,
        pixels: Path,
        batch_sizes: Iterable[int],
        scored: Sequence[Sequence[int]] = (),
        texts: Sequence[Sequence[int]] = (),
    ) -> dict[str, Any]:
        """Run `hfcap.hub.onnx_snapshot` on an export; torch, transformers and hfcap cannot be imported there.

        Args:
            folder: the export.
            variant: which of its graphs.
            pixels: .npy file of the pictures.
            batch_sizes: of the greedy captions.
            scored: captions to score, as token ids.
            texts: token ids to decode.

        Raises:
            VerificationError: that process could not load the export, or not caption with it.
        """
        request = {
            "folder": str(folder.resolve()),
            "variant": variant,
            "pixel_values": str(pixels),
            "batch_sizes": list(batch_sizes),
            "ends": end_token_ids(self.greedy),
            "never": self.greedy.suppress_tokens or [],
            "limit": self.greedy.max_new_tokens,
            "scored": list(scored),
            "texts": list(texts),
            "num_threads": torch.get_num_threads(),
        }
        return run_clean_process(request)

    def compare(self, expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
        """Say how what `load` found differs from what `expect` saw, a line each."""
        problems = [f"{name} was imported in the clean process" for name in found["modules"]]
        for size, rows in expected["greedy"].items():
            problems += _different_rows(f"greedy tokens at batch size {size}", rows, found["greedy"][size])
        problems += _different_rows("text of caption", expected["texts"], found["texts"])
        pairs = zip(expected["log_probabilities"], found["log_probabilities"], strict=True)
        for number, (before, after) in enumerate(pairs, 1):
            error = float(np.abs(np.subtract(before, after)).max())
            if not error <= TOLERANCE:
                problems.append(
                    f"log-probabilities of caption {number} differ by {error:.2g}, more than the {TOLERANCE} allowed"
                )
        return problems


def _different_rows(what: str, expected: Sequence, found: Sequence) -> list[str]:
    return [
        f"{what}, picture {number}: before {before!r}, after {after!r}"
        for number, (before, after) in enumerate(zip(expected, found, strict=True), 1)
        if before != after
    ]


def stack_pixels(prefixes: Sequence[CaptionPrefix]) -> np.ndarray:
    """Pixels of pictures, (N, 3, H, W) float32."""
    return np.concatenate([np.asarray(prefix.vision["pixel_values"], np.float32) for prefix in prefixes])


def up_to_end(tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Tokens up to the first that ends a caption, that one included: behind it is padding."""
    place = next((place for place, token in enumerate(tokens, 1) if token in ends), len(tokens))
    return list(tokens[:place])


def run_clean_process(request: dict[str, Any]) -> dict[str, Any]:
    """Run `hfcap.hub.onnx_snapshot` in a new process, and give its answer.

    Raises:
        VerificationError: the process failed; its last line says why.
    """
    with TemporaryDirectory(prefix="hfcap-verify-") as scratch:
        request_file, answer = Path(scratch, "request.json"), Path(scratch, "answer.json")
        request_file.write_text(json.dumps(request | {"answer": str(answer)}), encoding="utf-8")
        done = subprocess.run(
            # -P: hfcap/hub would otherwise stand first on the path, and its modules before those of that name.
            [sys.executable, "-P", str(CLEAN_PROCESS), str(request_file)],
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            cwd=scratch,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise VerificationError(f"the export does not load in a clean process: {reason}")
        return json.loads(answer.read_text(encoding="utf-8"))
