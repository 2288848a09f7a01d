"""`hfcap alt suggest`: proposals for the pictures of documents that have no alt, and for photos."""

import json
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from hfcap.applications.documents import find_documents
from hfcap.applications.images import PHOTOS, image_bytes
from hfcap.applications.lint import alt_findings
from hfcap.applications.proposals import CAPTIONED, merged, row_of_photo, rows_of_documents
from hfcap.applications.rows import PENDING, read_rows, write_rows
from hfcap.applications.wording import worded
from hfcap.counts import counted
from hfcap.errors import ConfigError, printable
from hfcap.processes import gather, join_processes


@dataclass
class ImageRows:
    """Pictures of rows as captioners read them, each loaded when it is asked for."""

    images: Sequence[str]

    def __len__(self) -> int:
        """Count the pictures."""
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        """Load one picture; raises what Pillow raises where there is none."""
        from hfcap.data.pictures import load_picture

        return {"image": load_picture(image_bytes(self.images[index]))}


def suggest_alts(args: Namespace) -> None:
    """Write `args.output`: a row for each picture without an alt, with a proposal where a caption is one.

    Started by `torchrun` or `accelerate launch`, each process reads and captions its share of the pictures.

    Raises:
        ConfigError: a path, a model or an output file that is wrong.
    """
    output = Path(args.output)
    photos = list(dict.fromkeys(Path(path) for path in args.paths if Path(path).suffix.lower() in PHOTOS))
    missing = next((path for path in photos if not path.is_file()), None)
    if missing:
        raise ConfigError("no such file", option=str(missing))
    others = [path for path in args.paths if Path(path) not in photos]
    files, notes = find_documents(others) if others else ([], [])
    rows, unread, reported = rows_of_documents(files, Path(args.root) if args.root else _only_folder(others))
    rows += [row_of_photo(path) for path in photos]
    there = _rows_there(output)
    scanned = [path.as_posix() for path in (*files, *photos) if path.as_posix() not in unread]
    rows, num_there = merged(rows, list(there.values()), scanned)
    settings = settings_of(args)
    check_settings(there.values(), settings, output)
    rows = _filled(args, rows, scanned, settings)
    if rows is None:  # the main process writes them
        return
    write_rows(output, rows)
    for part in _parts(output):
        part.unlink()
    for line in [*(f"unreadable: {path}: {why}" for path, why in unread.items()), *notes]:
        print(printable(line), file=sys.stderr)
    if reported:
        print(
            f"{counted(reported, 'picture')} that hfcap does not write to; `hfcap alt check` names them",
            file=sys.stderr,
        )
    print(f"{output}: {counted(len(rows), 'row')} ({num_there} known), {summary(rows)}")


def _only_folder(paths: Sequence[str]) -> Path | None:
    return Path(paths[0]) if len(paths) == 1 and Path(paths[0]).is_dir() else None


def _parts(output: Path) -> list[Path]:
    """Return what the processes of a run that has not ended have written."""
    return sorted(output.parent.glob(f"{escape(output.name)}.part-*"))


def _rows_there(output: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of an earlier run, and of one that was broken off."""
    there = {row["id"]: row for row in read_rows(output)} if output.exists() else {}
    for part in _parts(output):
        whole = part.read_bytes().split(b"\n")[:-1]  # the last line may be half a line
        there |= {row["id"]: row for row in map(json.loads, whole) if there.get(row["id"], row)["status"] == PENDING}
    return there


def _filled(
    args: Namespace, rows: list[dict[str, Any]], scanned: Sequence[str], settings: dict[str, Any]
) -> list[dict[str, Any]] | None:
    """Fill in texts and proposals, each process for its share of the pictures; the main one gets all rows."""
    state, files = join_processes(), set(scanned)
    state.wait_for_everyone()  # all have read what is there before one adds to it
    by_image: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["file"] in files and row["status"] == PENDING and row["image_sha256"] is not None:
            by_image.setdefault(row["image_sha256"], []).append(row)
    mine = list(by_image.values())[state.process_index :: state.num_processes]
    if args.ocr:
        _read_texts([row for group in mine for row in group])
    waiting = [found for group in mine if (found := [row for row in group if _wants_caption(row)])]
    if waiting:
        output = Path(args.output)
        _caption(args, waiting, settings, output.with_name(f"{output.name}.part-{state.process_index}"))
    filled = {row["id"]: row for row in gather([row for group in mine for row in group])}
    return [filled.get(row["id"], row) for row in rows] if state.is_main_process else None


def settings_of(args: Namespace) -> dict[str, Any]:
    """Return what decides a proposal, as rows record it. Raises ConfigError where the model has no weights."""
    from hfcap.content_hashes import captioner_hashes
    from hfcap.runs import resolve_model

    source = resolve_model(args.model).path
    hashes = captioner_hashes(source)
    if hashes["weights_hash"] is None:
        raise ConfigError("it has no weights, or cannot be downloaded", option="--model", got=args.model)
    of_model = {"source": str(source), "weights_sha256": hashes["weights_hash"], "settings": hashes["settings_hash"]}
    return of_model | {"people": args.people, "prompt": args.prompt}


def check_settings(rows: Iterable[dict[str, Any]], settings: dict[str, Any], output: Path) -> None:
    """Raise ConfigError where a pending row was proposed with other settings."""
    for row in rows:
        if row["status"] != PENDING or not row.get("model"):
            continue
        changed = [key for key in settings if key != "source" and row["model"].get(key) != settings[key]]
        if changed:
            raise ConfigError(
                f"it holds proposals made with another {', '.join(changed)}",
                option="--output",
                got=str(output),
                fix="pass another file, or remove this one once its decisions are applied",
            )


def _wants_caption(row: dict[str, Any]) -> bool:
    return row["model"] is None and row["role"] in CAPTIONED


def _read_texts(rows: Sequence[dict[str, Any]]) -> None:
    from hfcap.applications.ocr import TextReader

    reader = TextReader()
    found: dict[str, list] = {}
    for row in rows:
        sha256 = row["image_sha256"]
        if sha256 is None or row["text_in_image"]:
            continue
        if sha256 not in found:
            found[sha256] = reader.read(row["image"])
        row["text_in_image"] = found[sha256]
        quotes = [text["text"] for text in found[sha256] if text["quoted"]]
        if row["role"] == "text" and quotes:
            row["suggestion"] = " ".join(quotes)


def _caption(args: Namespace, groups: Sequence[list[dict[str, Any]]], settings: dict[str, Any], part: Path) -> None:
    """Fill in the proposals of rows, those of one picture in a group, and keep each as soon as it is there."""
    part.parent.mkdir(parents=True, exist_ok=True)
    with open(part, "ab") as file:
        file.truncate(part.read_bytes().rfind(b"\n") + 1)
        for index, caption in _captions(args, [group[0]["image"] for group in groups], groups):
            for row in groups[index]:
                propose(row, caption, settings)
                file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            file.flush()


def propose(row: dict[str, Any], caption: str, settings: dict[str, Any]) -> None:
    """Put the proposal that a caption gives into a row."""
    quotes = [text["text"] for text in row["text_in_image"] if text["quoted"]]
    found = worded(caption, settings["people"], quotes)
    row["model"] = settings
    if found is None:
        row["notes"].append("the model said nothing that could be an alt")
        return
    row["suggestion"], row["extended"] = found.alt, found.extended
    row["lint"] = [rule for rule, _ in alt_findings(found.alt)]


def _captions(args: Namespace, images: Sequence[str], groups: list[list[dict]]) -> Iterator[tuple[int, str]]:
    from tqdm.auto import tqdm

    from hfcap.data.reading import loads_of
    from hfcap.generation.captioners import load_for_command
    from hfcap.generation.photos import why_unreadable
    from hfcap.runs import resolve_model

    captioner = load_for_command(args, resolve_model(args.model).path)
    hidden = not join_processes().is_main_process
    with tqdm(total=len(images), desc="captioning", unit="picture", disable=hidden) as progress:

        def skip(index: int, error: Exception) -> None:
            for row in groups[index]:
                row["notes"].append(f"the picture cannot be read: {why_unreadable(error)}"[:300])
            progress.update()

        for found in captioner.caption_stream(loads_of(ImageRows(images)), args.prompt or None, args.batch_size, skip):
            yield found
            progress.update()


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """Count the rows by what they wait for, in words."""
    count = Counter(_kind(row) for row in rows)
    shown = [counted(number, kind) if kind == "proposal" else f"{number} {kind}" for kind, number in count.items()]
    return ", ".join(shown) or "nothing to do"


def _kind(row: dict[str, Any]) -> str:
    if row["status"] != PENDING:
        return "decided"
    if row["role"] == "maybe_decorative":
        return "perhaps decorative"
    return "proposal" if row["suggestion"] else "for a person to write"
