"""Scoring of caption files (`hfcap score`), without torch unless a metric needs it."""

import logging
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from hfcap import runs
from hfcap.content_hashes import captions_sha256, file_sha256
from hfcap.counts import counted
from hfcap.errors import ConfigError, as_config_error
from hfcap.image_matching import Pairs, pair
from hfcap.metrics import (
    Options,
    choose_metrics,
    compare_systems,
    compute_metrics,
    confidence_intervals,
    display_name,
    document_frequencies,
    for_people,
    metric_names,
    needs_images,
)
from hfcap.metrics.chair import read_instances
from hfcap.predictions import JSONL_SUFFIXES, Row, picture_names, read_predictions, read_references
from hfcap.report import Example, write_report

logger = logging.getLogger(__name__)

SOURCE_OPTIONS = ("image_folder", "image_column", "captions_column")
LoadImage = Callable[[str], Image.Image | None]


@dataclass(frozen=True)
class Pictures:
    """The pictures of some images, in order, opened one by one each time they are asked for.

    Attributes:
        load_image: gives the picture of an image id, or None.
        image_ids: of the images.
    """

    load_image: LoadImage
    image_ids: Sequence[str]

    def __iter__(self) -> Iterator[Image.Image]:
        """Yield each picture. Raises ConfigError where there is none."""
        for image_id in self.image_ids:
            picture = self.load_image(image_id)
            if picture is None:
                raise ConfigError(
                    "its picture is missing or cannot be read, and a metric needs it",
                    option=f"image {image_id}",
                    fix="add the picture, or remove the metrics that need images",
                )
            yield picture


def score_files(args: Namespace) -> None:
    """Judge the captions of `args.files`, or compare two such files, and write what was asked for.

    Raises:
        ConfigError: captions that cannot be read or paired, an unknown metric: one line that names it.
        OSError: a file that is not there.
    """
    metrics = metric_names(args.metrics)
    yardstick = {
        "idf": None if args.idf is None else Path(args.idf),
        "tokenizer": args.tokenizer,
        "clip_model": args.clip_model,
        "meteor": args.meteor,
        "chair_synonyms": args.chair_synonyms,
    }
    if args.images is not None and args.report is None and not needs_images(metrics):
        raise ConfigError(
            "only a report and metrics such as clip_score use images",
            option="--images",
            got=args.images,
            fix="add --report FILE or --metrics clip_score, or remove --images",
        )
    if args.idf is not None and not {"cider", "cider_d"} & set(metrics):
        raise ConfigError(
            "only CIDEr weighs words by document frequencies",
            option="--idf",
            got=args.idf,
            fix="add --metrics cider, or remove it",
        )
    paths = args.files
    if len(paths) > 2:
        raise ConfigError(option="FILES", got=paths, wanted="one file of captions, or two to compare")
    differences = None
    with as_config_error():
        choose_metrics(metrics, Options(**yardstick))  # before anything is read
        systems, load_image = _read_systems(args, paths)
        pairs = systems[-1]
        if args.save_idf is not None:
            document_frequencies(pairs.references, args.tokenizer).save(args.save_idf)
        if args.instances is not None:
            yardstick["objects"] = read_instances(args.instances, pairs.image_ids)
        shared = {"images": _pictures(metrics, load_image, pairs.image_ids), **yardstick}
        figures = [confidence_intervals(p.candidates, p.references, metrics, **shared) for p in systems]
        if len(systems) == 2:
            candidates = [p.candidates for p in systems]
            differences = compare_systems(*candidates, pairs.references, metrics, **shared)
    _print_figures(paths, systems, figures[-1], differences)
    options = Options(**yardstick)
    records = [_record(args, metrics, options, p, figure) for p, figure in zip(systems, figures, strict=True)]
    if args.output is not None:
        runs.write_metrics(args.output, **records[-1])
    if args.report is not None:
        _write_report(args, systems, records, differences, yardstick, load_image)


def _read_systems(args: Namespace, paths: list[str]) -> tuple[list[Pairs], LoadImage | None]:
    """Pair the captions of each file with the references; with where the pictures are, if that is known."""
    references, load_image = _read_references(args)
    predictions = [read_predictions(path) for path in paths]
    for path, rows in zip(paths, predictions, strict=True):
        _check_not_references(path, rows, args.references)
    systems = [pair(rows, references, args.allow_missing) for rows in predictions]
    if len(systems) == 2:
        _check_same_images(systems, paths)
    if args.images is not None:
        load_image = _finder(args.images, systems[-1].image_ids, {row.image_id: row.names for row in references})
    return systems, load_image


def _print_figures(
    paths: list[str], systems: list[Pairs], figures: dict[str, Any], differences: dict[str, Any] | None
) -> None:
    if len(paths) == 2:
        print("A: {}\nB: {}, whose figures follow".format(*paths))
    print(_table(figures, differences))
    num_missing = systems[-1].num_missing
    missing = f", {num_missing} without a caption left out" if num_missing else ""
    print(f"{counted(len(systems[-1].candidates), 'image')}{missing}")
    for path, p in zip(paths, systems, strict=True):
        empty = [image_id for image_id, text in zip(p.image_ids, p.candidates, strict=True) if not text.strip()]
        if empty:
            total = len(p.candidates)
            print(f"{path}: {len(empty)} of {total} captions are empty and count as wrong (first: {empty[0]})")


def _read_references(args: Namespace) -> tuple[list[Row], LoadImage | None]:
    """Read references from a JSON or JSONL file, or from a data source, which has the pictures as well."""
    of_source = {name: getattr(args, name) for name in SOURCE_OPTIONS if getattr(args, name) is not None}
    if _is_file(args):
        if of_source:
            name, value = next(iter(of_source.items()))
            raise ConfigError(
                f"only for data sources, and {args.references} is a file of references",
                option=f"--{name}",
                got=value,
                fix="remove it",
            )
        return read_references(args.references, args.split), None
    from hfcap.data.picture_checks import undecoded  # these two bring `datasets`, which files do not need
    from hfcap.data.sources import load_captions

    # Figures need no pictures, so one that cannot be read is no reason to stop.
    rows = undecoded(load_captions(args.references, _split(args), on_bad_image="keep", **of_source))
    where = f"{args.references}, split {_split(args)}"
    row_of_id = {image_id: index for index, image_id in enumerate(rows["image_id"])}
    references = [
        Row(row["image_id"], row["captions"], where, names=_file_names(row["image"]))
        for row in rows.select_columns(["image_id", "captions", "image"])
    ]
    return references, lambda image_id: _picture(rows[row_of_id[image_id]]["image"], image_id)


def _file_names(image: dict[str, Any] | None) -> tuple[str, ...]:
    return picture_names((image or {}).get("path") or "")


def _picture(image: Any, name: object) -> Image.Image | None:
    """Load a picture for the report; one that cannot be read is left out and named."""
    from hfcap.data.picture_checks import why_bad_picture
    from hfcap.data.pictures import load_picture

    try:
        return load_picture(image)
    # PIL raises SyntaxError, ValueError, struct.error and others on damaged files, besides OSError.
    except Exception as error:
        reason = why_bad_picture(image) or f"{type(error).__name__}: {error}"
        logger.warning("%s is left out of the report: %s", name, reason)
        return None


def _check_not_references(path: str, predictions: list[Row], references: str) -> None:
    """Refuse a file that is predictions and references at once, unless it has both, as the captions of a run do."""
    same = Path(references).is_file() and Path(path).samefile(references)
    if same and not all("captions" in row.extra for row in predictions):
        raise ValueError(f"{path} is given as predictions and as references; pass the references of these images")


def _is_file(args: Namespace) -> bool:
    return Path(args.references).suffix.lower() in (".json", *JSONL_SUFFIXES)


def _split(args: Namespace) -> str | None:
    """The split of the references; None where all of a file are taken."""
    return args.split if _is_file(args) else args.split or "validation"


def _check_same_images(systems: list[Pairs], paths: list[str]) -> None:
    first, second = systems
    if first.image_ids != second.image_ids:
        raise ValueError(
            f"{paths[0]} has captions of {counted(len(first.image_ids), 'image')}, {paths[1]} of "
            f"{len(second.image_ids)}, and they are not the same: a paired comparison needs both captions of "
            "every image"
        )


def _pictures(metrics: Sequence[str], load_image: LoadImage | None, image_ids: Sequence[str]) -> Pictures | None:
    """Pictures for the metrics that look at them; None where none does."""
    names = needs_images(metrics)
    if not names:
        return None
    if load_image is None:
        raise ConfigError(
            f"{names[0]} needs the images, and these references have none",
            option="--images",
            fix="pass --images FOLDER, or a data source with images as --references",
        )
    return Pictures(load_image, image_ids)


def _record(
    args: Namespace, metrics: Sequence[str], options: Options, pairs: Pairs, figures: dict[str, Any]
) -> dict[str, Any]:
    """Arguments of `runs.write_metrics`; as a mapping also what the report shows."""
    rests_on = [metric.record(options) for metric in choose_metrics(metrics, options)]
    columns = zip(pairs.image_ids, pairs.references, strict=True)
    fingerprint = runs.data_fingerprint({"image_id": image_id, "captions": texts} for image_id, texts in columns)
    return {
        "data": {"name": runs.data_name(args.references), "split": _split(args), **fingerprint},
        "weights_hash": None,
        "captions_hash": captions_sha256(zip(pairs.image_ids, pairs.candidates, strict=True)),
        "metrics": figures,
        "num_images": len(pairs.candidates),
        "tokenizer": args.tokenizer,
        "idf": "references" if args.idf is None else Path(args.idf).name,
        **({} if args.idf is None else {"idf_hash": file_sha256(args.idf)}),
        "decoding": {},
        "model_artifact": None,
        "num_missing": pairs.num_missing,
        **{key: value for record in rests_on for key, value in record.items()},
    }


def _table(figures: dict[str, Any], differences: dict[str, Any] | None) -> str:
    """Figures for people with their intervals; for two systems the difference as well."""
    lines = []
    width = max(10, *(len(display_name(key)) for key in figures))
    for key, figure in figures.items():
        value, low, high = (for_people(key, number) for number in (figure["value"], *figure["ci95"]))
        line = f"{display_name(key):<{width}} {value:6.2f}   95 % interval {low:6.2f} to {high:6.2f}"
        if differences is not None:
            change = differences[key]
            value, low, high = (for_people(key, number) for number in (change["difference"], *change["ci95"]))
            line += f"   B - A {value:+6.2f}, {low:+.2f} to {high:+.2f}"
            line += f", p = {change['p_value']:.3f}"
        lines.append(line)
    return "\n".join(lines)


def _write_report(
    args: Namespace,
    systems: list[Pairs],
    records: list[dict],
    differences: dict[str, Any] | None,
    yardstick: dict[str, Any],
    load_image: LoadImage | None,
) -> None:
    cider = [compute_metrics(p.candidates, p.references, ("cider",), **yardstick) for p in systems]
    scores = [result["cider_per_image"] for result in cider]
    last, last_scores = systems[-1], scores[-1]
    earlier = [{} for _ in last.candidates]
    if len(systems) == 2:
        earlier = [
            {"before_caption": caption, "before_score": score}
            for caption, score in zip(systems[0].candidates, scores[0], strict=True)
        ]
    rows = zip(last.image_ids, last.candidates, last.references, last_scores, earlier, strict=True)
    examples = [Example(image_id, caption, texts, score, **before) for image_id, caption, texts, score, before in rows]
    shown = None
    if differences is not None:
        shown = {
            key: {"value": d["difference"], "ci95": d["ci95"], "p_value": d["p_value"]}
            for key, d in differences.items()
        }
    write_report(
        args.report,
        args.files[0] if len(args.files) == 1 else "A: {}, B: {}".format(*args.files),
        records[-1],
        examples,
        load_image=load_image,
        before_metrics=records[0] if len(systems) == 2 else None,
        names=("A", "B"),
        differences=shown,
    )


def _finder(folder: str, image_ids: Sequence[str], file_names: Mapping[str, Sequence[str]]) -> LoadImage:
    """Find pictures by image id: the name that `hfcap caption` gives a file, or its name with or without extension.

    Args:
        folder: where the pictures are.
        image_ids: of the images that need one.
        file_names: by image id, what the references call its file.

    Raises:
        ConfigError: no such folder, or no picture in it.
    """
    from hfcap.generation.photo_files import find_photos

    photos = find_photos([folder])
    named: dict[str, list[Path]] = {}
    for photo in photos:
        for key in {photo.path.name, photo.path.stem} - {photo.image_id}:
            named.setdefault(key, []).append(photo.path)
    files = {key: paths[0] for key, paths in named.items() if len(paths) == 1}
    files |= {photo.image_id: photo.path for photo in photos}
    keys = {image_id: (image_id, *file_names.get(image_id, ())) for image_id in image_ids}
    found = {image_id: next((files[key] for key in keys[image_id] if key in files), None) for image_id in image_ids}
    unsure = [key for key in image_ids if found[key] is None and key in named]
    if unsure:
        logger.warning(
            "--images %s: %d image ids are the name of several pictures and have none in the report (%r: %s); "
            "write the ids with their folders",
            *(folder, len(unsure), unsure[0], " and ".join(map(str, named[unsure[0]][:2]))),
        )
    if not any(found.values()):
        logger.warning(
            "--images %s: no picture has the name of an image id (first picture %r, first id %r), so the report has "
            "none; use the same names, or remove --images",
            *(folder, photos[0].path.name, image_ids[0]),
        )

    def load_image(image_id: str) -> Image.Image | None:
        path = found[image_id]
        return None if path is None else _picture(path, path)

    return load_image
