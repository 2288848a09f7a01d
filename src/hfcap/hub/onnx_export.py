"""`hfcap export --format onnx`: graphs, their verification, quantized variants, and what those cost."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from hfcap import runs
from hfcap.counts import counted
from hfcap.data.reading import loads_of
from hfcap.errors import ConfigError, VerificationError
from hfcap.hub import verify
from hfcap.hub.onnx_files import DTYPES, GRAPHS, SUFFIXES, list_files, recommend
from hfcap.hub.onnx_format import OnnxFormat, check_onnx
from hfcap.hub.verification_images import NUM_COMPARED, evaluation_rows, pictures_of_run
from hfcap.metrics import compare_systems

FLOAT32 = "none"
VARIANTS = tuple(SUFFIXES)
# CIDEr x 100 that a quantized variant may cost; where its interval does not exclude more, that is said.
LIMIT = 1.0
# What is tried where a variant costs more.
BETTER = {"int8": ("float16", FLOAT32), "float16": (FLOAT32,)}
BATCH_SIZE = 8


@dataclass(frozen=True)
class OnnxOptions:
    """What is asked of an ONNX export.

    Attributes:
        quantize: variants to write: "none" (float32), "float16", "int8"; the first is what transformers.js loads.
        opset: version of the ONNX operators.
        data: where the run's data is, if no longer where its `run.json` says.

    Raises:
        ConfigError: a variant that does not exist, or none.
    """

    quantize: tuple[str, ...] = (FLOAT32,)
    opset: int = 18
    data: str | None = None

    def __post_init__(self):
        wrong = next((name for name in self.quantize if name not in VARIANTS), None)
        if wrong is not None or not self.quantize:
            raise ConfigError(option="--quantize", got=wrong or "", wanted=f"one or more of {', '.join(VARIANTS)}")

    @property
    def variants(self) -> list[str]:
        """The variants to write, each once."""
        return list(dict.fromkeys(self.quantize))


def write_onnx(
    folder: Path,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    run: Path,
    options: OnnxOptions,
    pictures: Sequence[Path] = (),
) -> dict[str, Any]:
    """Write a captioner as ONNX into a folder, verified; see `docs/ondevice.md` for what is in it.

    Float32 graphs are always made and compared with PyTorch; the quantized ones are made of them and judged by the
    CIDEr they cost.

    Args:
        folder: exists, empty.
        model: the captioner; it becomes float32.
        processor: its processor.
        run: folder of the run's records.
        options: what to write.
        pictures: files to compare captions of, instead of the run's evaluation data.

    Returns:
        The fields of `verification.json` that are of this format.

    Raises:
        ConfigError: what was asked for cannot be done.
        VerificationError: the float32 graphs are not the captioner, or a variant costs too much.
    """
    check_onnx(model, options.opset)
    quantized = [variant for variant in options.variants if variant != FLOAT32]
    # Before the graphs are traced, which takes long.
    judged = evaluation_rows(run, options.data) if quantized else []
    rows, whence = pictures_of_run(run, pictures, NUM_COMPARED, options.data)
    images = [row["image"] for row in rows]
    written = OnnxFormat(model, processor, options.opset)
    expected = written.expect(images)
    written.write(folder)
    verify.refuse(written.compare(expected, written.load(folder, images)))
    costs = _add_variants(folder, written, quantized, judged, runs.metrics_tokenizer(run)) if quantized else {}
    _keep_variants(folder, written, options.variants)
    return {
        "class": type(model).__name__,
        "model_type": model.config.model_type,
        "dtypes": [DTYPES[variant] for variant in options.variants],
        "opset": options.opset,
        "files": list_files(folder, written.graphs, options.variants),
        "costs": costs,
        "cpu_milliseconds": {variant: _cpu_milliseconds(folder, variant, images) for variant in options.variants},
        "num_beams": model.generation_config.num_beams or 1,
        "captions": {"compared": len(rows), "of": whence},
    }


def _keep_variants(folder: Path, written: OnnxFormat, variants: Sequence[str]) -> None:
    """Remove the float32 graphs if nobody asked for them; say everywhere what there is."""
    if FLOAT32 not in variants:
        for name in written.graphs:
            (folder / GRAPHS / f"{name}.onnx").unlink()
    written.list_variants(folder, variants)
    recommend(folder, variants[0])


def _add_variants(
    folder: Path, written: OnnxFormat, variants: Sequence[str], rows: Sequence[Mapping[str, Any]], tokenizer: str
) -> dict[str, dict[str, Any]]:
    """Write quantized variants beside the float32 graphs; give what each costs.

    Raises:
        VerificationError: one costs more than `LIMIT`; names the next better one and what that costs.
    """
    judge = _Judge(folder, written, rows, tokenizer)
    costs = {}
    for variant in variants:
        cost = costs[variant] = judge.cost(variant)
        print(f"{variant}: {said_cost(cost)}{said_doubt(cost)}.")
        if not is_small(cost):
            raise VerificationError(
                f"{said_cost(cost)}, more than the {LIMIT:.1f} allowed",
                option="--quantize",
                got=variant,
                fix=judge.better(variant),
            )
    return costs


class _Judge:
    """Measures what variants cost against the float32 graphs, by the settings that the captioner ships with.

    Args:
        folder: the export.
        written: what wrote it.
        rows: pictures with references.
        tokenizer: of the metric.
    """

    def __init__(self, folder: Path, written: OnnxFormat, rows: Sequence[Mapping[str, Any]], tokenizer: str):
        self.folder, self.written, self.rows, self.tokenizer = folder, written, rows, tokenizer
        self.references = [row["captions"] for row in rows]
        self.before = self._captions(FLOAT32)

    def cost(self, variant: str) -> dict[str, Any]:
        """Quantize, caption, and compare: `compare_systems` of CIDEr, and the share of captions that are the same."""
        from hfcap.hub.onnx_quantization import quantize

        for name in self.written.graphs:
            source = self.folder / GRAPHS / f"{name}.onnx"
            quantize(source, source.with_name(f"{name}{SUFFIXES[variant]}.onnx"), variant)
        self.written.list_variants(self.folder, [FLOAT32, variant])
        after = self._captions(variant)
        found = compare_systems(self.before, after, self.references, ("cider",), tokenizer=self.tokenizer)["cider"]
        same = sum(a == b for a, b in zip(self.before, after, strict=True)) / len(after)
        return {**found, "num_images": len(after), "same_captions": same}

    def better(self, variant: str) -> str:
        """Say which variant to take instead."""
        for other in BETTER[variant]:
            if other == FLOAT32:
                break
            cost = self.cost(other)
            if is_small(cost):
                return f"use --quantize {other} ({said_cost(cost)})"
        return "use --quantize none"

    def _captions(self, variant: str) -> list[str]:
        from hfcap.ondevice import Captioner

        captioner = Captioner(self.folder, torch.get_num_threads(), variant)
        done = captioner.caption_stream(loads_of(self.rows), batch_size=BATCH_SIZE)
        name = "float32" if variant == FLOAT32 else variant
        return [caption for _, caption in tqdm(done, f"captions of {name}", len(self.rows), leave=False)]


def is_small(cost: Mapping[str, Any]) -> bool:
    """Whether a cost is at most `LIMIT`."""
    return -100 * cost["difference"] <= LIMIT


def said_doubt(cost: Mapping[str, Any]) -> str:
    """Words for a cost whose interval reaches above `LIMIT`; none for others."""
    if -100 * cost["ci95"][0] <= LIMIT:
        return ""
    return f"; more than {LIMIT:.1f} cannot be excluded: evaluate more pictures to know"


def said_cost(cost: Mapping[str, Any]) -> str:
    """What a variant costs, for people."""
    low, high, lost = (0 - 100 * value for value in (*reversed(cost["ci95"]), cost["difference"]))  # not "-0.00"
    return (
        f"CIDEr x 100 {100 * cost['a']:.1f} in float32, {100 * cost['b']:.1f} here; it costs "
        f"{lost:.2f} (95 % interval {low:.2f} to {high:.2f}, {counted(cost['num_images'], 'picture')})"
    )


def _cpu_milliseconds(folder: Path, variant: str, images: Sequence[Image.Image]) -> float:
    """Median CPU time of a caption by the shipped settings, one picture after another on one thread."""
    from hfcap.ondevice import Captioner

    captioner = Captioner(folder, 1, variant)
    captioner.caption(images[:1])  # the first one is slower
    times = []
    for image in images:
        start = time.process_time()
        captioner.caption([image])
        times.append(time.process_time() - start)
    return round(1000 * statistics.median(times), 1)
