"""`hfcap evaluate`: judge captions in files, without a model and without torch."""

import logging
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from hfcap import runs
from hfcap.content_hashes import captions_sha256
from hfcap.errors import ConfigError
from hfcap.metrics import compare_systems, compute_metrics, confidence_intervals, document_frequencies
from hfcap.predictions import Pairs, Row, pair, read_predictions, read_references
from hfcap.report import Example, write_report

logger = logging.getLogger(__name__)

LoadImage = Callable[[str], Image.Image | None]


def evaluate_files(args: Namespace) -> None:
    """Judge `args.predictions`, or compare the two files of `args.compare`, and write what was asked for.

    Raises:
        ConfigError: a file that cannot be read or paired, an unknown metric: one line that names it.
    """
    metrics = tuple(args.metrics.split(","))
    idf = None if args.idf is None else Path(args.idf)
    if args.images is not None and args.report is None:
        raise ConfigError(f"--images {args.images}: pictures are for the report; add --report FILE, or leave them out")
    try:
        references, load_image = _read_references(args)
        systems = [
            pair(read_predictions(path), references, args.allow_missing) for path in args.compare or [args.predictions]
        ]
        pairs = systems[-1]
        if args.save_idf is not None:
            document_frequencies(pairs.references).save(args.save_idf)
        if args.images is not None:
            load_image = _finder(args.images, pairs.image_ids)
        figures = [confidence_intervals(p.candidates, p.references, metrics, idf=idf) for p in systems]
        differences = None
        if args.compare is not None:
            _check_same_images(systems, args.compare)
            differences = compare_systems(systems[0].candidates, pairs.candidates, pairs.references, metrics, idf=idf)
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error
    if args.compare is not None:
        print("A: {}\nB: {}, whose figures follow".format(*args.compare))
    print(_table(figures[-1], differences))
    missing = f", {pairs.num_missing} without a caption left out" if pairs.num_missing else ""
    print(f"{len(pairs.candidates)} images{missing}")
    source = "references" if args.idf is None else str(args.idf)
    records = [_record(args, p, figure, source) for p, figure in zip(systems, figures, strict=True)]
    if args.output is not None:
        runs.write_metrics(args.output, **records[-1])
    if args.report is not None:
        _write_report(args, systems, records, differences, idf, load_image)


def _read_references(args: Namespace) -> tuple[list[Row], LoadImage | None]:
    """Read references from a JSON or JSONL file, or from a data source, which has the pictures as well."""
    if _is_file(args):
        return read_references(args.references, args.split), None
    from hfcap.data.pictures import load_picture, undecoded  # these two bring `datasets`, which files do not need
    from hfcap.data.sources import load_captions

    rows = undecoded(load_captions(args.references, _split(args)))
    where = f"{args.references}, split {_split(args)}"
    row_of_id = {image_id: index for index, image_id in enumerate(rows["image_id"])}
    references = [
        Row(image_id, captions, where) for image_id, captions in zip(rows["image_id"], rows["captions"], strict=True)
    ]
    return references, lambda image_id: load_picture(rows[row_of_id[image_id]]["image"])


def _is_file(args: Namespace) -> bool:
    return Path(args.references).suffix in (".json", ".jsonl")


def _split(args: Namespace) -> str | None:
    """The split of the references; None where all of a file are taken."""
    return args.split if _is_file(args) else args.split or "validation"


def _check_same_images(systems: list[Pairs], paths: list[str]) -> None:
    first, second = systems
    if first.image_ids != second.image_ids:
        raise ValueError(
            f"{paths[0]} has captions of {len(first.image_ids)} images, {paths[1]} of {len(second.image_ids)}, and "
            "they are not the same: a paired comparison needs both captions of every image"
        )


def _record(args: Namespace, pairs: Pairs, figures: dict[str, Any], idf: str) -> dict[str, Any]:
    """Arguments of `runs.write_metrics`; as a mapping also what the report shows."""
    columns = zip(pairs.image_ids, pairs.references, strict=True)
    fingerprint = runs.data_fingerprint({"image_id": image_id, "captions": texts} for image_id, texts in columns)
    return {
        "data": {"name": runs.data_name(args.references), "split": _split(args), **fingerprint},
        "weights_hash": None,
        "captions_hash": captions_sha256(zip(pairs.image_ids, pairs.candidates, strict=True)),
        "metrics": figures,
        "num_images": len(pairs.candidates),
        "tokenizer": "ptb",
        "idf": idf,
        "decoding": {},
        "model_artifact": None,
        "num_missing": pairs.num_missing,
    }


def _table(figures: dict[str, Any], differences: dict[str, Any] | None) -> str:
    """Figures for people, times 100, with their intervals; for two systems the difference as well."""
    lines = []
    for key, figure in figures.items():
        low, high = (100 * bound for bound in figure["ci95"])
        line = f"{runs.METRIC_NAMES[key]:<10} {100 * figure['value']:6.2f}   95 % interval {low:6.2f} to {high:6.2f}"
        if differences is not None:
            change = differences[key]
            low, high = (100 * bound for bound in change["ci95"])
            line += f"   B - A {100 * change['difference']:+6.2f}, {low:+.2f} to {high:+.2f}"
            line += f", p = {change['p_value']:.3f}"
        lines.append(line)
    return "\n".join(lines)


def _write_report(
    args: Namespace,
    systems: list[Pairs],
    records: list[dict],
    differences: dict[str, Any] | None,
    idf: Path | None,
    load_image: LoadImage | None,
) -> None:
    scores = [compute_metrics(p.candidates, p.references, ("cider",), idf=idf)["cider_per_image"] for p in systems]
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
        args.predictions if args.compare is None else "A: {}, B: {}".format(*args.compare),
        records[-1],
        examples,
        load_image=load_image,
        before_metrics=records[0] if len(systems) == 2 else None,
        names=("A", "B"),
        differences=shown,
    )


def _finder(folder: str, image_ids: Sequence[str]) -> LoadImage:
    """Find pictures by image id: the name that `hfcap caption` gives a file, or its name with or without extension.

    One that cannot be read is left out and named.

    Raises:
        ConfigError: no such folder, or no picture in it.
    """
    from hfcap.data.pictures import load_picture, why_bad_picture  # these bring `datasets`, which figures do not need
    from hfcap.generation.photos import find_photos

    photos = find_photos([folder])
    named: dict[str, list[Path]] = {}
    for photo in photos:
        for key in {photo.path.name, photo.path.stem} - {photo.image_id}:
            named.setdefault(key, []).append(photo.path)
    files = {key: paths[0] for key, paths in named.items() if len(paths) == 1}
    files |= {photo.image_id: photo.path for photo in photos}
    unsure = [image_id for image_id in image_ids if image_id not in files and image_id in named]
    if unsure:
        logger.warning(
            "--images %s: %d image ids are the name of several pictures and have none in the report (%r: %s); "
            "write the ids with their folders",
            *(folder, len(unsure), unsure[0], " and ".join(map(str, named[unsure[0]][:2]))),
        )
    if files.keys().isdisjoint(image_ids):
        logger.warning(
            "--images %s: no picture has the name of an image id (first picture %r, first id %r), so the report has "
            "none; name them alike, or leave --images out",
            *(folder, photos[0].path.name, image_ids[0]),
        )

    def load_image(image_id: str) -> Image.Image | None:
        if image_id not in files:
            return None
        reason = why_bad_picture(files[image_id])
        if reason is None:
            return load_picture(files[image_id])
        logger.warning("%s is left out of the report: %s", files[image_id], reason)
        return None

    return load_image
