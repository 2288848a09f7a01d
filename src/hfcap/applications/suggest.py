"""`hfcap alt suggest`: proposals for the pictures of documents that have no alt, and for photos."""

import json
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfcap.applications.documents import find_documents
from hfcap.applications.images import PHOTOS, image_bytes
from hfcap.applications.lint import alt_findings
from hfcap.applications.pictures import counted
from hfcap.applications.proposals import CAPTIONED, merged, row_of_photo, rows_of_documents
from hfcap.applications.rows import PENDING, read_rows, write_rows
from hfcap.applications.wording import worded
from hfcap.errors import ConfigError, printable


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

    Raises:
        ConfigError: a path, a model or an output file that is wrong.
    """
    output = Path(args.output)
    part = output.with_name(f"{output.name}.part")
    photos = [Path(path) for path in args.paths if Path(path).suffix.lower() in PHOTOS]
    missing = next((path for path in photos if not path.is_file()), None)
    if missing:
        raise ConfigError(f"{missing}: no such file")
    others = [path for path in args.paths if Path(path) not in photos]
    files, notes = find_documents(others) if others else ([], [])
    rows, unread, reported = rows_of_documents(files, Path(args.root) if args.root else _only_folder(others))
    rows += [row_of_photo(path) for path in photos]
    there = _rows_there(output, part)
    scanned = [path.as_posix() for path in (*files, *photos) if path.as_posix() not in unread]
    rows, num_there = merged(rows, list(there.values()), scanned)
    settings = _settings(args)
    _check_settings(there.values(), settings, output)
    if args.ocr:
        _read_texts([row for row in rows if row["file"] in set(scanned) and row["status"] == PENDING])
    waiting = [row for row in rows if _wants_caption(row, scanned)]
    if waiting:
        _caption(args, waiting, settings, part)
    write_rows(output, rows)
    part.unlink(missing_ok=True)
    for line in [*(f"unreadable: {path}: {why}" for path, why in unread.items()), *notes]:
        print(printable(line), file=sys.stderr)
    if reported:
        print(
            f"{counted(reported, 'picture')} that hfcap does not write to; `hfcap alt check` names them",
            file=sys.stderr,
        )
    print(f"{output}: {counted(len(rows), 'row')} ({num_there} known), {_summary(rows)}")


def _only_folder(paths: Sequence[str]) -> Path | None:
    return Path(paths[0]) if len(paths) == 1 and Path(paths[0]).is_dir() else None


def _rows_there(output: Path, part: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of an earlier run, and of one that was broken off."""
    there = {row["id"]: row for row in read_rows(output)} if output.exists() else {}
    if part.exists():
        whole = part.read_bytes().split(b"\n")[:-1]  # the last line may be half a line
        there |= {row["id"]: row for row in map(json.loads, whole) if there.get(row["id"], row)["status"] == PENDING}
    return there


def _settings(args: Namespace) -> dict[str, Any]:
    from hfcap.content_hashes import captioner_hashes
    from hfcap.runs import resolve_model

    source = resolve_model(args.model).path
    hashes = captioner_hashes(source)
    if hashes["weights_hash"] is None:
        raise ConfigError(f"--model {args.model} has no weights, or cannot be downloaded")
    of_model = {"source": str(source), "weights_sha256": hashes["weights_hash"], "settings": hashes["settings_hash"]}
    return of_model | {"people": args.people, "prompt": args.prompt}


def _check_settings(rows, settings: dict[str, Any], output: Path) -> None:
    for row in rows:
        if row["status"] != PENDING or not row.get("model"):
            continue
        changed = [key for key in settings if key != "source" and row["model"].get(key) != settings[key]]
        if changed:
            raise ConfigError(
                f"--output {output} holds proposals made with another {', '.join(changed)}; give another --output, or "
                "remove it once its decisions are applied"
            )


def _wants_caption(row: dict[str, Any], scanned: Sequence[str]) -> bool:
    todo = row["status"] == PENDING and row["model"] is None and row["image_sha256"] is not None
    return todo and row["role"] in CAPTIONED and row["file"] in scanned


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


def _caption(args: Namespace, rows: Sequence[dict[str, Any]], settings: dict[str, Any], part: Path) -> None:
    """Fill in the proposals of rows, each picture captioned once, and keep each as soon as it is there."""
    by_image: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_image.setdefault(row["image_sha256"], []).append(row)
    groups = list(by_image.values())
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
    from accelerate import PartialState
    from tqdm.auto import tqdm

    from hfcap.distributed import use_all_cores
    from hfcap.generation.caption import caption_stream
    from hfcap.generation.inputs import caption_prompt
    from hfcap.generation.loading import load_captioner
    from hfcap.runs import resolve_model

    use_all_cores()
    model, processor = load_captioner(resolve_model(args.model).path)
    model.to(PartialState().device)
    with tqdm(total=len(images), desc="captioning", unit="picture") as progress:

        def skip(index: int, error: Exception) -> None:
            for row in groups[index]:
                row["notes"].append(f"the picture cannot be read: {type(error).__name__}: {error}"[:300])
            progress.update()

        prompt = args.prompt or caption_prompt(processor)
        for found in caption_stream(model, processor, ImageRows(images), prompt, args.batch_size, skip):
            yield found
            progress.update()


def _summary(rows: Sequence[dict[str, Any]]) -> str:
    count = Counter(_kind(row) for row in rows)
    return ", ".join(f"{number} {kind}" for kind, number in count.items()) or "nothing to do"


def _kind(row: dict[str, Any]) -> str:
    if row["status"] != PENDING:
        return "decided"
    if row["role"] == "maybe_decorative":
        return "perhaps decorative"
    return "proposals" if row["suggestion"] else "for a person to write"
