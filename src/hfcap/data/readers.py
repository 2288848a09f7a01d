"""Readers: one pure function a file format, from files to `SourceRow`s in file order.

Readers say what stands in the files and check its types; they do not open pictures. Rows of one image need not stand
together, and a picture's path is as the file gives it: `place_pictures` finds the folder it is relative to.
"""

import ast
import csv
import io
import logging
import os
import re
import tokenize
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from hfcap.data.records import NO_CAPTIONS, SourceRow, roles_of, source_row, split_named
from hfcap.errors import shown
from hfcap.json_files import check_image_id, loads, names_of, objects_of, read_json, read_jsonl, read_text
from hfcap.predictions import coco_references, karpathy_references

DELIMITERS = ",\t;|"
ROWS_LOOKED_AT = 100  # for the folder of the pictures: some may be missing, hardly all of the first hundred
PICTURE_FOLDERS = {"images", "image", "imgs", "img", "pictures", "photos"}

_EXCEL_DELIMITER = re.compile(rf"sep=([{DELIMITERS}])[\r\n]", re.IGNORECASE)

logger = logging.getLogger(__name__)


def read_json_lines(path: Path, image_column: str | None, captions_column: str | None) -> Iterator[SourceRow]:
    """Read JSONL: an object with a picture's path and its captions per line."""
    for entry, where in read_jsonl(path):
        yield source_row(entry, where, image_column, captions_column)


def read_csv(path: Path, image_column: str | None, captions_column: str | None) -> Iterator[SourceRow]:
    """Read a table with a header: a picture's path and a caption per line, between commas, tabs, semicolons or bars.

    A cell may hold several captions, as a JSON list of strings. Excel's first line `sep=;` names the delimiter.
    """
    text = read_text(path)
    named = _EXCEL_DELIMITER.match(text)
    header_line = re.split(r"[\r\n]", text, maxsplit=1)[0]
    delimiter = named[1] if named else max(DELIMITERS, key=header_line.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        if named:
            next(lines)
        header = [name.strip() for name in next(lines, [])]
        if len(header) < 2 or len(set(header)) < len(header):
            where = f"{path}, line {lines.line_num or 1}"
            raise ValueError(f"{where}: the header is {shown(header)}; wanted two or more names, each once")
        with_captions = roles_of(tuple(header), image_column, captions_column).captions
        line = lines.line_num + 1
        for values in lines:
            where, line = f"{path}, line {line}", lines.line_num + 1
            if values and len(values) != len(header):
                raise ValueError(
                    f"{where}: {len(values)} values for {len(header)} columns ({names_of(header)}); "
                    'put a value with a delimiter in it between "quotes"'
                )
            if values:
                entry = dict(zip(header, values, strict=True))
                entry |= {name: _listed(entry[name], f"{where}: {name}") for name in with_captions}
                yield source_row(entry, where, image_column, captions_column)
    except csv.Error as error:
        raise ValueError(f"{path}, line {lines.line_num}: malformed table ({error}); fix the line") from None


def _listed(cell: str, what: str) -> str | list[str | None]:
    """Return the strings of a JSON list, or of a list as Python prints it, which is how pandas writes one.

    What is none is a caption as it stands, though it begins like one.

    Raises:
        ValueError: strings side by side, as NumPy prints them: Python reads them as one.
    """
    if not cell.lstrip().startswith("["):
        return cell
    for parse in (loads, ast.literal_eval):
        try:
            found = parse(cell.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if not isinstance(found, list) or not all(text is None or isinstance(text, str) for text in found):
            return cell
        if parse is not loads and _num_strings(cell) > len(found) - found.count(None):
            raise ValueError(
                f"{what} is {shown(cell)}, strings without commas between them, as NumPy prints an array; "
                "write a JSON list"
            )
        return found
    return cell


def _num_strings(code: str) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(code.strip()).readline)
    return sum(token.type == tokenize.STRING for token in tokens)


def read_json_captions(path: Path, image_column: str | None, captions_column: str | None) -> Iterator[SourceRow]:
    """Read a `.json` file: COCO annotations, Karpathy's splits, or a list of objects like the lines of JSONL."""
    content = read_json(path)
    if isinstance(content, dict):
        check_no_columns(f"{path} names its columns itself", image_column, captions_column)
    if isinstance(content, dict) and "annotations" in content:
        yield from read_coco(content, path)
    elif isinstance(content, dict) and "images" in content:
        yield from read_karpathy(content, path)
    elif isinstance(content, list):
        for entry, where in objects_of(content, path, ""):
            yield source_row(entry, where, image_column, captions_column)
    else:
        raise ValueError(
            f"{path}: neither COCO annotations ('annotations' at the top), nor Karpathy's JSON ('images' with "
            "'sentences'), nor a list of objects with a picture's path and captions"
        )


def read_coco(content: dict, path: Path) -> Iterator[SourceRow]:
    """Read the content of a COCO annotation file; images without a caption are left out, as COCO's tools do."""
    names: dict[str, str] = {}
    for entry, where in objects_of(content.get("images"), path, "images"):
        name = entry.get("file_name")
        if "id" not in entry or not isinstance(name, str) or not name:
            raise ValueError(f"{where}: id is {entry.get('id')!r}, file_name {name!r}; wanted both")
        names[check_image_id(entry["id"], where)] = name
    rows = coco_references(content, path, allow_empty=True)
    without = names.keys() - {row.image_id for row in rows}
    if without:
        logger.info("%s: %d of %d images have no caption and are left out", path, len(without), len(names))
    for row in rows:
        if row.image_id not in names:
            raise ValueError(f"{row.where}: image_id {row.image_id} is not among the file's images; add or remove it")
        yield SourceRow(names[row.image_id], row.captions, row.where, row.image_id)


def read_karpathy(content: dict, path: Path) -> Iterator[SourceRow]:
    """Read the content of a file in the format of Karpathy's splits; `restval` belongs to the training split.

    Source: Karpathy and Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image Descriptions", 2015.
    """
    for row in karpathy_references(content, path, None, allow_empty=True):
        name, folder = row.extra.get("filename"), row.extra.get("filepath", "")
        if not isinstance(name, str) or not name:
            raise ValueError(f"{row.where}: filename is {name!r}; wanted the name of the picture's file")
        split = row.extra.get("split")
        if not isinstance(split, str) or not split:
            raise ValueError(f"{row.where}: split is {split!r}; wanted train, restval, val or test")
        image = str(PurePosixPath(folder) / name)
        yield SourceRow(image, row.captions, row.where, row.image_id, split_named(split))


def check_no_columns(why: str, image_column: str | None, captions_column: str | None) -> None:
    """Raise ValueError for a column that a source cannot have."""
    for name, value in {"image_column": image_column, "captions_column": captions_column}.items():
        if value not in (None, NO_CAPTIONS):
            raise ValueError(f"{name} is {value!r}, but {why}; remove it")


def place_pictures(rows: Iterable[SourceRow], file: Path, image_folder: str | None) -> Iterator[SourceRow]:
    """Make the pictures' paths whole: relative to `image_folder`, else to a folder found beside the captions' file.

    Looked at are the file's own folder, and folders in it or beside it called `images` or the like, or by a word of
    the file's name (`val2017` for `captions_val2017.json`), in any case. In a folder that is given, a picture may also
    lie without its subfolders.

    Raises:
        ValueError: none of the first pictures is there; without their subfolders, two are one file.
    """
    rows = iter(rows)
    first = list(islice(rows, ROWS_LOOKED_AT))
    folders = [Path(image_folder)] if image_folder is not None else _folders_beside(file)
    for folder in folders:
        # os.path.isfile, because Path.is_file raises on names that are too long.
        if any(os.path.isfile(_placed(row, folder, False)) for row in first):
            return (replace(row, image=_placed(row, folder, False)) for row in chain(first, rows))
    if image_folder is not None and any(os.path.isfile(_placed(row, folders[0], True)) for row in first):
        return _placed_flat(chain(first, rows), folders[0])
    if not first:
        return iter(())
    looked_in = ", ".join(map(str, folders))
    others = [other for folder in folders if (other := _in_other_case(first[0].image, folder)) is not None]
    there = f" (there is {shown(others[0])}: upper and lower case differ)" if others else ""
    raise ValueError(
        f"{first[0].where}: picture {shown(first[0].image)}, and others after it, is not in {looked_in}{there}; "
        "pass the folder of the pictures with --image_folder, or fix the paths"
    )


def _in_other_case(image: str, folder: Path) -> str | None:
    """Return the path of a file in the folder that differs from a picture's path in upper and lower case only."""
    found: list[str] = []
    for part in PurePosixPath(image).parts:
        with suppress(OSError):  # no folder, or one that may not be read
            names = [name for name in sorted(os.listdir(folder / Path(*found))) if name.lower() == part.lower()]
            found += names[:1]
    path = Path(*found)
    return str(path) if str(path).lower() == image.lower() and (folder / path).is_file() else None


def _placed_flat(rows: Iterable[SourceRow], folder: Path) -> Iterator[SourceRow]:
    written: dict[str, SourceRow] = {}
    for row in rows:
        path = _placed(row, folder, True)
        other = written.setdefault(path, row)
        if other.image != row.image and _with_slashes(other.image) != _with_slashes(row.image):
            raise ValueError(
                f"{row.where}: {shown(row.image)} and {shown(other.image)} ({other.where}) would both be {path}, "
                f"since their subfolders are not in {folder}; pass the folder that holds these with --image_folder"
            )
        yield replace(row, image=path)


def _with_slashes(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/"))


def _placed(row: SourceRow, folder: Path, flat: bool) -> str:
    """Return the picture's path in the folder, as it is written or, where that is a file, as another system has it.

    Windows writes backslashes; macOS decomposes accents, and archives carry such names to other systems; labelling
    tools write paths as in URLs (`my%20photos`); tables have blanks around values.
    """
    with_slashes = row.image.replace("\\", "/")
    spellings = [row.image, with_slashes, row.image.strip()]
    if "%" in row.image:
        spellings.append(unquote(row.image))
    if not row.image.isascii():
        spellings += [unicodedata.normalize(form, with_slashes) for form in ("NFC", "NFD")]
    names = list(dict.fromkeys(PurePosixPath(name).name if flat else name for name in spellings))
    paths = [str(folder / name) for name in names]
    return paths[0] if len(paths) == 1 else next(filter(os.path.isfile, paths), paths[0])


def _folders_beside(file: Path) -> list[Path]:
    wanted = PICTURE_FOLDERS | set(file.stem.lower().split("_"))
    found = [file.parent]
    for parent in dict.fromkeys((file.parent, file.absolute().parent.parent)):
        with suppress(PermissionError), os.scandir(parent) as entries:
            found += sorted(
                parent / entry.name for entry in entries if entry.name.lower() in wanted and entry.is_dir()
            )
    return found
