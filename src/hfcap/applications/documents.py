"""Documents: which files are read, their text parts, and the pictures in them."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

from hfcap.applications.archives import open_archive, read_member
from hfcap.applications.html_pictures import html_pictures
from hfcap.applications.markdown import markdown_pictures
from hfcap.applications.markup import mask_templates
from hfcap.applications.office import office_parts, office_pictures, targets_of
from hfcap.applications.pictures import Picture
from hfcap.applications.roles import role_of
from hfcap.applications.tables import csv_pictures, jsonl_pictures
from hfcap.applications.texts import DocumentError, Text, decode
from hfcap.errors import ConfigError, printable

HTML = (".html", ".htm")
XHTML = (".xhtml", ".xht")
MARKDOWN = (".md", ".markdown", ".mdx")
ARCHIVES = (".epub", ".docx", ".pptx")
SUFFIXES = (*HTML, *XHTML, *MARKDOWN, *ARCHIVES)
TABLES = (".csv", ".jsonl")  # read where they are named: most tables in a folder are not about pictures
LEFT_OUT = "node_modules"  # holds the documents of other people by the thousand
MAX_BYTES = 64 << 20  # of a text
MAX_ARCHIVE = 1 << 30


@dataclass
class Document:
    """A file, its text parts by name ("" where the file itself is the text), and its pictures in order."""

    path: Path
    data: bytes
    parts: dict[str, Text] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 (hex) of the file."""
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def _numbers(self) -> dict[tuple, list[int]]:
        numbers: dict[tuple, list[int]] = {}
        for number, picture in enumerate(self.pictures):
            source, context = (picture.part, picture.src), (picture.context.before, picture.context.after)
            for key in ((picture.part, picture.line, picture.column), source, (*source, *context)):
                numbers.setdefault(key, []).append(number)
        return numbers

    def find(self, *key: str | int | None) -> list[int]:
        """Return the numbers of the pictures at a place or of a source.

        Args:
            key: part, line, column; or part, src; or part, src, text before, text after.
        """
        return self._numbers.get(key, [])

    def id_of(self, picture: Picture) -> str:
        """Return `file:line:column`, and for archives `file!member:line:column`."""
        part = f"!{picture.part}" if picture.part else ""
        return f"{self.path.as_posix()}{part}:{picture.line}:{picture.column}"


def find_documents(paths: Iterable[str]) -> tuple[list[Path], list[str]]:
    """List the files named, and the documents in folders named and below, each once and in order.

    Hidden files and folders, `node_modules`, tables, links to folders, links that lead out of the folder and links to
    documents that are listed themselves are left out.

    Returns:
        The files, and one line for each kind of what was left out.

    Raises:
        ConfigError: a path does not exist, or is a file of a kind that is not read; there is no document at all.
    """
    found: dict[Path, None] = {}
    notes: list[str] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside, left_out = _documents_in(path)
            found |= dict.fromkeys(inside)
            notes += left_out
        elif not path.is_file():
            raise ConfigError("no such file or folder", option=str(path))
        elif path.suffix.lower() not in (*SUFFIXES, *TABLES):
            kinds = ", ".join((*SUFFIXES, *TABLES))
            raise ConfigError("unsupported file type", option=str(path), wanted=f"one of {kinds}")
        else:
            found[path] = None
    if not found:
        raise ConfigError(
            "no document found", option=" ".join(map(str, paths)), wanted=f"files that end in {', '.join(SUFFIXES)}"
        )
    files, links = {}, {}  # a file by where it really is; of a link to one of these, that file
    for path in sorted(found, key=Path.is_symlink):  # files before links to them
        if (first := files.setdefault(path.resolve(), path)) != path:
            links[path] = first
    notes += [
        f"{printable(str(path))}: {printable(str(links[path]))} again, left out" for path in found if path in links
    ]
    return [path for path in found if path not in links], notes


def _documents_in(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the documents in a folder and below, and one line for each kind of what was left out."""
    inside: list[Path] = []
    notes: list[str] = []
    count: Counter[str] = Counter()
    top = folder.resolve()

    def closed(error: OSError) -> None:
        notes.append(f"{printable(str(error.filename))}: {error.strerror}, left out")

    for parent, folders, names in os.walk(folder, onerror=closed):
        kept = [name for name in sorted(folders) if name[0] != "." and name != LEFT_OUT]
        count[f"hidden, or {LEFT_OUT}"] += len(folders) - len(kept)
        links = [Path(parent, name) for name in kept if Path(parent, name).is_symlink()]
        notes += [f"{printable(str(link))}: a link to a folder, left out" for link in links]
        folders[:] = kept
        for path in (Path(parent, name) for name in sorted(names)):
            if path.name[0] == ".":
                count[f"hidden, or {LEFT_OUT}"] += 1
            elif path.suffix.lower() in TABLES:
                count[f"of the kinds {' '.join(TABLES)}, read only where they are named"] += 1
            elif path.suffix.lower() not in SUFFIXES:
                count["of other kinds"] += 1
            elif not path.is_file() or not path.resolve().is_relative_to(top):
                notes.append(f"{printable(str(path))}: a link out of the folder or to nothing, left out")
            else:
                inside.append(path)
    return inside, notes + [f"{folder}: left out {number:,} {what}" for what, number in count.items() if number]


def read_document(path: Path, data: bytes | None = None) -> Document:
    """Read a document and find its pictures.

    Args:
        path: the file; its suffix says what it is.
        data: its content, where that is to be another one than the file's.

    Raises:
        DocumentError: it cannot be read.
        OSError: as the file system raises it.
    """
    data = path.read_bytes() if data is None else data
    most = MAX_ARCHIVE if path.suffix.lower() in ARCHIVES else MAX_BYTES
    if len(data) > most:
        raise DocumentError(f"{len(data):,} bytes; not read above {most:,}")
    document = Document(path, data)
    for name, text, pictures in _parts_of(path.suffix.lower(), data):
        document.parts[name] = text
        for picture in pictures:
            picture.part = name
            picture.line, picture.column = text.place(picture.start)
            picture.role = role_of(picture)
        document.pictures += pictures
    return document


def _parts_of(suffix: str, data: bytes) -> Iterator[tuple[str, Text, list[Picture]]]:
    """Yield name, text and pictures of each part of a document."""
    if suffix in ARCHIVES:
        with open_archive(data) as archive:
            yield from _archive_parts(suffix, archive)
        return
    text = decode(data)
    if suffix in MARKDOWN:
        yield "", text, markdown_pictures(text.text, is_mdx=suffix == ".mdx")
    elif suffix == ".csv":
        yield "", text, csv_pictures(text.text)
    elif suffix == ".jsonl":
        yield "", text, jsonl_pictures(text.text)
    else:
        yield "", text, html_pictures(mask_templates(text.text), text.text, is_xml=suffix in XHTML)


def _archive_parts(suffix: str, archive: ZipFile) -> Iterator[tuple[str, Text, list[Picture]]]:
    if suffix == ".epub":
        for name in archive.namelist():
            if PurePosixPath(name).suffix.lower() in (*HTML, *XHTML):
                text = decode(read_member(archive, name))
                yield name, text, html_pictures(text.text, text.text, is_xml=True)
        return
    for name in office_parts(archive):
        text = decode(read_member(archive, name))
        yield name, text, office_pictures(text.text, targets_of(archive, name), suffix[1:], name)
