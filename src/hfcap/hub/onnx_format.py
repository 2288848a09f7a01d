"""ONNX as an export format: graphs and settings that transformers.js and onnxruntime run without torch."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from hfcap.atomic_files import write_json
from hfcap.data.reading import loads_of
from hfcap.errors import ConfigError, VerificationError
from hfcap.generation.inputs import CaptionPrefix, caption_prompt, encode_prefix
from hfcap.generation.loading import complete_settings
from hfcap.generation.settings import change_decoding
from hfcap.generation.word_probabilities import scored_caption_stream
from hfcap.hub.onnx_files import (
    GRAPHS,
    ONDEVICE_JSON,
    image_settings,
    list_files,
    ondevice_settings,
    shipped_decoding,
    write_settings,
)
from hfcap.models.model_types import MODEL_TYPES, spec_of

if TYPE_CHECKING:
    from hfcap.ondevice.image_processing import ImageProcessor

EXTRA = ("onnx", "onnxscript", "onnxruntime")
# The exporter of torch writes no lower one; the highest that onnxruntime's releases for the web read.
OPSETS = range(18, 22)
BATCH_SIZES = (1, 3)
# Decoding that is compared, as changes of the shipped settings: these themselves (beams), and what a browser does.
WAYS = {"the shipped settings": {}, "greedy search": {"num_beams": 1}}
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
    in memory: here pixel values, the prompt, and captions with their tokens and log-probabilities.

    Args:
        model: the captioner, of a type that `check_onnx` lets pass; it becomes float32.
        processor: its processor.
        opset: version of the ONNX operators.

    Raises:
        ConfigError: an image processor or a decoding setting that `hfcap.ondevice` does not follow, pictures of a size
            that the model does not take, or of several; an encoder-decoder that was trained with a prompt.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, opset: int):
        from hfcap.ondevice.image_processing import ImageProcessor
        from hfcap.ondevice.settings import read_decoding

        self.model, self.processor, self.opset = model.float(), processor, opset
        prompt = caption_prompt(processor)
        if prompt and model.config.is_encoder_decoder:
            raise ConfigError(
                f"in transformers.js an encoder-decoder begins with its start token, and this one with {prompt!r}",
                option="--format",
                got="onnx",
                fix="export it with --format auto",
            )
        complete_settings(model, processor)
        read_decoding(shipped_decoding(model))
        self._check_pictures(ImageProcessor(image_settings(processor)))
        self.graphs: list[str] = []

    @torch.inference_mode()
    def _check_pictures(self, images: "ImageProcessor") -> None:
        """Refuse pixel values of no fixed size, which graphs do not take, and those that the encoder does not take."""
        from hfcap.hub.onnx_graphs import picture_encoder

        settings = images.settings
        got = {name: settings[name] for name in ("do_resize", "size", "crop_size") if settings.get(name) is not None}
        if images.output_size is None:
            raise ConfigError(
                "pixel values have the shape of each picture, and ONNX graphs take one size",
                option="image processor",
                got=got,
                wanted="size with height and width, or a center crop",
                fix="train or save the captioner with such an image processor",
            )
        try:
            picture_encoder(self.model)(self._prefix(Image.new("RGB", (32, 32))).vision["pixel_values"])
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                f"the model does not take such pictures: {' '.join(str(error).split())[:300]}",
                option="image processor",
                got=got,
                fix="set the size that the model was trained with",
            ) from error

    @torch.inference_mode()
    def expect(self, images: Sequence[Image.Image]) -> dict[str, Any]:
        """Caption pictures in PyTorch.

        Args:
            images: RGB.

        Returns:
            `pixel_values` (N, 3, H, W) float32; `prompt_ids`; `captions[way][batch size]`, for `WAYS` and
            `BATCH_SIZES`, a list of `hfcap.samples.Sample` as JSON.
        """
        prefixes = [self._prefix(image) for image in images]
        pixels = [np.asarray(prefix.vision["pixel_values"], np.float32) for prefix in prefixes]
        return {
            "pixel_values": np.concatenate(pixels),
            "prompt_ids": prefixes[0].input_ids,
            "captions": {
                way: {str(size): self._captions(images, size, changes) for size in BATCH_SIZES}
                for way, changes in WAYS.items()
            },
        }

    def _prefix(self, image: Image.Image) -> CaptionPrefix:
        """Pixels of a picture, and the tokens before its caption."""
        return encode_prefix(self.processor, self.model.config, {"image": image}, caption_prompt(self.processor))

    def _captions(
        self, images: Sequence[Image.Image], batch_size: int, changes: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        loads, prompt = loads_of([{"image": image} for image in images]), caption_prompt(self.processor)
        with self._decoding(changes):
            return [
                asdict(sample)
                for _, sample in scored_caption_stream(self.model, self.processor, loads, prompt, batch_size)
            ]

    @contextmanager
    def _decoding(self, changes: Mapping[str, Any]) -> Iterator[None]:
        """Let the model decode with changed settings."""
        shipped = self.model.generation_config
        self.model.generation_config = copy.deepcopy(shipped)
        try:
            change_decoding(self.model, changes)
            yield
        finally:
            self.model.generation_config = shipped

    def write(self, folder: Path) -> None:
        """Write the float32 graphs and all settings."""
        from hfcap.hub.onnx_graphs import write_graphs

        (folder / GRAPHS).mkdir()
        size = self._prefix(Image.new("RGB", (32, 32))).vision["pixel_values"].shape[-2:]
        self.graphs = write_graphs(self.model, size, folder / GRAPHS, self.opset)
        write_settings(self.model, self.processor, folder)
        self.list_variants(folder, ["none"])

    def list_variants(self, folder: Path, variants: Sequence[str]) -> None:
        """Write `hfcap_ondevice.json`, with the files of these variants."""
        settings = ondevice_settings(self.model, self.processor, self.opset)
        write_json(folder / ONDEVICE_JSON, settings | {"variants": list_files(folder, self.graphs, variants)})

    def load(self, folder: Path, images: Sequence[Image.Image]) -> dict[str, Any]:
        """Do in a clean process what `expect` did; see `hfcap.hub.onnx_snapshot`.

        Raises:
            VerificationError: that process could not load the export, or not caption with it.
        """
        with TemporaryDirectory(prefix="hfcap-verify-") as scratch:
            pictures = [str(Path(scratch, f"{number}.png")) for number in range(len(images))]
            for image, path in zip(images, pictures, strict=True):
                image.save(path)
            pixels = Path(scratch, "pixels.npy")
            request = {
                "folder": str(folder.resolve()),
                "pictures": pictures,
                "pixel_values": str(pixels),
                "batch_sizes": BATCH_SIZES,
                "ways": WAYS,
                "num_threads": torch.get_num_threads(),
            }
            return run_clean_process(request) | {"pixel_values": np.load(pixels)}

    def compare(self, expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
        """Say how what `load` found differs from what `expect` saw, a line each."""
        problems = [f"{name} was imported in the clean process" for name in found["modules"]]
        if expected["prompt_ids"] != found["prompt_ids"]:
            problems.append(f"prompt ids: before {expected['prompt_ids']}, after {found['prompt_ids']}")
        pixels = zip(expected["pixel_values"], found["pixel_values"], strict=True)
        problems += [
            f"pixel values of picture {number} differ"
            for number, pair in enumerate(pixels, 1)
            if not np.array_equal(*pair)
        ]
        for way, captions in expected["captions"].items():
            for size, samples in captions.items():
                what = f"by {way} at batch size {size}, picture"
                pairs = zip(samples, found["captions"][way][size], strict=True)
                for number, (before, after) in enumerate(pairs, 1):
                    problems += _different_samples(f"{what} {number}", before, after)
        return problems


def _different_samples(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    for part in ("tokens", "caption"):
        if list(before[part]) != list(after[part]):
            return [f"{part} {what}: before {before[part]!r}, after {after[part]!r}"]
    error = float(np.abs(np.subtract(before["log_probabilities"], after["log_probabilities"])).max())
    if not error <= TOLERANCE:
        return [f"log-probabilities {what}: differ by {error:.2g}, more than the {TOLERANCE} allowed"]
    return []


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
