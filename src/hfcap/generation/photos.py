"""`hfcap caption`: captions of photos and folders, on several processes, resumable."""

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import UnidentifiedImageError
from tqdm.auto import tqdm

from hfcap import runs
from hfcap.content_hashes import captioner_hashes, file_sha256
from hfcap.data.pictures import PictureError
from hfcap.data.reading import DataWait, PictureRows, loads_of
from hfcap.errors import ConfigError, WorkError, printable
from hfcap.generation.captioners import load_for_command
from hfcap.generation.photo_files import Photo, find_photos, first_of
from hfcap.generation.resumable_captions import ResumableCaptions
from hfcap.processes import gather, join_processes, main_process_decides, one_writer

CLI_DECODING = ("num_beams", "max_new_tokens", "length")  # options of the command that change decoding


@dataclass(frozen=True)
class PhotoWork:
    """What a command does with photos.

    Attributes:
        key: field of a row that has the result, "caption".
        what: name of a result, "a caption".
        what_empty: name of one that says nothing, "an empty caption".
        settings: what decides the results, besides the model; JSON values.
        stream: for captioner, photos, functions that load them as rows, and a function that takes the number and the
            error of one that cannot be read: the number of each photo, and the further fields of its row.
        line: shows a row on one line.
        load: for the options and the source gives the captioner, or what takes its place; by default a captioner.
        hash_key: field of a row that has the SHA-256 of the picture's file.
    """

    key: str
    what: str
    what_empty: str
    settings: dict[str, Any]
    stream: Callable[..., Iterator[tuple[int, dict[str, Any]]]]
    line: Callable[[Mapping[str, Any]], str]
    load: Callable[[Namespace, str], Any] | None = None
    hash_key: str = "sha256"


def caption_photos(args: Namespace) -> None:
    """Write one caption for each photo; see `write_photo_rows`."""
    waiting = DataWait()

    def stream(captioner, photos, loads, skip) -> Iterator[tuple[int, dict[str, Any]]]:
        decoding = {name: getattr(args, name) for name in CLI_DECODING}
        found = captioner.caption_stream(loads, args.prompt or None, args.batch_size, skip, waiting, **decoding)
        for index, caption in found:
            yield index, {"caption": caption}

    settings = {name: getattr(args, name) for name in ("prompt", "load_in_4bit", *CLI_DECODING)}
    work = PhotoWork(
        "caption", "a caption", "an empty caption", settings, stream, lambda row: " ".join(row["caption"].split())
    )
    write_photo_rows(args, work)
    say_wait(waiting)


def say_wait(waiting: DataWait) -> None:
    """Say how much of its time the model waited for pictures, over all processes; all of them call it."""
    waited, seconds = (sum(gather([value])) for value in (waiting.waited, waiting.seconds))
    if seconds and join_processes().is_main_process:
        print(f"{waited / seconds:.0%} of the time the model waited for pictures", file=sys.stderr)


def write_photo_rows(args: Namespace, work: PhotoWork) -> None:
    """Write a row for each photo: to the terminal, or with `--output` to a file that a second run completes.

    Started by `torchrun` or `accelerate launch`, each process does its share.

    Raises:
        ConfigError: a path, a model or an output file that is wrong, or that another command is writing.
        WorkError: not one photo could be read.
    """
    photos = find_photos(args.pictures)
    model = runs.resolve_model(args.model).path
    join_processes()
    with nullcontext() if args.output is None else one_writer(args.output):
        _write_missing_rows(args, work, photos, model)


def _write_missing_rows(args: Namespace, work: PhotoWork, photos: list[Photo], model: str) -> None:
    """Do the work of `write_photo_rows` for the photos that have no row in `args.output` yet."""
    state = join_processes()
    output, missing = None, photos
    if args.output is not None:
        settings = work.settings | main_process_decides(lambda: hashes_of(model))
        keys = ("image_id", "path")
        output = ResumableCaptions(
            Path(args.output), {"model": model, **settings}, state.process_index, keys, work.hash_key
        )
        rows = output.rows()
        photos, missing = match_captions(photos, list(rows.values()), args.output, args.keep_both, work.hash_key)
        state.wait_for_everyone()  # all have read what is there before one adds to it
        if rows and state.is_main_process:
            print(f"{args.output}: {len(photos) - len(missing)} of {len(photos)} photos have {work.what} already")
    mine = missing[state.process_index :: state.num_processes]
    skipped: list[str] = []
    empty: list[str] = []
    hidden = output is None or not state.is_main_process
    found = photo_results(args, model, mine, work.stream, skipped, hidden, work.load) if mine else ()
    for photo, fields in found:
        row = {"image_id": photo.image_id, "path": str(photo.path), **fields}
        if not row[work.key]:
            empty.append(row["path"])
        if output is not None:
            output.append(row | {work.hash_key: file_sha256(row["path"])})
        else:
            print(json_line(row) if args.json else f"{printable(row['path'])}\t{work.line(row)}", flush=True)
    skipped, empty = gather(skipped), gather(empty)  # here all have written theirs
    if state.is_main_process:
        if output is not None:
            num_rows = output.finish([photo.image_id for photo in photos])
            print(f"{args.output}: {num_rows} of {len(photos)} photos have {work.what}")
        say_what_is_odd(skipped, empty, work.what_empty)
    if len(skipped) == len(photos):
        raise WorkError(f"none of {count(photos)} could be read", fix="see the reasons above")


def match_captions(
    photos: Sequence[Photo],
    rows: Sequence[Mapping[str, str]],
    output: str,
    keep_both: bool,
    hash_key: str = "sha256",
) -> tuple[list[Photo], list[Photo]]:
    """Find the photos that a file has captions of: those whose path and content are the ones of a row.

    Args:
        photos: what is to be captioned.
        rows: `{image_id, path, sha256, ...}` of the file.
        output: name of the file, for the message.
        keep_both: give a photo whose id another picture has in the file a longer one: its path, or where that is taken
            its path and the beginning of its SHA-256.
        hash_key: field of a row that has the SHA-256.

    Returns:
        All photos with the ids that they have in the file, and those of them that have no caption yet.

    Raises:
        ConfigError: another picture has the id of a photo, and not `keep_both`.
    """
    done = {(Path(row["path"]).absolute(), row.get(hash_key)): row["image_id"] for row in rows}
    row_of_id = {row["image_id"]: row for row in rows}
    paths = {path for path, _ in done}
    named, missing, clashes = [], [], []
    for photo in photos:
        is_known = photo.path.absolute() in paths or photo.image_id in row_of_id
        content = _content_of(photo.path) if is_known else None  # a photo that is new is read once, for its caption
        image_id, other = done.get((photo.path.absolute(), content)), row_of_id.get(photo.image_id)
        is_done = content is not None and image_id is not None
        if is_done:
            photo = Photo(image_id, photo.path)
        elif content is not None and other is not None:
            clashes.append(_why_another(photo, other))
            names = (
                photo.path.as_posix(),
                f"{photo.path.as_posix()}@{content[:12]}",
                f"{photo.path.as_posix()}@{content}",
            )
            photo = Photo(next(name for name in names if name not in row_of_id), photo.path)
        named.append(photo)
        missing += [] if is_done else [photo]
    if clashes and not keep_both:
        found = f"{count(clashes)} with the image id of another picture there: {first_of(clashes, '; ')}"
        raise ConfigError(
            found,
            option="--output",
            got=output,
            fix="add --keep_both to caption them under longer ids, or pass another --output",
        )
    return named, missing


def _why_another(photo: Photo, row: Mapping[str, str]) -> str:
    path = printable(row["path"])
    if Path(row["path"]).absolute() == photo.path.absolute():
        return f"{path} has changed since it was captioned as {photo.image_id!r}"
    return f"{photo.image_id!r} is {path}, and {printable(str(photo.path))} now"


def _content_of(path: Path) -> str | None:
    try:
        return file_sha256(path)
    except OSError:  # said when it is to be captioned
        return None


def hashes_of(model: str) -> dict[str, str | None]:
    """The hashes of a model's weights and settings. Raises ConfigError where there are no weights."""
    hashes = captioner_hashes(model)
    if hashes["weights_hash"] is None:
        raise ConfigError(
            "its weights, whose hash is recorded with --output, are missing or cannot be downloaded",
            option="model",
            got=model,
        )
    return {"weights": hashes["weights_hash"], "settings": hashes["settings_hash"]}


def photo_results(
    args: Namespace,
    source: str,
    photos: Sequence[Photo],
    stream: Callable[..., Iterator[tuple[int, Any]]],
    skipped: list[str],
    hidden: bool | None,
    load: Callable[[Namespace, str], Any] | None = None,
) -> Iterator[tuple[Photo, Any]]:
    """Load the model and yield what `stream` gives for each photo (see `PhotoWork`).

    Args:
        args: options of the command: `load_in_4bit`.
        source: folder or Hub id of the model.
        photos: one at least.
        stream: as in `PhotoWork`.
        skipped: gets the paths that cannot be read; why goes to stderr.
        hidden: show no progress bar; None shows one in a terminal.
        load: as in `PhotoWork`.
    """
    captioner = (load or load_for_command)(args, source)
    with tqdm(total=len(photos), desc="tagging" if load else "captioning", unit="photo", disable=hidden) as progress:

        def skip(index: int, error: Exception) -> None:
            path = photos[index].path
            skipped.append(str(path))
            progress.write(f"skipped {printable(str(path))}: {why_unreadable(error)}", file=sys.stderr)
            progress.update()

        rows = PictureRows([photo.path for photo in photos])
        for index, result in stream(captioner, photos, loads_of(rows), skip):
            yield photos[index], result
            progress.update()


def json_line(row: Mapping[str, Any]) -> str:
    """Return a row as JSON for stdout."""
    # An encoding that lacks a character would write an escape that JSON does not know.
    return json.dumps(row, ensure_ascii=(sys.stdout.encoding or "ascii").lower().replace("-", "") != "utf8")


def why_unreadable(error: Exception) -> str:
    """Say in words why a picture could not be read, from the error that `load_picture` raised."""
    return (
        str(error) if isinstance(error, (UnidentifiedImageError, PictureError)) else f"{type(error).__name__}: {error}"
    )


def count(things: Sequence, noun: str = "photo") -> str:
    """Return "1 photo", "2 photos"."""
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"


def say_what_is_odd(skipped: list[str], empty: list[str], what_empty: str, noun: str = "photo") -> None:
    """Name the photos that could not be read, and those whose result says nothing, on stderr."""
    for paths, what in ((skipped, "could not be read"), (empty, f"got {what_empty}")):
        if paths:
            print(f"{count(paths, noun)} {what}: {first_of(paths)}", file=sys.stderr)
