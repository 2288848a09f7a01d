"""`hfcap caption`: captions of photos and folders, on several processes, resumable."""

import json
import logging
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import UnidentifiedImageError

from hfcap import runs
from hfcap.content_hashes import captioner_hashes, file_sha256
from hfcap.data.folders import is_picture, passed_over_text, walk, why_not_read
from hfcap.errors import ConfigError, WorkError, printable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from hfcap.generation.caption import DataWait

logger = logging.getLogger(__name__)

DECODING = ("num_beams", "max_new_tokens")  # options of the command that override the model's own settings
MAX_LISTED = 5


@dataclass(frozen=True)
class Photo:
    """A picture file and the name its caption goes by."""

    image_id: str
    path: Path


def find_photos(paths: Sequence[str]) -> list[Photo]:
    """List the files named, and the pictures in folders named and below, each once and in order.

    The id of a file is its name without the extension, in a folder its path from there ("2024/beach"). Where that
    would name two files, the extension stays ("beach.jpg"), and then the path as it was given. A file whose name
    is not UTF-8, which no JSON can hold, is left out and named; hidden files in folders are left out.

    Raises:
        ConfigError: a path does not exist, or a folder holds no picture; no file has a name in UTF-8.
    """
    found: dict[Path, list[str]] = {}  # path: ids to choose from, the shortest first
    unnameable: list[str] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = _pictures_in(path)
        elif path.is_file():
            inside = [path]
        else:
            raise ConfigError("no such file or folder", option=str(path))
        for file in inside:
            if not _is_utf8(file):
                unnameable.append(repr(str(file)))
                continue
            name = file.relative_to(path) if path.is_dir() else Path(file.name)
            found.setdefault(file, [name.with_suffix("").as_posix(), name.as_posix(), file.as_posix()])
    if unnameable:
        reason = f"file names that are not UTF-8: {_first(unnameable)}"
        if not found:
            raise ConfigError(reason, fix="rename the files")
        logger.info("%s; skipped, rename the files to caption them", reason)
    ids = [choices[0] for choices in found.values()]
    for level in (1, 2):
        count = Counter(ids)
        ids = [own if count[own] == 1 else choices[level] for own, choices in zip(ids, found.values(), strict=True)]
    return [Photo(image_id, path) for image_id, path in zip(ids, found, strict=True)]


def _pictures_in(folder: Path) -> list[Path]:
    not_walked: dict[str, list[Path]] = {}
    files = sorted(parent / name for parent, names in walk(folder, not_walked) for name in names)
    inside = [file for file in files if is_picture(file) and file.is_file()]
    passed_over: dict[str, list[Path]] = {}
    for file in files:
        nowhere = "links that lead nowhere" if file.is_symlink() else "pipes and devices"
        reason = nowhere if is_picture(file) else why_not_read(file, "photos", {})
        if not file.is_file() or not is_picture(file):
            passed_over.setdefault(reason, []).append(file)
    others = "; ".join(passed_over_text(passed_over | not_walked))
    if not inside:
        raise ConfigError("no image in this folder" + (f" (not read: {others})" if others else ""), option=str(folder))
    if others:
        logger.info("%s: not read: %s", folder, others)
    return inside


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class PhotoWork:
    """What a command does with photos.

    Attributes:
        key: field of a row that has the result, "caption".
        what: name of a result, "a caption".
        what_empty: name of one that says nothing, "an empty caption".
        settings: what decides the results, besides the model; JSON values.
        stream: for model, processor, photos, their rows as captioners read them, and a function that takes the number
            and the error of one that cannot be read: the number of each photo, and the further fields of its row.
        line: shows a row on one line.
    """

    key: str
    what: str
    what_empty: str
    settings: dict[str, Any]
    stream: Callable[..., Iterator[tuple[int, dict[str, Any]]]]
    line: Callable[[Mapping[str, Any]], str]


def caption_photos(args: Namespace) -> None:
    """Write one caption for each photo; see `write_photo_rows`."""
    from hfcap.generation.caption import DataWait, loads_of

    waiting = DataWait()

    def stream(model, processor, photos, rows, skip) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, caption in captions_of(args, model, processor, loads_of(rows), skip, waiting):
            yield index, {"caption": caption}

    settings = {name: getattr(args, name) for name in ("prompt", "load_in_4bit", *DECODING)}
    work = PhotoWork(
        "caption", "a caption", "an empty caption", settings, stream, lambda row: " ".join(row["caption"].split())
    )
    write_photo_rows(args, work)
    say_wait(waiting)


def say_wait(waiting: "DataWait") -> None:
    """Say how much of its time the model waited for pictures, over all processes; all of them call it."""
    from accelerate import PartialState
    from accelerate.utils import gather_object

    waited, seconds = (sum(gather_object([value])) for value in (waiting.waited, waiting.seconds))
    if seconds and PartialState().is_main_process:
        print(f"{waited / seconds:.0%} of the time the model waited for pictures", file=sys.stderr)


def captions_of(
    args: Namespace, model, processor, loads: Iterable[Callable[[], dict]], skip, waiting: "DataWait | None" = None
) -> Iterator[tuple[int, str]]:
    """Caption rows by the options of `hfcap caption`; see `hfcap.generation.caption.caption_loaded`."""
    from hfcap.generation.caption import caption_loaded
    from hfcap.generation.inputs import caption_prompt
    from hfcap.generation.settings import change_decoding

    change_decoding(model, {name: getattr(args, name) for name in DECODING if getattr(args, name) is not None})
    prompt = args.prompt or caption_prompt(processor)
    return caption_loaded(model, processor, loads, prompt, args.batch_size, skip, waiting)


def write_photo_rows(args: Namespace, work: PhotoWork) -> None:
    """Write a row for each photo: to the terminal, or with `--output` to a file that a second run completes.

    Started by `torchrun` or `accelerate launch`, each process does its share.

    Raises:
        ConfigError: a path, a model or an output file that is wrong, or that another command is writing.
        WorkError: not one photo could be read.
    """
    photos = find_photos(args.pictures)

    from hfcap.distributed import join_processes, one_writer

    model = runs.resolve_model(args.model).path
    join_processes()
    with nullcontext() if args.output is None else one_writer(args.output):
        _write_missing_rows(args, work, photos, model)


def _write_missing_rows(args: Namespace, work: PhotoWork, photos: list[Photo], model: str) -> None:
    """Do the work of `write_photo_rows` for the photos that have no row in `args.output` yet."""
    from accelerate import PartialState
    from accelerate.utils import gather_object

    from hfcap.distributed import main_process_decides
    from hfcap.generation.resumable_captions import ResumableCaptions

    state = PartialState()
    output, missing = None, photos
    if args.output is not None:
        settings = work.settings | main_process_decides(lambda: hashes_of(model))
        keys = ("image_id", "path")
        output = ResumableCaptions(Path(args.output), {"model": model, **settings}, state.process_index, keys)
        rows = output.rows()
        photos, missing = match_captions(photos, list(rows.values()), args.output, args.keep_both)
        state.wait_for_everyone()  # all have read what is there before one adds to it
        if rows and state.is_main_process:
            print(f"{args.output}: {len(photos) - len(missing)} of {len(photos)} photos have {work.what} already")
    mine = missing[state.process_index :: state.num_processes]
    skipped: list[str] = []
    empty: list[str] = []
    hidden = output is None or not state.is_main_process
    for photo, fields in photo_results(args, model, mine, work.stream, skipped, hidden) if mine else ():
        row = {"image_id": photo.image_id, "path": str(photo.path), **fields}
        if not row[work.key]:
            empty.append(row["path"])
        if output is not None:
            output.append(row | {"sha256": file_sha256(row["path"])})
        else:
            print(json_line(row) if args.json else f"{printable(row['path'])}\t{work.line(row)}", flush=True)
    skipped, empty = gather_object(skipped), gather_object(empty)  # here all have written theirs
    if state.is_main_process:
        if output is not None:
            num_rows = output.finish([photo.image_id for photo in photos])
            print(f"{args.output}: {num_rows} of {len(photos)} photos have {work.what}")
        say_what_is_odd(skipped, empty, work.what_empty)
    if len(skipped) == len(photos):
        raise WorkError(f"none of {count(photos)} could be read", fix="see the reasons above")


def match_captions(
    photos: Sequence[Photo], rows: Sequence[Mapping[str, str]], output: str, keep_both: bool
) -> tuple[list[Photo], list[Photo]]:
    """Find the photos that a file has captions of: those whose path and content are the ones of a row.

    Args:
        photos: what is to be captioned.
        rows: `{image_id, path, sha256, ...}` of the file.
        output: name of the file, for the message.
        keep_both: give a photo whose id another picture has in the file a longer one: its path, or where that is taken
            its path and the beginning of its SHA-256.

    Returns:
        All photos with the ids that they have in the file, and those of them that have no caption yet.

    Raises:
        ConfigError: another picture has the id of a photo, and not `keep_both`.
    """
    done = {(Path(row["path"]).absolute(), row.get("sha256")): row["image_id"] for row in rows}
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
        found = f"{count(clashes)} with the image id of another picture there: {_first(clashes, '; ')}"
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
) -> Iterator[tuple[Photo, Any]]:
    """Load the model and yield what `stream` gives for each photo (see `PhotoWork`).

    Args:
        args: options of the command: `load_in_4bit`.
        source: folder or Hub id of the model.
        photos: one at least.
        stream: as in `PhotoWork`.
        skipped: gets the paths that cannot be read; why goes to stderr.
        hidden: show no progress bar; None shows one in a terminal.
    """
    from tqdm.auto import tqdm

    from hfcap.generation.caption import PictureRows

    model, processor = load_on_device(args, source)
    with tqdm(total=len(photos), desc="captioning", unit="photo", disable=hidden) as progress:

        def skip(index: int, error: Exception) -> None:
            path = photos[index].path
            skipped.append(str(path))
            progress.write(f"skipped {printable(str(path))}: {_why_unreadable(path, error)}", file=sys.stderr)
            progress.update()

        rows = PictureRows([photo.path for photo in photos])
        for index, result in stream(model, processor, photos, rows, skip):
            yield photos[index], result
            progress.update()


def load_on_device(args: Namespace, source: str) -> tuple["PreTrainedModel", "ProcessorMixin"]:
    """Load the captioner of a command onto the device of this process."""
    from accelerate import PartialState

    from hfcap.distributed import use_all_cores
    from hfcap.generation.loading import load_captioner

    use_all_cores()
    model, processor = load_captioner(source, args.load_in_4bit)
    if not args.load_in_4bit:  # which is on its device already
        model.to(PartialState().device)
    return model, processor


def json_line(row: Mapping[str, Any]) -> str:
    """Return a row as JSON for stdout."""
    # An encoding that lacks a character would write an escape that JSON does not know.
    return json.dumps(row, ensure_ascii=(sys.stdout.encoding or "ascii").lower().replace("-", "") != "utf8")


def _why_unreadable(path: Path, error: Exception) -> str:
    if not isinstance(error, UnidentifiedImageError):
        return f"{type(error).__name__}: {error}"
    return "no picture, or a format that cannot be read" if path.stat().st_size else "an empty file"


def _first(texts: Sequence[str], between: str = ", ") -> str:
    more = f" and {len(texts) - MAX_LISTED} more" if len(texts) > MAX_LISTED else ""
    return between.join(map(printable, texts[:MAX_LISTED])) + more


def count(things: Sequence, noun: str = "photo") -> str:
    """Return "1 photo", "2 photos"."""
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"


def say_what_is_odd(skipped: list[str], empty: list[str], what_empty: str, noun: str = "photo") -> None:
    """Name the photos that could not be read, and those whose result says nothing, on stderr."""
    for paths, what in ((skipped, "could not be read"), (empty, f"got {what_empty}")):
        if paths:
            print(f"{count(paths, noun)} {what}: {_first(paths)}", file=sys.stderr)
