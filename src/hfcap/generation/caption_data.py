"""`hfcap caption --data`: pictures of a data source to captions; over several processes, and resumed after a break."""

import logging
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from hfcap import runs
from hfcap.data.picture_checks import picture_hash
from hfcap.data.pictures import load_picture
from hfcap.data.reading import DataWait
from hfcap.data.records import NO_CAPTIONS
from hfcap.data.rows import pictures_of
from hfcap.data.shards import Shard, own_share, read_shard, too_few_shards
from hfcap.data.sources import source_shards
from hfcap.errors import ConfigError, WorkError, as_config_error, printable
from hfcap.generation.captioners import load_for_command
from hfcap.generation.photos import (
    CLI_DECODING,
    count,
    hashes_of,
    json_line,
    say_wait,
    say_what_is_odd,
    why_unreadable,
)
from hfcap.generation.resumable_captions import ResumableCaptions
from hfcap.ondevice.folder import refuse_onnx
from hfcap.processes import join_processes, main_process_decides, one_writer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourcePicture:
    """A picture of a data source.

    Attributes:
        image_id: as streams name it (see `hfcap.data.rows.stream_of`).
        image: `{"bytes", "path"}`, undecoded.
        where: file and line, or sample.
        position: shard and picture in it.
    """

    image_id: str
    image: dict
    where: str
    position: tuple[int, int]

    def load(self) -> dict:
        """Read the picture as a row for captioners; raises what Pillow raises where there is none."""
        return {"image": load_picture(self.image)}


def own_pictures(shards: Sequence[Shard], process: int, num_processes: int) -> Iterator[SourcePicture]:
    """Read the pictures of one process's shards, or of its share of fewer shards than processes."""
    mine, first, step = own_share(list(enumerate(shards)), process, num_processes)
    pictures = (
        SourcePicture(image_id, image, where, (number, place))
        for number, shard in mine
        for place, (image_id, image, where) in enumerate(pictures_of(read_shard(shard)))
    )
    return islice(pictures, first, None, step)


@dataclass(frozen=True)
class SourceWork:
    """What a command does with the pictures of a source.

    Attributes:
        what: name of a result, "a caption".
        what_empty: name of one that says nothing, "an empty caption".
        key: field of a row that has the result, "caption".
        settings: what decides the results, besides the model; JSON values.
        stream: for functions that load a row each, a function that takes the number and the error of one that cannot
            be read, and a `DataWait`: the number of each picture, and the further fields of its row. It loads the
            model, and is called only where there is a picture.
        line: shows a row on one line.
        hash_key: field of a row that has the SHA-256 of the picture.
    """

    what: str
    what_empty: str
    key: str
    settings: dict[str, Any]
    stream: Callable[..., Iterator[tuple[int, dict[str, Any]]]]
    line: Callable[[Mapping[str, Any]], str]
    hash_key: str = "sha256"


def caption_data(args: Namespace) -> None:
    """Write one caption for each picture of a source; see `write_source_rows`."""

    def stream(loads, skip, waiting) -> Iterator[tuple[int, dict[str, Any]]]:
        captioner = load_for_command(args, runs.resolve_model(args.model).path)
        decoding = {name: getattr(args, name) for name in CLI_DECODING}
        found = captioner.caption_stream(loads, args.prompt or None, args.batch_size, skip, waiting, **decoding)
        for number, text in found:
            yield number, {"caption": text}

    settings = {name: getattr(args, name) for name in ("prompt", "load_in_4bit", *CLI_DECODING)}
    work = SourceWork(
        "a caption", "an empty caption", "caption", settings, stream, lambda row: " ".join(row["caption"].split())
    )
    write_source_rows(args, work)


def write_source_rows(args: Namespace, work: SourceWork) -> None:
    """Write a row for each picture of a source: to the terminal, or to a file that a second run completes.

    Started by `torchrun` or `accelerate launch`, each process reads its own shards and works on what is in them.

    Raises:
        ConfigError: a source, a model or an output file that is wrong, or an id that two pictures share.
        WorkError: not one picture could be read, or a shard could not.
    """
    model = runs.resolve_model(args.model).path
    refuse_onnx(model)
    join_processes()
    shards = shards_for_captions(args.data, args.split)
    with nullcontext() if args.output is None else one_writer(args.output):
        _write_missing_rows(args, work, model, shards)


def _write_missing_rows(args: Namespace, work: SourceWork, model: str, shards: Sequence[Shard]) -> None:
    """Do the work of `write_source_rows` for the pictures that have no row in `args.output` yet."""
    state = PartialState()
    output, done = None, {}
    if args.output is not None:
        settings = work.settings | main_process_decides(lambda: hashes_of(model))
        output = ResumableCaptions(
            Path(args.output), {"model": model, **settings}, state.process_index, hash_key=work.hash_key
        )
        done = {image_id: row.get(work.hash_key) for image_id, row in output.rows().items()}
        state.wait_for_everyone()  # all have read what is there before one adds to it
    missing = MissingRows(work, done, hidden=output is None or not state.is_main_process)
    pictures = own_pictures(shards, state.process_index, state.num_processes)
    with as_config_error("--data"):  # a stream says what is wrong when it is read
        for row in missing.rows(pictures):
            if output is not None:
                output.append(row)
            else:
                one_line = f"{printable(row['image_id'])}\t{work.line(row)}"
                print(json_line(row) if args.json else one_line, flush=True)
    positions = sorted((place, image_id) for image_id, place in gather_object(list(missing.found.items())))
    image_ids = list(dict.fromkeys(image_id for _, image_id in positions))
    skipped, empty = gather_object(missing.skipped), gather_object(missing.empty)
    say_wait(missing.waiting)
    if state.is_main_process:
        if output is not None:
            num_captions, there = output.finish(image_ids), sum(image_id in done for image_id in image_ids)
            known = f", {there} of them before" if there else ""
            print(f"{args.output}: {num_captions} of {count(image_ids, 'picture')} have {work.what}{known}")
        say_what_is_odd(skipped, empty, work.what_empty, "picture")
    if not image_ids:
        raise ConfigError(f"no picture in the split {args.split!r}", option="--data", got=args.data)
    if len(skipped) == len(image_ids):
        raise WorkError(f"none of {count(image_ids, 'picture')} could be read", fix="see the reasons above")


def shards_for_captions(data: str, split: str) -> list[Shard]:
    """List the shards of a source whose pictures are captioned; it need not have captions.

    Raises:
        ConfigError: the source or the split does not exist.
    """
    if data == "scenes":
        raise ConfigError(
            "its images are drawn, not read",
            option="--data",
            got=data,
            fix="evaluate a captioner on it with `hfcap evaluate MODEL`, or give a folder of them: Python, "
            'hfcap.load_captions("scenes", "test", num_images=100, style="caption").save_to_disk("FOLDER")',
        )
    with as_config_error("--data"):
        shards = source_shards(data, split, captions_column=NO_CAPTIONS)
    num_processes = PartialState().num_processes
    if len(shards) < num_processes:
        logger.warning(too_few_shards(len(shards), num_processes))
    return shards


class MissingRows:
    """Rows of the pictures of this process that have none yet.

    Args:
        work: what is done with them.
        done: SHA-256 (hex) of the pictures that have a row, by id.
        hidden: show no progress bar.

    Attributes:
        found: position of each picture met, by id.
        skipped: ids of those that cannot be read.
        empty: ids of those whose result says nothing.
        waiting: how long the model waited for pictures.
    """

    def __init__(self, work: SourceWork, done: Mapping[str, str], hidden: bool):
        self.work, self.hidden = work, hidden
        self.sha256 = dict(done)
        self.found: dict[str, tuple[int, int]] = {}
        self.skipped: list[str] = []
        self.empty: list[str] = []
        self.waiting = DataWait()

    def rows(self, pictures: Iterable[SourcePicture]) -> Iterator[dict[str, Any]]:
        """Yield `{image_id, path, …, sha256}`, where `path` is empty for a picture that is no file of its own.

        The model is loaded when there is a picture for it.

        Raises:
            ConfigError: an id that another picture has.
        """
        missing = self._missing(pictures)
        first = next(missing, None)
        if first is None:
            return
        held: dict[int, SourcePicture] = {}  # those that the model waits for, or that wait for it
        with tqdm(unit="picture", disable=self.hidden) as progress:

            def loads() -> Iterator[Callable[[], dict]]:
                for number, picture in enumerate(chain([first], missing)):
                    held[number] = picture
                    yield picture.load

            def skip(number: int, error: Exception) -> None:
                picture = held.pop(number)
                self.skipped.append(picture.image_id)
                reason = printable(why_unreadable(error))
                progress.write(f"skipped {printable(picture.where)}: {reason}", file=sys.stderr)
                progress.update()

            for number, fields in self.work.stream(loads(), skip, self.waiting):
                picture = held.pop(number)
                self.empty += [] if fields[self.work.key] else [picture.image_id]
                path = "" if picture.image["bytes"] is not None else picture.image["path"]
                row = {"image_id": picture.image_id, "path": path, **fields}
                yield row | {self.work.hash_key: self.sha256[picture.image_id]}
                progress.update()

    def _missing(self, pictures: Iterable[SourcePicture]) -> Iterator[SourcePicture]:
        """Yield the pictures that have no caption, each once."""
        for picture in pictures:
            sha256, other = picture_hash(picture.image), self.sha256.get(picture.image_id)
            self.found.setdefault(picture.image_id, picture.position)
            if other is None:
                self.sha256[picture.image_id] = sha256
                yield picture
            elif other != sha256:
                raise ConfigError(
                    "another picture has this id, or this one has changed since it was captioned",
                    option=f"{picture.where}: image id",
                    got=picture.image_id,
                    fix="give each picture an image_id of its own, or pass another --output",
                )
