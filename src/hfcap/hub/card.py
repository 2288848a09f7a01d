"""Model cards, written from the files of a run.

What a card says is given (by a person), measured (`metrics.json`), or computed (from `run.json`, `captions.jsonl` and
the weights themselves), and the code keeps the three apart. A person's own words stand between two comments, and they
and the given metadata are taken over when the card is written again.
"""

import html
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from hfcap import runs
from hfcap.atomic_files import write_atomic, write_json
from hfcap.errors import ConfigError
from hfcap.hub.card_claims import captions_match, describe_prompt, describe_weights, evaluated_data
from hfcap.hub.card_data import CARD_JSON, CardData, read_card_data, write_card_data
from hfcap.hub.card_metadata import (
    EVAL_RESULTS,
    TAGS,
    WRITTEN,
    Given,
    card_metadata,
    eval_results,
    figures,
    needs_hfcap,
)
from hfcap.hub.usage import usage_code, web_code
from hfcap.models.model_types import MODEL_TYPES
from hfcap.origins import PARTS, part_name, public_record

WORDS_START = "<!-- Your own words go here; they are kept when hfcap writes this card again. -->"
WORDS_END = "<!-- End of your own words. -->"

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
    "per_device_train_batch_size": "images per device and step",
    "gradient_accumulation_steps": "accumulation steps",
    "label_smoothing_factor": "label smoothing",
    "weight_decay": "weight decay",
    "references": "references per image and step",
    "packing": "packing of references",
    "mirror": "pictures mirrored at random",
    "crop": "random crops of at least this share",
    "cached_crops": "crops in the feature cache",
    "color_jitter": "color jitter",
    "length_tokens": "length tokens",
    "average_checkpoints": "averaged checkpoints, at most",
    "seed": "seed",
}
# What the estimate of energy assumes: board power in watts by a part of the accelerator's name, and for each CPU core.
WATTS = {"H200": 700, "H100": 700, "A100": 400, "L40": 300, "A10": 150, "L4": 72, "T4": 70, "4090": 450, "3090": 350}
WATTS_A_CORE = 10


def write_card(folder: str | os.PathLike, given: Given | None = None, thumbnails: bool | None = None) -> Path:
    """Write a run's `README.md` and `card.json` atomically from its other files; the same files give the same card.

    Args:
        folder: a finished run, or its records alone (`run.json`, `metrics.json`, `card.json`).
        given: what a person adds; by default what the card there says already.
        thumbnails: whether to put small copies of evaluation pictures beside the card; by default of drawings alone,
            since photos belong to somebody.

    Returns:
        The path of the card.

    Raises:
        ValueError: a file that cannot be read as what it should be, or no weights.
        FileNotFoundError: a file of the run is not there: finish or evaluate the run.
    """
    folder = Path(folder)
    refuse_tagger(folder)
    metrics, run = runs.read_metrics(folder / runs.METRICS_JSON), runs.read_run(folder / runs.RUN_JSON)
    card_data = read_card_data(folder)
    if thumbnails is None:
        thumbnails = run["arguments"].get("data") == "scenes"
    if thumbnails and captions_match(metrics, card_data) and any((folder / part).is_dir() for part in runs.ARTIFACTS):
        from hfcap.hub.verification_images import write_thumbnails  # brings torch, which records alone do not need

        paths = write_thumbnails(folder, run, metrics, [sample["image_id"] for sample in card_data.samples])
        samples = [sample | {"thumbnail": paths.get(sample["image_id"])} for sample in card_data.samples]
        card_data = replace(card_data, samples=samples)
    card = folder / runs.CARD_README
    text = render_card(given or read_given(card, metrics, run, card_data), metrics, run, card_data)
    write_card_data(folder, card_data)
    return write_atomic(card, text)


def refuse_tagger(folder: Path) -> None:
    """Raise ConfigError for the folder of a tagger, whose card is another one."""
    if (folder / runs.POLICY_YAML).is_file():
        fix = "its training and `hfcap push` write its card"
        raise ConfigError("it is a tagger", option="RUN", got=str(folder), wanted="a captioner", fix=fix)


def render_card(given: Given, metrics: Mapping[str, Any], run: Mapping[str, Any], card_data: CardData) -> str:
    """Fill the template: YAML metadata for the Hub, then Markdown.

    Args:
        given: what a person says.
        metrics: what was measured, the record of `metrics.json`.
        run: how the captioner was made, the record of `run.json`.
        card_data: what weights and captions say.
    """
    arguments = run["arguments"]
    return (
        card_environment()
        .get_template("card.md.jinja")
        .render(
            metadata=card_metadata(given, metrics, run, card_data).to_yaml().strip(),
            given=given,
            words_start=WORDS_START,
            words_end=WORDS_END,
            metrics=metrics,
            run=run,
            card_data=card_data,
            figures=list(figures(metrics, decimals=1)),
            data=runs.data_name(arguments.get("data", "unknown")),
            evaluated=evaluated_data(metrics, run),
            captions_match=captions_match(metrics, card_data),
            weights_statement=describe_weights(metrics, card_data),
            other_prompt=describe_prompt(metrics, card_data),
            is_demo=arguments.get("data") == "scenes",
            needs_hfcap=needs_hfcap(card_data),
            loading=_loading(card_data),
            usage=usage_code(card_data.model_type, card_data.prompt) if card_data.model_type in MODEL_TYPES else None,
            web=web_code(card_data.model_type, card_data.prompt, card_data.weights) if card_data.variants else None,
            procedure=_procedure(run),
            hardware=_hardware(run["machine"]),
            compute=_compute(run),
        )
    )


def _loading(card_data: CardData) -> str:
    """More arguments of `from_pretrained`."""
    revision = f', revision="{card_data.revision}"' if card_data.revision else ""
    return revision + (", trust_remote_code=True" if card_data.form == "remote-code" else "")


def read_given(card: Path, metrics: Mapping[str, Any], run: Mapping[str, Any], card_data: CardData) -> Given:
    """What a person has said in a card; nothing, where there is no card yet.

    Taken over are the words between the two comments, and the metadata that hfcap does not derive. English is what it
    has derived for most figures: a person's word only where it derives no language from these.

    Raises:
        ValueError: a card without the two comments, whose words would be lost, or with metadata that is not YAML.
    """
    if not card.is_file():
        return Given()
    words, data = read_words(card)
    derived = card_metadata(
        Given(), {"metrics": {}, "num_images": 0, "tokenizer": metrics["tokenizer"]}, run, card_data
    )
    base_model = _list(data.base_model)
    return Given(
        words=words,
        license=data.license,
        language=None if data.language == "en" and derived.language is not None else data.language,
        datasets=tuple(_list(data.datasets)),
        base_model=() if base_model == _list(derived.base_model) else tuple(base_model),
        tags=tuple(tag for tag in data.tags or () if tag not in (*TAGS, *(derived.tags or ()))),
        more={key: value for key, value in data.to_dict().items() if key not in WRITTEN},
    )


def read_words(card: Path) -> tuple[str, ModelCardData]:
    """Return the words between the two comments of a card, and its metadata.

    Raises:
        ValueError: a card without the two comments, or with metadata that is not YAML.
    """
    text = card.read_text(encoding="utf-8")
    words = re.search(f"{re.escape(WORDS_START)}\n(.*?){re.escape(WORDS_END)}", text, re.DOTALL)
    if words is None:
        raise ValueError(
            f"{card} was not written by this version of hfcap: it has no {WORDS_START!r}. Move what is yours out of "
            "it, remove it, and write it again"
        )
    try:
        return words[1].strip("\n"), ModelCard(text).data
    except yaml.YAMLError as error:
        raise ValueError(f"{card}: its metadata is not YAML ({' '.join(str(error).split())}); fix it") from error


def copy_records(run: Path, folder: Path) -> Path:
    """Copy a run's card and the records that it can be written from again to another folder; return the card there.

    What only this machine knows (command line, paths) stays behind; see `public_record`.
    """
    for name in (runs.CARD_README, CARD_JSON):
        write_atomic(folder / name, (run / name).read_bytes())
    _copy_measured(run, folder, read_card_data(folder, recorded=True))
    return folder / runs.CARD_README


def _copy_measured(run: Path, folder: Path, card_data: CardData) -> None:
    """Copy figures, settings, and of the thumbnails those that the card shows: others may be of an earlier one."""
    write_atomic(folder / runs.METRICS_JSON, (run / runs.METRICS_JSON).read_bytes())
    write_json(folder / runs.RUN_JSON, public_record(runs.read_run(run / runs.RUN_JSON)))
    for sample in card_data.samples:
        if sample["thumbnail"] is not None:
            write_atomic(folder / sample["thumbnail"], (run / sample["thumbnail"]).read_bytes())


def write_shipped_card(run: Path, folder: Path, card_data: CardData, given: Given) -> None:
    """Write the card, the figures and `.eval_results` into a folder that goes to the Hub.

    Args:
        run: the run's folder of records.
        folder: the export.
        card_data: of the export: where it loads from, and in which form.
        given: what a person says.
    """
    metrics, record = runs.read_metrics(run / runs.METRICS_JSON), runs.read_run(run / runs.RUN_JSON)
    write_atomic(folder / runs.CARD_README, render_card(given, metrics, record, card_data))
    write_card_data(folder, card_data)
    _copy_measured(run, folder, card_data)
    results = eval_results(given, metrics, record)
    if results is not None:
        write_atomic(folder / EVAL_RESULTS, results)


def card_environment() -> Environment:
    """Make the environment of the cards' templates; its filter `plain` shows text as it is."""
    environment = Environment(
        loader=PackageLoader("hfcap"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["plain"] = plain
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    return environment


def plain(text: Any) -> str:
    """Text that Markdown shows as it is, in a paragraph and in a table cell."""
    one_line = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(one_line, quote=False))


def _list(value: Any) -> list:
    return [] if value is None else value if isinstance(value, list) else [value]


def _procedure(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    arguments = run["arguments"]
    unset = {None, False, -1, ""}  # `Trainer` writes max_steps=-1 and smoothing 0 for "not used"
    objective = _objective(arguments)
    rows = [] if objective is None else [("objective", objective)]
    for key, name in PROCEDURE.items():
        value = arguments.get(key)
        if key.startswith("lora_") and arguments.get("strategy") not in ("lora", "qlora"):
            continue
        if isinstance(value, list | dict) or (value in unset and key != "seed") or (key, value) == ("crop", 1):
            continue
        if key == "num_train_epochs" and (arguments.get("max_steps") or -1) > 0:
            continue  # max_steps wins in `Trainer`
        text = "yes" if value is True else f"{value:g}" if isinstance(value, float) else str(value)
        rows.append((name, part_name(run, key) if key in PARTS else text))
    return rows


def _objective(arguments: Mapping[str, Any]) -> str | None:
    """What training maximised, by the settings that only its recipe has; None for cross entropy on the references."""
    if "rejected" in arguments:
        kind = "references with one word exchanged" if arguments["rejected"] == "corrupted" else "those of the data"
        return f"preferences (DPO), beta {arguments['beta']:g}; rejected captions: {kind}"
    if "num_samples" in arguments:
        names = arguments.get("rewards") or ["cider_d"]
        weights = arguments.get("reward_weights") or [1] * len(names)
        return "rewards of sampled captions: " + " + ".join(
            name if weight == 1 else f"{weight:g} {name}" for name, weight in zip(names, weights, strict=True)
        )
    return None


def _hardware(machine: Mapping[str, Any]) -> str:
    cores = machine["cores"]
    return ", ".join(machine["accelerators"]) or f"{cores} CPU core{'s' if cores > 1 else ''}"


def _compute(run: Mapping[str, Any]) -> str:
    """Time of the optimizer steps, and the energy that it stands for under the assumptions it names."""
    seconds, machine = run.get("throughput", {}).get("seconds"), run["machine"]
    if not seconds:
        return "How long the training took is not recorded."
    hours = seconds / 3600
    power = [next((watts for part, watts in WATTS.items() if part in name), None) for name in machine["accelerators"]]
    time = f"{60 * hours:.1f} minutes" if hours < 2 else f"{hours:.1f} hours"
    time = f"Its optimizer steps took {time} (of a resumed run the last part)"
    if None in power:
        return f"{time}; the power of {_hardware(machine)} is not known here, so no estimate of energy."
    watts = sum(power) or WATTS_A_CORE * machine["cores"]
    assumed = "the full board power of each accelerator" if power else f"{WATTS_A_CORE} W a core"
    return f"{time}: some {watts * hours / 1000:.2g} kWh, an estimate from {assumed}."
