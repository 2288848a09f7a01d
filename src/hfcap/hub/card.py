"""The model card: written from the files of a run, never by hand.

What a card says is given (by a person), measured (`metrics.json`), or computed (from `run.json`, `captions.jsonl` and
the weights themselves), and the code keeps the three apart.
"""

import html
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from safetensors import safe_open

from hfcap import runs
from hfcap.files import write_atomic
from hfcap.predictions import read_predictions

LLAVA = "hfcap_llava"
ENCODER_DECODER = "hfcap_encoder_decoder"

# Settings that decide a training: their name in `run.json`, and what the card calls them. What is unset is left out.
PROCEDURE = {
    "strategy": "strategy",
    "model": "started from",
    "encoder": "encoder",
    "decoder": "decoder",
    "lora_r": "LoRA rank",
    "lora_alpha": "LoRA alpha",
    "learning_rate": "learning rate",
    "encoder_learning_rate": "learning rate of the encoder",
    "projector_learning_rate": "learning rate of the projector",
    "lr_scheduler_type": "schedule",
    "num_train_epochs": "epochs",
    "max_steps": "steps",
    "per_device_train_batch_size": "images a device and step",
    "gradient_accumulation_steps": "accumulation steps",
    "label_smoothing_factor": "label smoothing",
    "weight_decay": "weight decay",
    "packing": "packing of references",
    "seed": "seed",
}


@dataclass(frozen=True)
class Given:
    """What only a person can say.

    Attributes:
        name: heading of the card; the run's name by default.
        repo_id: Hub id or folder that the usage example loads; the run's weights by default.
        summary: what the captioner is for, in a sentence or two.
        license: licence id, as the Hub spells it.
        language: language code of the captions.
        datasets: Hub ids of the training data.
        base_model: Hub ids of the pretrained parts.
        limits: known limits, a sentence each.
    """

    name: str | None = None
    repo_id: str | None = None
    summary: str | None = None
    license: str | None = None
    language: str = "en"
    datasets: Sequence[str] = ()
    base_model: Sequence[str] = ()
    limits: Sequence[str] = ()


@dataclass(frozen=True)
class Computed:
    """What the run's files and weights say themselves.

    Attributes:
        name: the run's.
        weights: folder of the weights, as a user types it.
        artifact: "merged" or "model".
        model_type: from the model's config.
        num_parameters: values in the weight files.
        prompt: the instruction the captioner was trained with, or None.
        run: record of `run.json`.
        procedure: (name, value) of the settings that decide a training.
        samples: `{image_id, caption, reference}` of images drawn at random.
    """

    name: str
    weights: str
    artifact: str
    model_type: str
    num_parameters: int
    prompt: str | None
    run: Mapping[str, Any]
    procedure: Sequence[tuple[str, str]]
    samples: Sequence[Mapping[str, str]]


def write_card(run_folder: str | os.PathLike, given: Given | None = None) -> Path:
    """Write the run's `README.md` atomically from its other files; the same files give the same card.

    Args:
        run_folder: a finished run: `run.json`, `metrics.json`, `captions.jsonl`, and `merged/` or `model/`.
        given: what a person adds.

    Returns:
        The path of the card.

    Raises:
        ValueError: a file that cannot be read as what it should be, or no weights.
        FileNotFoundError: a file of the run is not there: finish or evaluate the run.
    """
    folder = Path(run_folder)
    metrics = runs.read_metrics(folder / runs.METRICS)
    return write_atomic(folder / runs.CARD, render_card(given or Given(), metrics, compute(folder)))


def render_card(given: Given, metrics: Mapping[str, Any], computed: Computed) -> str:
    """Fill the template: YAML metadata for the Hub, then Markdown.

    Args:
        given: what a person says.
        metrics: what was measured, the record of `metrics.json`.
        computed: what the run's files say.
    """
    name = given.name or computed.name
    figures = [
        (runs.METRIC_NAMES.get(key, key), 100 * figure["value"], [100 * bound for bound in figure["ci95"]])
        for key, figure in sorted(metrics["metrics"].items(), key=lambda item: _order(item[0]))
    ]
    arguments = computed.run["arguments"]
    return (
        card_environment()
        .get_template("card.md.jinja")
        .render(
            metadata=_metadata(given, metrics, computed, name).to_yaml().strip(),
            name=name,
            given=given,
            metrics=metrics,
            computed=computed,
            figures=figures,
            data=_data_name(arguments),
            split=arguments.get("eval_split", "evaluation"),
            is_demo=arguments.get("data") == "scenes",
            repo_id=given.repo_id or computed.weights,
            needs_hfcap=computed.model_type in (LLAVA, ENCODER_DECODER),
            has_prompt=computed.model_type != ENCODER_DECODER and computed.model_type != "vision-encoder-decoder",
        )
    )


def card_environment() -> Environment:
    """Make the environment of the cards' templates; its filter `plain` shows text as it is."""
    environment = Environment(
        loader=PackageLoader("hfcap"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters["plain"] = plain
    return environment


def compute(folder: Path) -> Computed:
    """Read what the card needs from the files of a run.

    Raises:
        ValueError: no weights in the folder, or a file that is not what it should be.
    """
    source = runs.resolve_model(folder)
    if source.artifact == runs.ADAPTER:
        raise ValueError(f"{folder} is an adapter; wanted a run folder with {runs.MERGED}/ or {runs.MODEL}/")
    weights, run = Path(source.path), runs.read_run(folder / runs.RUN)
    config = json.loads((weights / "config.json").read_text(encoding="utf-8"))
    processor = weights / "processor_config.json"
    settings = json.loads(processor.read_text(encoding="utf-8")) if processor.is_file() else {}
    return Computed(
        name=folder.resolve().name,
        weights=_as_typed(weights),
        artifact=source.artifact,
        model_type=config["model_type"],
        num_parameters=count_parameters(weights),
        prompt=settings.get("caption_prompt"),
        run=run,
        procedure=_procedure(run["arguments"]),
        samples=_samples(folder / runs.CAPTIONS),
    )


def count_parameters(folder: Path) -> int:
    """Count the values in a folder's safetensors files from their headers; tied weights are stored, and counted, once.

    Raises:
        ValueError: there are no such files.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} has no .safetensors file; save the model there")
    count = 0
    for path in files:
        with safe_open(path, "np") as tensors:
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return count


def _metadata(given: Given, metrics: Mapping[str, Any], computed: Computed, name: str) -> ModelCardData:
    arguments = computed.run["arguments"]
    strategy = arguments.get("strategy")
    data = _data_name(arguments)
    results = [
        EvalResult(
            task_type="image-to-text",
            task_name="Image captioning",
            dataset_type=data,
            dataset_name=data,
            dataset_split=arguments.get("eval_split"),
            metric_type=key,
            metric_name=runs.METRIC_NAMES.get(key, key),
            metric_value=round(100 * figure["value"], 2),
        )
        for key, figure in sorted(metrics["metrics"].items(), key=lambda item: _order(item[0]))
    ]
    return ModelCardData(
        language=given.language,
        license=given.license,
        library_name="hfcap" if computed.model_type in (LLAVA, ENCODER_DECODER) else "transformers",
        pipeline_tag="image-to-text",
        tags=["image-captioning", "hfcap", *([strategy] if strategy in ("lora", "qlora") else [])],
        datasets=list(given.datasets) or None,
        base_model=list(given.base_model) or None,
        model_name=name,
        eval_results=results,
    )


def _order(key: str) -> tuple[int, str]:
    """Known metrics in the order of `METRIC_NAMES`, then the others by name."""
    known = list(runs.METRIC_NAMES)
    return (known.index(key) if key in known else len(known), key)


def _data_name(arguments: Mapping[str, Any]) -> str:
    """Name of the training data: of a local folder only its own name, which says enough and no more."""
    return Path(str(arguments.get("data", "unknown"))).name


def _procedure(arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
    unset = {None, 0, -1, ""}  # `Trainer` writes max_steps=-1 and smoothing 0 for "not used"
    rows = []
    for key, name in PROCEDURE.items():
        value = arguments.get(key)
        if key.startswith("lora_") and arguments.get("strategy") not in ("lora", "qlora"):
            continue
        if isinstance(value, list | dict) or (value in unset and not isinstance(value, bool) and key != "seed"):
            continue
        if key == "num_train_epochs" and (arguments.get("max_steps") or -1) > 0:
            continue  # max_steps wins in `Trainer`
        is_part = key in ("model", "encoder", "decoder")
        rows.append((name, _part_name(value) if is_part else f"{value:g}" if isinstance(value, float) else str(value)))
    return rows


def _part_name(value: str) -> str:
    """A Hub id as it is; of a local folder its own name (or the run's, for the weights inside one)."""
    path = Path(value)
    if path.name in runs.ARTIFACTS:
        path = path.parent
    is_hub_id = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", value) and not path.exists() and path.parts[0] != "outputs"
    return value if is_hub_id else path.name


def _samples(path: Path, count: int = 6, seed: int = 0) -> list[dict[str, str]]:
    rows = sorted(read_predictions(path, allow_empty=True), key=lambda row: row.image_id)
    drawn = Random(seed).sample(rows, min(count, len(rows)))
    return [
        {
            "image_id": row.image_id,
            "caption": row.captions[0],
            "reference": (row.extra.get("captions") or [""])[0],
        }
        for row in drawn
    ]


def _as_typed(folder: Path) -> str:
    """The folder relative to where the command runs; outside of it the last two parts, without the way there."""
    try:
        return folder.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return "/".join(folder.parts[-2:])


def plain(text: Any) -> str:
    """Text that Markdown shows as it is, in a paragraph and in a table cell."""
    one_line = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(one_line, quote=False))
