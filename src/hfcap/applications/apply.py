"""`hfcap alt apply`: decided alts into their documents, by splices, whole files or none."""

import os
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfcap.applications.archives import check_unsigned, with_members
from hfcap.applications.diff import spliced_diff
from hfcap.applications.documents import ARCHIVES, Document, read_document
from hfcap.applications.images import image_sha256
from hfcap.applications.photo_metadata import check_place, embed, photo_of, sidecar_of, write_sidecar
from hfcap.applications.pictures import Picture, collapsed
from hfcap.applications.rows import DATA, DECIDED, NO_MARK, OFFICE
from hfcap.applications.texts import DocumentError
from hfcap.content_hashes import file_sha256
from hfcap.counts import counted
from hfcap.errors import for_terminal, printable


@dataclass(frozen=True)
class Change:
    """A document with its alts written, not yet on disk: what it was, what it becomes, and how they differ.

    `num_left_out` decisions are about pictures that are gone, or have got another alt, since they were made.
    """

    document: Document
    new: Document
    diff: str
    num_alts: int
    num_left_out: int = 0


def rows_to_write(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each file about which something is decided; those about a data source stay where they are."""
    by_file: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["kind"] != DATA:
            by_file.setdefault(row["file"], []).append(row)
    return {file: of_file for file, of_file in by_file.items() if any(map(is_decided, of_file))}


def plan_change(file: str, rows: Sequence[dict[str, Any]], replace: bool = False) -> Change | None:
    """Work out what the decided rows make of a file, without touching it; None where all of them are in it already.

    A row whose picture is gone, or has got another alt, since the proposal is left out and counted.

    Args:
        file: the document.
        rows: its rows; those that nobody has decided on are not written, but may be what a picture belongs to.
        replace: also replace an alt that is there, if it is what `before` of the row says.

    Raises:
        DocumentError: the file cannot be written, or one of the rows has no place in it any more; nothing is written.
        OSError: the file cannot be read.
    """
    path = Path(file)
    check_writable(path)
    document = read_document(path)
    splices: dict[str, list[tuple[int, int, str]]] = {}
    wanted: dict[int, str] = {}
    num_of_source, num_left_out = count_sources(rows), 0
    decided = [
        (row, "" if row["status"] == "decorative" else collapsed(row["alt"])) for row in rows if is_decided(row)
    ]
    num_alike = Counter((row["part"], row["src"], alt) for row, alt in decided)
    there = _alts_there(document)
    for row, alt in decided:
        done, gone = _is_over(document, there, row, alt, num_alike[row["part"], row["src"], alt], replace)
        num_left_out += gone
        if done or gone:
            continue
        number = find_picture(document, row, num_of_source)
        picture = document.pictures[number]
        if picture.alt == alt or (not alt and picture.alt is None and not picture.slot_says_decorative):
            continue  # done already, or there is nothing that could be written
        check_row(document, row, picture, replace)
        text = document.parts[picture.part]
        written = picture.slot.written(alt, text.ascii_only)
        splices.setdefault(picture.part, []).append((picture.slot.start, picture.slot.end, written))
        wanted[number] = alt
    if not splices:
        return Change(document, document, "", 0, num_left_out) if num_left_out else None
    edited = {part: spliced(document.parts[part].text, places) for part, places in splices.items()}
    data = _whole(document, edited)
    new = read_document(path, data)
    _check_only_alts_changed(document, new, wanted)
    diff = [
        spliced_diff(path.as_posix() + (f"!{part}" if part else ""), document.parts[part].text, sorted(places))
        for part, places in splices.items()
    ]
    return Change(document, new, "".join(diff), len(wanted), num_left_out)


def is_decided(row: dict[str, Any]) -> bool:
    """Tell whether a row is to be written."""
    return row["status"] in DECIDED


def _alts_there(document: Document) -> Counter[tuple]:
    """Count the pictures of a document by part, source, kind (and "" for any) and alt."""
    return Counter(
        (picture.part, picture.src, kind, picture.alt) for picture in document.pictures for kind in ("", picture.kind)
    )


def _is_over(
    document: Document, there: Counter[tuple], row: dict[str, Any], alt: str, num_alike: int, replace: bool
) -> tuple[bool, bool]:
    """Tell whether a row is done, or its picture gone, in a file that has changed since: authors go on writing.

    It is done where as many pictures of its source have its alt as there are rows, `num_alike`, that want it there;
    the picture is gone where no other one of its source lacks an alt.
    """
    if row.get("file_sha256") in (None, document.sha256) or not row["src"]:
        return False, False
    picture = (row["part"], row["src"], row["kind"])
    has_no_mark = not alt and row["kind"] in NO_MARK and there[(*picture, None)] > 0
    if there[(*picture, alt)] >= num_alike or has_no_mark:
        return True, False
    return False, not (there[(*picture, None)] or (replace and there[(*picture, row["before"])]))


def _whole(document: Document, edited: dict[str, str]) -> bytes:
    encoded = {part: document.parts[part].encoded(text) for part, text in edited.items()}
    if document.path.suffix.lower() not in ARCHIVES:
        return encoded[""]
    check_unsigned(document.data)
    return with_members(document.data, encoded)


def spliced(text: str, splices: Sequence[tuple[int, int, str]]) -> str:
    """Return a text with characters `start` to `end` of each splice replaced.

    Raises:
        DocumentError: two splices have characters in common.
    """
    pieces, at = [], 0
    for number, (start, end, written) in enumerate(sorted(splices)):
        if start < at or (number and start == at == end):
            raise DocumentError("two rows are for one picture; skip one of them")
        pieces += [text[at:start], written]
        at = end
    return "".join([*pieces, text[at:]])


def check_writable(path: Path) -> None:
    """Check that a file may be replaced.

    Raises:
        DocumentError: it does not exist, is read-only, or is a link out of its folder.
    """
    if not path.is_file():
        raise DocumentError("no such file")
    places = [path, *path.parents][:-1] if not path.is_absolute() else [path]
    for place in places:
        if place.is_symlink() and not place.resolve().is_relative_to(place.parent.resolve()):
            raise DocumentError(f"{place} is a link out of its folder, to {place.resolve()}; name the file itself")
    # The super-user may write where no bit allows it; somebody has locked the file even so.
    if not os.access(path, os.W_OK) or not path.stat().st_mode & 0o222:
        raise DocumentError("the file is read-only; change its permissions")


def count_sources(rows: Sequence[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """Count the rows of a document by part and source."""
    return Counter((row["part"], row["src"]) for row in rows)


def find_picture(document: Document, row: dict[str, Any], num_of_source: Mapping[tuple[str, str], int]) -> int:
    """Return the number of a row's picture: at its place, or where the file has changed the one picture that fits.

    Args:
        document: the document of the row.
        row: a row of `alts.jsonl`.
        num_of_source: `count_sources` of all rows of the document.

    Raises:
        DocumentError: there is none, or there are several.
    """

    def of_kind(numbers: list[int]) -> list[int]:
        return [number for number in numbers if row["kind"] in ("", document.pictures[number].kind)]

    part, src = row["part"], row["src"]  # a row made by hand may leave them out, and its kind
    if row.get("file_sha256") in (None, document.sha256):
        at_place = of_kind(document.find(part, row["line"], row["column"]))
        found = [number for number in at_place if src in ("", document.pictures[number].src)]
        if not found:
            raise DocumentError(f"no such picture at {row['line']}:{row['column']}; run `hfcap alt suggest` again")
        return found[0]
    same = of_kind(document.find(part, src)) if src else []
    if len(same) > 1 or num_of_source[part, src] > 1:
        context = row.get("context") or {}
        same = of_kind(document.find(part, src, context.get("before"), context.get("after")))
    if len(same) != 1:
        raise DocumentError(
            f"changed since the proposal, and {row['id']} fits {counted(len(same), 'place')} in it; "
            "run `hfcap alt suggest` again"
        )
    return same[0]


def check_row(document: Document, row: dict[str, Any], picture: Picture, replace: bool) -> None:
    """Check that the alt of a row may be written.

    Raises:
        DocumentError: an alt is there, hfcap does not write alts of this kind, or the picture's file has changed.
    """
    place = document.id_of(picture)
    if picture.alt is not None and not (replace and picture.alt == row["before"]):
        fix = "its row says otherwise" if replace else "add --replace if it is what the row's `before` says"
        raise DocumentError(f"{place} has an alt already, {picture.alt[:60]!r}; it is kept ({fix})")
    if picture.slot is None:
        raise DocumentError(f"{place}: {picture.problem[1] if picture.problem else 'no place for an alt'}")
    if row["status"] == "decorative" and not picture.slot.says_decorative:
        raise DocumentError(f"{place}: the format has no mark for decorative pictures; take the alt out by hand")
    image = row.get("image")
    if image and row.get("image_sha256"):
        sha256 = image_sha256(image)
        if sha256 is None:
            raise DocumentError(f"{place}: its picture {image} is gone; run `hfcap alt suggest` again")
        if sha256 != row["image_sha256"]:
            raise DocumentError(f"{place}: {image} is another picture now; run `hfcap alt suggest` again")


def _check_only_alts_changed(old: Document, new: Document, wanted: dict[int, str]) -> None:
    """Read the edited document as the old one was read: each alt must be there, and everything else as it was."""

    def facts(document: Document) -> list[tuple]:
        return [(p.part, p.kind, p.src, p.is_named) for p in document.pictures]

    alts = [wanted.get(number, picture.alt) for number, picture in enumerate(old.pictures)]
    if facts(old) != facts(new) or alts != [picture.alt for picture in new.pictures]:
        changed = next((o for o, alt, n in zip(old.pictures, alts, new.pictures, strict=False) if alt != n.alt), None)
        where = f"{old.id_of(changed)}: " if changed else ""
        raise DocumentError(f"{where}the alt would not be read back as it was written; nothing is written")


def write_change(change: Change) -> None:
    """Replace the file in one step, with the permissions it had.

    Raises:
        DocumentError: the file has changed since it was read.
        OSError: as the file system raises it; the file is then as it was.
    """
    path = change.document.path.resolve()  # through a link within the folder, which stays a link
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(change.new.data)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, temporary)
        if path.read_bytes() != change.document.data:
            raise DocumentError("it has changed while hfcap was at work; run the command again")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def follow(rows: Sequence[dict[str, Any]], change: Change) -> None:
    """Give rows of a written document its new hash, and the places that their pictures have in it now."""
    old, new = change.document, change.new
    places = {(p.part, p.line, p.column): n for p, n in zip(old.pictures, new.pictures, strict=True)}
    for row in rows:
        now = places.get((row["part"], row["line"], row["column"]))
        if row["file"] == old.path.as_posix() and row.get("file_sha256") == old.sha256 and now:
            row |= {"file_sha256": new.sha256, "line": now.line, "column": now.column}


def apply_rows(
    rows: Sequence[dict[str, Any]], ways: Sequence[str], dry_run: bool, replace: bool, root: Path | None = None
) -> int:
    """Write decided rows into their documents and photos, and print what is done; rows follow what has moved.

    Args:
        rows: all of `alts.jsonl`.
        ways: metadata of photos that the alts go into as well ("sidecar", "embed").
        dry_run: print it and write nothing.
        replace: see `plan_change`.
        root: folder whose photos may get metadata, besides those in the folder of their document.

    Returns:
        How many documents and photos were refused; each is named on stderr, with the reason.
    """
    num_files, num_alts, num_photos, num_left_out, refused = 0, 0, 0, 0, 0
    by_file = rows_to_write(rows)
    for file, of_file in by_file.items():
        in_document = [row for row in of_file if row["kind"] != "photo"]
        try:
            change = plan_change(file, in_document, replace) if in_document else None
            if change is not None and change.num_alts and not dry_run:
                write_change(change)
                follow(rows, change)
        except (DocumentError, OSError) as error:
            _say_refused(file, error)
            refused += 1
            continue
        if change is not None:
            sys.stdout.write(for_terminal(change.diff))
            num_files, num_alts = num_files + (change.num_alts > 0), num_alts + change.num_alts
            num_left_out += change.num_left_out
    of_photos: dict[str, list[dict[str, Any]]] = {}
    for row in [row for of_file in by_file.values() for row in of_file] if ways else ():
        of_photos.setdefault(row.get("image") or "", []).append(row)
    for image, of_photo in of_photos.items():
        try:
            num_photos += _write_metadata(of_photo, rows, ways, dry_run, root)
        except (DocumentError, OSError) as error:
            _say_refused(image, error)
            refused += 1
    done = "would be written" if dry_run else "written"
    into = f"{counted(num_files, 'file')}, {num_photos} into metadata of photos"
    print(f"{counted(num_alts, 'alt')} {done} into {into}", file=sys.stderr)
    if num_left_out:
        print(
            f"{counted(num_left_out, 'decision')} about pictures that are gone or have another alt now",
            file=sys.stderr,
        )
    without = sum(row["kind"] == "photo" and is_decided(row) for row in rows) if not ways else 0
    if without:
        print(f"{counted(without, 'row')} about photos in no document; add --metadata sidecar", file=sys.stderr)
    of_office = sum(row["kind"] in OFFICE and row["status"] == "decorative" for row in rows)
    if of_office:
        what = counted(of_office, "decorative picture")
        print(f"{what} of Word or PowerPoint, whose mark hfcap does not write: set it there", file=sys.stderr)
    of_data = sum(row["kind"] == DATA and row["status"] in DECIDED for row in rows)
    if of_data:
        print(f"{counted(of_data, 'row')} about a data source: read `alt` from this file by `src`", file=sys.stderr)
    return refused


def _write_metadata(
    of_photo: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    ways: Sequence[str],
    dry_run: bool,
    root: Path | None,
) -> int:
    found = [(row, photo) for row in of_photo if (photo := photo_of(row)) is not None]
    if not found:
        return 0
    alts = list(dict.fromkeys(collapsed(row["alt"]) for row, _ in found))
    if len(alts) > 1:  # two documents may use a photo for different things
        shown = ", ".join(repr(alt[:60]) for alt in alts[:2])
        raise DocumentError(f"its metadata holds one alt, and {len(alts)} are decided: {shown}; none is written")
    (row, photo), alt, count = found[0], alts[0], 0
    check_place(photo, [row["file"] for row, _ in found], root)
    for way in ways:
        if dry_run:
            print(f"{sidecar_of(photo) if way == 'sidecar' else photo}: {printable(alt)}")
            count += 1
        else:
            count += write_sidecar(photo, alt) if way == "sidecar" else embed(photo, alt)
    sha256 = file_sha256(photo)
    for other in rows if sha256 != row.get("image_sha256") else ():
        if other.get("image") == row["image"] and other.get("image_sha256") == row.get("image_sha256"):
            other["image_sha256"] = sha256  # the same picture, with its alt in it
    return count


def _say_refused(name: str, error: Exception) -> None:
    why = error.strerror if isinstance(error, OSError) else str(error)
    print(for_terminal(f"refused {name}: {why}"), file=sys.stderr)
