"""HTML report: metrics with intervals, distributions, images with captions and references in one file."""

import base64
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from hfcap.atomic_files import write_atomic
from hfcap.charts import Chart, histogram
from hfcap.metrics import display_name, display_order, for_people, split_captions

THUMBNAIL_PIXELS = 360  # longest side: sharp at the size it is shown, some 15 KB each


@dataclass(frozen=True)
class Example:
    """An image's caption as the report shows it.

    Attributes:
        image_id: the image's id.
        caption: what the model wrote.
        references: what people wrote.
        score: the caption's CIDEr, raw (not times 100), or None.
        before_caption: what the other model wrote, or None.
        before_score: its CIDEr.
    """

    image_id: str
    caption: str
    references: Sequence[str] = ()
    score: float | None = None
    before_caption: str | None = None
    before_score: float | None = None

    @property
    def gain(self) -> float | None:
        """CIDEr after minus before, or None where one of them is unknown."""
        return None if self.score is None or self.before_score is None else self.score - self.before_score


@dataclass(frozen=True)
class Figure:
    """One metric as people read it (`for_people`); positions are percent of the tile's scale."""

    name: str
    value: float
    low: float
    high: float
    before: float | None
    scale: float


def write_report(
    path: str | os.PathLike,
    title: str,
    metrics: Mapping[str, Any],
    examples: Sequence[Example],
    *,
    load_image: Callable[[str], Image.Image | None] | None = None,
    before_metrics: Mapping[str, Any] | None = None,
    names: tuple[str, str] = ("before", "after"),
    differences: Mapping[str, Mapping[str, Any]] | None = None,
    details: Mapping[str, Any] | None = None,
    num_shown: int = 8,
    seed: int = 0,
) -> Path:
    """Write the report atomically; the same input gives the same page. Returns the path.

    Args:
        path: the HTML file.
        title: heading of the page.
        metrics: record of `metrics.json` (`hfcap.runs.read_metrics`).
        examples: all evaluated images: the distributions rest on all, the galleries on a few.
        load_image: gives the picture of an image id, or None; called only for the images shown.
        before_metrics: the other caption set's record, where two are compared.
        names: what the other and this caption set are called.
        differences: `{key: {"value", "ci95", "p_value"}}` of the paired comparison, where there is one.
        details: further facts by name, shown with the decoding settings.
        num_shown: images in each gallery.
        seed: of the random gallery.

    Raises:
        ValueError: no examples.
    """
    if not examples:
        raise ValueError("the report has no examples; pass one or more captions")
    compared = any(example.before_caption is not None for example in examples)
    galleries = _galleries(examples, num_shown, seed)
    shown = {example.image_id for _, _, chosen in galleries for example in chosen}
    page = page_environment().get_template("report.html.jinja")
    text = page.render(
        title=title,
        metrics=metrics,
        figures=_figures(metrics, before_metrics),
        names=names,
        compared=compared,
        differences=_differences(differences),
        facts=_facts(metrics, details),
        charts=_charts(examples, names, compared, metrics["tokenizer"]),
        galleries=galleries,
        pictures={image_id: _picture(load_image, image_id) for image_id in sorted(shown)},
        num_images=len(examples),
        num_references=_range([len(example.references) for example in examples]),
    )
    return write_atomic(path, text)


def thumbnail_uri(image: Image.Image, pixels: int = THUMBNAIL_PIXELS) -> tuple[str, int, int]:
    """Encode a picture as a small JPEG in a data URI. Returns it with width and height in pixels.

    A rotation noted by the camera is applied, transparency is laid on white, nothing is enlarged, metadata is dropped.
    """
    from hfcap.data.pictures import load_picture  # brings `datasets`, which a report without pictures does not need

    image = load_picture(image)
    image.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75, optimize=True, progressive=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(), image.width, image.height


def page_environment() -> Environment:
    """Return the environment of the page templates; text from data is escaped."""
    environment = Environment(
        loader=PackageLoader("hfcap"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["signed"] = lambda value: f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")
    return environment


def _picture(load_image: Callable[[str], Image.Image | None] | None, image_id: str) -> tuple[str, int, int] | None:
    image = load_image(image_id) if load_image is not None else None
    return None if image is None else thumbnail_uri(image)


def _figures(metrics: Mapping[str, Any], before: Mapping[str, Any] | None) -> list[tuple[str, Figure]]:
    figures = []
    for key in display_order(metrics["metrics"]):
        figure = metrics["metrics"][key]
        other = before["metrics"].get(key) if before is not None else None
        low, high = (for_people(key, bound) for bound in figure["ci95"])
        value = for_people(key, figure["value"])
        before_value = None if other is None else for_people(key, other["value"])
        scale = max(high, value, before_value or 0, 1) * 1.1  # at least a point: next to nothing is a short bar
        figures.append((key, Figure(display_name(key), value, low, high, before_value, scale)))
    return figures


def _differences(differences: Mapping[str, Mapping[str, Any]] | None) -> dict[str, dict[str, float | None]]:
    return {
        key: {
            "value": for_people(key, item["value"]),
            "low": for_people(key, item["ci95"][0]),
            "high": for_people(key, item["ci95"][1]),
            "p_value": item.get("p_value"),
        }
        for key, item in (differences or {}).items()
    }


def _facts(metrics: Mapping[str, Any], details: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    names = {"adapter": "base with adapter", "merged": "merged model"}
    artifact = names.get(metrics["model_artifact"], metrics["model_artifact"])
    facts = {
        "captions by": f"{artifact}, in 4 bits" if metrics.get("load_in_4bit") else artifact,
        **metrics["decoding"],
        "tokenizer of the metrics": metrics["tokenizer"],
        "document frequencies": metrics["idf"],
        "CLIP model": metrics.get("clip_model"),
        "objects of CHAIR from": metrics.get("chair_against"),
        "METEOR aligned by": metrics.get("meteor_aligner"),
        "images left out (no caption)": metrics.get("num_missing"),
        **(details or {}),
    }
    return [(name.replace("_", " "), str(value)) for name, value in facts.items() if value is not None]


def _length(caption: str, tokenizer: str) -> int:
    return len((caption if tokenizer == "ptb" else split_captions([caption], tokenizer)[0]).split())


def _charts(
    examples: Sequence[Example], names: tuple[str, str], compared: bool, tokenizer: str
) -> list[tuple[str, str, Chart]]:
    """(heading, label of the x axis, chart) of per-image CIDEr and of caption lengths, as far as there is data."""
    after = names[1] if compared else "captions"
    scores = {after: [100 * example.score for example in examples if example.score is not None]}
    lengths = {after: [_length(example.caption, tokenizer) for example in examples]}
    if compared:
        both = [example for example in examples if example.before_caption is not None]
        scores[names[0]] = [100 * example.before_score for example in both if example.before_score is not None]
        lengths[names[0]] = [_length(example.before_caption, tokenizer) for example in both]
    lengths["references"] = [_length(text, tokenizer) for example in examples for text in example.references]
    charts = []
    if scores[after]:
        chart = histogram({name: values for name, values in scores.items() if values})
        charts.append(("CIDEr of each image", "CIDEr \N{MULTIPLICATION SIGN} 100", chart))
    chart = histogram({name: values for name, values in lengths.items() if values}, whole=True)
    charts.append(("Caption length", "words" if tokenizer == "ptb" else "tokens", chart))
    return charts


def _galleries(examples: Sequence[Example], num_shown: int, seed: int) -> list[tuple[str, str, list[Example]]]:
    """(heading, explanation, examples) of each gallery; an image stands in only one of best and worst."""
    galleries = []
    # Ties in the order of ids, so that the page does not depend on the order of evaluation.
    ranked = sorted(
        (example for example in examples if example.score is not None), key=lambda item: (-item.score, item.image_id)
    )
    if ranked:
        best = ranked[: min(num_shown, (len(ranked) + 1) // 2)]
        worst = ranked[len(best) :][-num_shown:][::-1]
        galleries.append(("Best", "highest CIDEr", best))
        if worst:
            galleries.append(("Worst", "lowest CIDEr", worst))
    by_gain = sorted(
        (example for example in examples if example.gain is not None), key=lambda item: (-item.gain, item.image_id)
    )
    gained = [example for example in by_gain if example.gain > 0][:num_shown]
    lost = [example for example in reversed(by_gain) if example.gain < 0][:num_shown]
    galleries.extend(
        (heading, text, chosen)
        for heading, text, chosen in (("Gained most", "rise of CIDEr", gained), ("Lost most", "fall of CIDEr", lost))
        if chosen
    )
    in_order = sorted(examples, key=lambda item: item.image_id)
    drawn = Random(seed).sample(in_order, min(num_shown, len(in_order)))
    galleries.append(("Random", f"drawn with seed {seed}", drawn))
    return galleries


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
