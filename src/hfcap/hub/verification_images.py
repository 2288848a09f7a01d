"""Images that an export is verified on, with references where there are any."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hfcap import runs
from hfcap.counts import counted
from hfcap.data.picture_checks import undecoded, why_bad_picture
from hfcap.data.pictures import load_picture
from hfcap.data.scenes import load_scenes
from hfcap.errors import ConfigError
from hfcap.hub.card_data import THUMBNAILS
from hfcap.origins import data_settings
from hfcap.predictions import read_predictions
from hfcap.training.data_arguments import SourceArguments
from hfcap.training.run_rows import load_evaluation_split, load_split

NUM_COMPARED = 8  # captions that must not change at all
THUMBNAIL_SIDE = 160  # pixels
NUM_JUDGED = 100  # captions that CIDEr before and after a change of dtype rests on


def pictures_of_run(
    run: Path, given: Sequence[Path] = (), count: int = NUM_COMPARED, data: str | None = None
) -> tuple[list[dict[str, Any]], str]:
    """Rows `{image, captions}` to caption before and after an export, and where they come from.

    The pictures given (references: those of the run's `captions.jsonl` for the same image id), else the first of the
    evaluation data that `run.json` names, else embedded drawings.

    Args:
        run: folder of the run's records; it may have none.
        given: picture files.
        count: how many at most.
        data: where the run's data is, if no longer where `run.json` says.

    Raises:
        ConfigError: a picture given that cannot be read.
    """
    if given:
        references = _references(run)
        for path in given[:count]:
            if reason := why_bad_picture(path):
                raise ConfigError(reason, option="--pictures", got=str(path), fix="fix it, or remove it")
        rows = [{"image": load_picture(path), "captions": references.get(path.stem, [])} for path in given[:count]]
        return rows, f"{counted(len(rows), 'picture')} given"
    path = run / runs.RUN_JSON
    if path.is_file():
        data_args = data_arguments(runs.read_run(path), run)
        data_args = data_args if data is None else replace(data_args, data=data)
        try:
            split = load_split(data_args, data_args.eval_split, count, run)
        except (ConfigError, OSError) as error:
            print(f"The run's evaluation data is not available ({error}): embedded drawings take its place.")
        else:
            rows = [{"image": load_picture(row["image"]), "captions": row["captions"]} for row in undecoded(split)]
            return rows, f"{counted(len(rows), 'picture')} of {Path(data_args.data).name}, {data_args.eval_split}"
    drawings = load_scenes("validation", count, "caption")
    rows = [{"image": load_picture(row["image"]), "captions": []} for row in drawings]
    return rows, f"{len(rows)} embedded drawings"


def evaluation_rows(run: Path, data: str | None = None) -> Sequence[dict[str, Any]]:
    """Rows `{image, captions}` of a run's evaluation split, each picture loaded when its row is asked for.

    Args:
        run: folder of the run's records.
        data: where the run's data is, if no longer where `run.json` says.

    Raises:
        ConfigError: there is no record of a run, or its data is not available.
    """
    path = run / runs.RUN_JSON
    if not path.is_file():
        raise ConfigError(
            f"{run} has no {runs.RUN_JSON}, so no evaluation split to measure on what quantizing costs",
            option="--quantize",
            fix="export the folder of a run, or pass --quantize none",
        )
    data_args = data_arguments(runs.read_run(path), run)
    data_args = data_args if data is None else replace(data_args, data=data)
    try:
        rows = load_evaluation_split(data_args, run)
    except (ConfigError, OSError) as error:
        raise ConfigError(
            f"what quantizing costs is measured on the evaluation split, which is not available ({error})",
            option="--quantize",
            fix="pass its place as --data, or --quantize none",
        ) from error
    return _EvaluationRows(rows)


class _EvaluationRows(Sequence):
    """Rows of a split with their pictures as hfcap loads them."""

    def __init__(self, rows):
        self.rows = undecoded(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        return {"image": load_picture(row["image"]), "captions": row["captions"]}


def data_arguments(run: Mapping[str, Any], folder: Path) -> SourceArguments:
    """The data settings that the record of a run folder's `run.json` holds, for any working directory."""
    arguments = data_settings(run, folder)
    return SourceArguments(**{f.name: arguments[f.name] for f in fields(SourceArguments) if f.name in arguments})


def write_thumbnails(
    folder: Path, run: Mapping[str, Any], metrics: Mapping[str, Any], image_ids: Sequence[str]
) -> dict[str, str]:
    """Write small JPEG copies of pictures of the evaluated data; give their paths in `folder` by image id.

    Nothing is written where the data that `run.json` says how to load is not the one that `metrics.json` is of.

    Raises:
        ConfigError: the data is not available.
    """
    data, data_args = metrics.get("data"), data_arguments(run, folder)
    if data is not None:
        if data["name"] != runs.data_name(data_args.data) or data["split"] is None:
            return {}
        data_args = replace(data_args, eval_split=data["split"], max_eval_images=data["num_images"])
        data_args = replace(data_args, scenes_style=data.get("style", data_args.scenes_style))
    rows = undecoded(load_split(data_args, data_args.eval_split, data_args.max_eval_images, folder))
    if data is not None and runs.data_fingerprint(rows)["sha256"] != data["sha256"]:
        return {}
    paths = {image_id: f"{THUMBNAILS}/{number}.jpg" for number, image_id in enumerate(image_ids, start=1)}
    (folder / THUMBNAILS).mkdir(exist_ok=True)
    for row in rows:
        if row["image_id"] in paths:
            picture = load_picture(row["image"])
            picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
            picture.save(folder / paths[row["image_id"]], quality=85)
    return paths


def _references(run: Path) -> dict[str, list[str]]:
    path = run / runs.CAPTIONS_JSONL
    if not path.is_file():
        return {}
    return {row.image_id: row.extra.get("captions", []) for row in read_predictions(path)}
