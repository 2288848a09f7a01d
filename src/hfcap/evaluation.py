"""Evaluation of a captioner on a data set, and the result files in its run folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedModel

from hfcap import runs
from hfcap.content_hashes import captioner_hashes, captions_sha256
from hfcap.data.caption_dataset import CaptionDataset
from hfcap.data.picture_checks import undecoded
from hfcap.data.pictures import load_picture
from hfcap.data.scene_checking import ASPECTS, wrong_facts
from hfcap.data.scene_facts import scene_from_json
from hfcap.data.scenes import is_scenes
from hfcap.generation.settings import recorded_settings
from hfcap.generation.sharded import caption_sharded
from hfcap.metrics import (
    CLIP_MODEL,
    DEFAULT_METRICS,
    Options,
    display_name,
    for_people,
    headline,
    needs_images,
    value_keys,
)
from hfcap.metrics.bootstrap import intervals
from hfcap.metrics.compute import score
from hfcap.metrics.metric import Inputs
from hfcap.predictions import write_predictions
from hfcap.report import Example, write_report


@dataclass(frozen=True)
class Evaluation:
    """Captions of a data set and how good they are.

    Attributes:
        rows: `{image_id, caption, captions (references), …}` in the order of the data set; on the embedded `scenes`
            with `wrong_facts`, what the caption gets wrong (`scene_checking.wrong_facts`).
        metrics: `{key: {"value": float, "ci95": [low, high]}}`, raw (CIDEr 0.5, not 50).
        per_image: per-image values of the metrics that have them.
        decoding: generation settings that made the captions.
        tokenizer: what split captions into words; see `hfcap.metrics.tokenizers`.
        rests_on: what else the figures rest on, such as the CLIP model.
    """

    rows: list[dict[str, Any]]
    metrics: dict[str, dict[str, Any]]
    per_image: dict[str, list[float]]
    decoding: dict[str, Any]
    tokenizer: str = "ptb"
    rests_on: dict[str, Any] = field(default_factory=dict)

    def value(self, key: str) -> float:
        """Raw corpus value of a metric."""
        return self.metrics[key]["value"]


@dataclass(frozen=True)
class Measured:
    """What an evaluation is of, so that a card can tell whether figures, captions and weights belong together.

    Attributes:
        artifact: which weights wrote the captions: "adapter", "merged" or "model"; None if unknown.
        weights: their folder or Hub id; None if unknown.
        data: name, split and fingerprint of the data; see `describe_data`.
        prompt: instruction that the captioner was given.
        load_in_4bit: whether the language model was in NF4, which makes another model of the same weights.
    """

    artifact: str | None
    weights: str | None
    data: Mapping[str, Any]
    prompt: str | None = None
    load_in_4bit: bool = False

    @classmethod
    def in_run(cls, run: Path, artifact: str, prompt: str | None) -> "Measured":
        """What a recipe judges at its end: the weights in the run folder, on the evaluation data of `run.json`."""
        record = runs.read_run(run / runs.RUN_JSON)
        data = describe_data(record["arguments"], record["data"]["eval"])
        return cls(artifact, str(run / artifact), data, prompt)

    def record(self, image_ids: list[str], captions: list[str]) -> dict[str, Any]:
        """What `metrics.json` keeps of it: data, hashes of captioner and captions, prompt, precision, date."""
        return {
            "data": self.data,
            "weights_hash": None,
            **({} if self.weights is None else captioner_hashes(self.weights, local_files_only=True)),
            "captions_hash": captions_sha256(zip(image_ids, captions, strict=True)),
            "prompt": self.prompt,
            "load_in_4bit": self.load_in_4bit,
            "date": datetime.now(UTC).date().isoformat(),
        }


def describe_data(arguments: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Name, split and fingerprint (`runs.data_fingerprint`) of evaluation data; of `scenes` the style of its captions.

    Args:
        arguments: the fields of `SourceArguments`.
        fingerprint: of the rows.
    """
    style = {"style": arguments["scenes_style"]} if arguments["data"] == "scenes" else {}
    return {"name": runs.data_name(arguments["data"]), "split": arguments["eval_split"], **style, **fingerprint}


def evaluate_captioner(
    model: PreTrainedModel,
    processor,
    data: CaptionDataset,
    prompt: str | None = None,
    batch_size: int = 16,
    progress: str | None = "captioning",
    tokenizer: str = "ptb",
    metrics: Sequence[str] = DEFAULT_METRICS,
    clip_model: str = CLIP_MODEL,
    chair_synonyms: str | None = None,
    **generate_kwargs,
) -> Evaluation:
    """Caption every image of `data` and compare with all its references.

    With several processes each captions its share, and all get the whole evaluation; write it from one of them.

    Args:
        model: captioner of either family.
        processor: its processor.
        data: images with all their references.
        prompt: instruction for LLaVA-style models.
        batch_size: pictures decoded together.
        progress: label of the progress bar, `None` for no bar.
        tokenizer: of the metrics; see `hfcap.metrics.tokenizers`.
        metrics: names of the metrics, as for `compute_metrics`.
        clip_model: folder or Hub id of the model of CLIPScore.
        chair_synonyms: file of the words for each object of CHAIR.
        generate_kwargs: override the model's `generation_config`.
    """
    captions = caption_sharded(model, processor, data, prompt, batch_size, progress, **generate_kwargs)
    decoding = recorded_settings(model, **generate_kwargs)
    return judge(captions, data.with_images, decoding, tokenizer, metrics, clip_model, chair_synonyms)


def judge(
    captions: list[str],
    references: datasets.Dataset,
    decoding: Mapping[str, Any],
    tokenizer: str = "ptb",
    metrics: Sequence[str] = DEFAULT_METRICS,
    clip_model: str = CLIP_MODEL,
    chair_synonyms: str | None = None,
) -> Evaluation:
    """Compare captions with rows `{image_id, captions}` in the same order; metrics of images want `image` in them."""
    kept = [name for name in references.column_names if name in ("image_id", "captions", "held_out")]
    rows = [
        {**row, "caption": caption} for row, caption in zip(references.select_columns(kept), captions, strict=True)
    ]
    if is_scenes(references):
        for row, scene in zip(rows, references["scene"], strict=True):
            row["wrong_facts"] = wrong_facts(row["caption"], scene_from_json(scene), row["captions"])
    texts = [row["captions"] for row in rows]
    images = undecoded(references)["image"] if needs_images(metrics) else None
    options = Options(tokenizer=tokenizer, clip_model=clip_model, chair_synonyms=chair_synonyms)
    scored = score(Inputs(captions, texts, options, images), metrics)
    per_image = {
        key: values for scores in scored for key, values in zip(scores.keys, scores.per_image.T.tolist(), strict=True)
    }
    rests_on = {key: value for scores in scored for key, value in scores.metric.record(options).items()}
    return Evaluation(rows, intervals(scored), per_image, dict(decoding), tokenizer, rests_on)


def write_evaluation(
    folder: Path,
    evaluation: Evaluation,
    pictures: datasets.Dataset,
    title: str,
    measured: Measured,
    before: Evaluation | None = None,
    further: Mapping[str, Any] | None = None,
    details: Mapping[str, Any] | None = None,
    **columns: list[str],
) -> None:
    """Write `captions.jsonl`, `metrics.json` and `report.html` into a run folder.

    Args:
        folder: the run folder.
        evaluation: what `evaluate_captioner` gave.
        pictures: data set with an `image` column in the same order, for the report.
        title: headline of the report.
        measured: which weights wrote the captions, and of which data.
        before: the same images captioned by an earlier model, shown beside the new captions.
        further: entries of `metrics.json` beside the usual ones.
        details: facts by name, for the report.
        columns: further captions of the same images, kept in `captions.jsonl` under these names.
    """
    extra = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)] or [{}] * len(
        evaluation.rows
    )
    kept = _kept_per_image(evaluation)
    lines = [
        {**row, **{key: evaluation.per_image[key][index] for key in kept}, **more}
        for index, (row, more) in enumerate(zip(evaluation.rows, extra, strict=True))
    ]
    write_predictions(folder / runs.CAPTIONS_JSONL, lines)
    image_ids, captions = ([row[key] for row in evaluation.rows] for key in ("image_id", "caption"))
    record = runs.write_metrics(
        folder / runs.METRICS_JSON,
        evaluation.metrics,
        model_artifact=measured.artifact,
        **_sources(evaluation),
        **measured.record(image_ids, captions),
        **(further or {}),
    )
    earlier = None if before is None else {"metrics": before.metrics, "model_artifact": None, **_sources(before)}
    row_of_id = {row["image_id"]: index for index, row in enumerate(evaluation.rows)}
    pictures = undecoded(pictures)  # `datasets` fails on odd EXIF tags where `load_picture` does not
    write_report(
        folder / runs.REPORT_HTML,
        title,
        record,
        [_example(index, evaluation, before) for index in range(len(evaluation.rows))],
        load_image=lambda image_id: load_picture(pictures[row_of_id[image_id]]["image"]),
        before_metrics=earlier,
        details=details,
    )


def _kept_per_image(evaluation: Evaluation) -> list[str]:
    """Metrics whose per-image values `captions.jsonl` keeps: CIDEr, and all that are not computed by default."""
    left_out = set(value_keys(DEFAULT_METRICS)) - {"cider"}
    return [key for key in evaluation.per_image if key not in left_out]


def _sources(evaluation: Evaluation) -> dict[str, Any]:
    """What `metrics.json` says about where the figures come from."""
    return {
        "num_images": len(evaluation.rows),
        "tokenizer": evaluation.tokenizer,
        "idf": "references",
        "decoding": evaluation.decoding,
        **evaluation.rests_on,
    }


def _example(index: int, evaluation: Evaluation, before: Evaluation | None) -> Example:
    row = evaluation.rows[index]
    earlier = {}
    if before is not None:
        earlier = {"before_caption": before.rows[index]["caption"], "before_score": _cider(before, index)}
    return Example(row["image_id"], row["caption"], row["captions"], _cider(evaluation, index), **earlier)


def _cider(evaluation: Evaluation, index: int) -> float | None:
    return evaluation.per_image["cider"][index] if "cider" in evaluation.per_image else None


def results_table(results: Mapping[str, tuple[float | None, Evaluation]]) -> str:
    """Table for people: loss in nats per token, BLEU-4, CIDEr and metrics that are not computed by default.

    On the embedded `scenes` also the percentage of captions that are right in every fact, and both once more on the
    pictures marked `held_out`.

    Args:
        results: by name, the loss (`None` where there is none) and the evaluation.
    """
    columns = [_columns(loss, evaluation) for loss, evaluation in results.values()]
    titles = [title for title, _ in columns[0]]
    widths = [max(11, len(title) + 2) for title in titles]
    lines = [" " * 28 + "".join(f"{title:>{width}}" for title, width in zip(titles, widths, strict=True))]
    for name, values in zip(results, columns, strict=True):
        cells = zip(values, widths, strict=True)
        lines.append(f"{name:<28}" + "".join(f"{value:>{width}}" for (_, value), width in cells))
    if "right" in titles:
        lines.append(
            "right: % of captions true in every fact (number, size, colour, shape, place, background)\n"
            "held out: the pictures with a pair of colour and shape that training never showed"
        )
    return "\n".join(lines)


def _columns(loss: float | None, evaluation: Evaluation) -> list[tuple[str, str]]:
    columns = [("loss", "-" if loss is None else f"{loss:.3f}")]
    is_scenes = "wrong_facts" in evaluation.rows[0]
    for key in headline(evaluation.metrics):
        columns.append((display_name(key), f"{for_people(key, evaluation.value(key)):.1f}"))
        if is_scenes and key == "cider":
            values = [for_people(key, score) for score in evaluation.per_image[key]]
            columns.append(("held out", _mean_held_out(evaluation, values)))
    if is_scenes:
        right = [100.0 * (not row["wrong_facts"]) for row in evaluation.rows]
        columns += [("right", f"{sum(right) / len(right):.1f}"), ("held out", _mean_held_out(evaluation, right))]
    return columns


def _mean_held_out(evaluation: Evaluation, values: list[float]) -> str:
    picked = [value for row, value in zip(evaluation.rows, values, strict=True) if row["held_out"]]
    return f"{sum(picked) / len(picked):.1f}" if picked else "-"


def show_captions(evaluation: Evaluation, count: int = 8) -> str:
    """Captions of the first images, each beside its first reference, for people; on `scenes` with what is wrong."""
    lines = []
    for row in evaluation.rows[:count]:
        caption, reference = (" ".join(text.split()) for text in (row["caption"], row["captions"][0]))
        lines += [f"  {row['image_id']}", f"    caption    {caption}", f"    reference  {reference}"]
        if row.get("wrong_facts"):
            lines.append(f"    wrong      {', '.join(row['wrong_facts'])}")
    if "wrong_facts" in evaluation.rows[0]:
        wrong = [sum(fact in row["wrong_facts"] for row in evaluation.rows) for fact in ASPECTS]
        counts = ", ".join(f"{fact} {number}" for fact, number in zip(ASPECTS, wrong, strict=True))
        lines.append(f"Of all {len(evaluation.rows)} captions wrong in: {counts}")
    empty = [row["image_id"] for row in evaluation.rows if not row["caption"]]
    if empty:
        lines.append(f"{len(empty)} of {len(evaluation.rows)} captions are empty (first: {empty[0]})")
    return "\n".join(lines)
