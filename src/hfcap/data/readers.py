"""Readers: one pure function a file format, from files to `SourceRow`s in file order.

Readers say what stands in the files and check its types; they do not open pictures. Rows of one image need not stand
together, and a picture's path is as the file gives it: `place_pictures` finds the folder it is relative to.
"""

import ast
import csv
import io
import os
import tarfile
import tokenize
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, groupby, islice
from pathlib import Path, PurePosixPath

from hfcap.data.records import (
    SourceRow,
    is_captions,
    roles_of,
    source_row,
    split_in,
    split_named,
    split_of_folders,
    texts_of,
)
from hfcap.errors import printable, shown
from hfcap.json_files import (
    check_image_id,
    decode_text,
    json_type,
    loads,
    names_of,
    objects_of,
    parse_json,
    read_json,
    read_jsonl,
    read_text,
)
from hfcap.predictions import coco_references, karpathy_references

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
CAPTION_SUFFIXES = {".txt", ".caption"}
DELIMITERS = ",\t;|"
ROWS_LOOKED_AT = 100  # for the folder of the pictures: some may be missing, hardly all of the first hundred


def read_json_lines(path: Path, image_column: str | None, captions_column: str | None) -> Iterator[SourceRow]:
    """Read JSONL: an object with a picture's path and its captions a line."""
    for entry, where in read_jsonl(path):
        yield source_row(entry, where, image_column, captions_column)


def read_csv(path: Path, image_column: str | None, captions_column: str | None) -> Iterator[SourceRow]:
    """Read a table with a header: a picture's path and a caption a line, between commas, tabs, semicolons or bars.

    A cell may hold several captions, as a JSON list of strings.
    """
    text = read_text(path)
    header_line = text.split("\n", 1)[0]
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=header_line.count), strict=True)
    try:
        header = [name.strip() for name in next(lines, [])]
        if len(header) < 2 or len(set(header)) < len(header):
            raise ValueError(f"{path}, line 1: the header is {shown(header)}; wanted two or more names, each once")
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
    for row in coco_references(content, path, allow_empty=True):
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


def read_sidecars(folder: Path) -> Iterator[SourceRow]:
    """Read pictures with a text file of the same name (`dog.jpg`, `dog.txt` or `dog.caption`), one caption a line.

    A folder's name may tell the split. A picture without a text file has no captions. Names that differ in
    case only are the same (`DOG.JPG`, `dog.txt`), unless the text file is another picture's by its very name.
    """
    seen: set[tuple[str | None, Path]] = set()  # a link may lead to a folder that is there as well
    for parent, names in walk(folder):
        pictures = [path for path in map(Path, names) if path.suffix.lower() in PICTURE_SUFFIXES]
        split = split_of_folders(parent.relative_to(folder).parts)
        texts_of_stem: dict[str, list[Path]] = defaultdict(list)
        for path in map(Path, names):
            if path.suffix.lower() in CAPTION_SUFFIXES:
                texts_of_stem[path.stem].append(parent / path)
        taken = {path.stem for path in pictures}
        in_lower_case = {stem.lower(): texts for stem, texts in texts_of_stem.items() if stem not in taken}
        for path in pictures:
            place = (split, parent.resolve() / path)
            if place in seen:
                continue
            seen.add(place)
            texts = texts_of_stem.get(path.stem) or in_lower_case.get(path.stem.lower(), [])
            if len(texts) > 1:
                raise ValueError(f"{texts[0]} and {texts[1]} both caption {path}; keep one of the two")
            captions = _lines(texts[0].read_bytes(), str(texts[0])) if texts else []
            yield SourceRow(str(parent / path), captions, printable(str(parent / path)), split=split)


def walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder, from `folder` down, with its files' names in order; hidden files and folders are left out.

    Links to folders are followed, but for those that lead back to a folder above them.
    """
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in sorted(folders) if name[0] != "." and not _leads_back(Path(parent, name))]
        yield Path(parent), [name for name in sorted(names) if name[0] != "."]


def _leads_back(folder: Path) -> bool:
    return folder.is_symlink() and folder.resolve() in {above.resolve() for above in folder.absolute().parents}


def check_no_columns(why: str, image_column: str | None, captions_column: str | None) -> None:
    """Raise ValueError for a column that a source cannot have."""
    for name, value in {"image_column": image_column, "captions_column": captions_column}.items():
        if value is not None:
            raise ValueError(f"{name} is {value!r}, but {why}; leave it out")


def read_webdataset(path: Path, captions_column: str | None = None) -> Iterator[SourceRow]:
    """Read a tar shard: members of one name up to the first dot are one sample, a picture and its captions.

    Captions stand in a `.txt` or `.caption` member, one per line, or in a `.json` member with the columns of JSONL; in
    that member where `captions_column` is given. Its split and prompt count in either case.
    Nothing is unpacked to disk. Source: the WebDataset format, https://github.com/webdataset/webdataset.
    """
    try:
        with tarfile.open(path, "r|*") as archive:
            for key, members in groupby(_members(archive, path), key=lambda member: member[0]):
                files = {name: data for _, name, data in members}
                yield _sample(files, f"{path}, sample {printable(key)}", captions_column)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a whole tar file ({error}); write it anew") from error


def _members(archive: tarfile.TarFile, path: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield key, name and content of each file in a tar."""
    for member in archive:
        archive.members = []  # tarfile remembers every header it has seen; a stream never goes back
        name = PurePosixPath(member.name)
        if member.isdir() or name.name.startswith("."):
            continue
        if name.is_absolute() or ".." in name.parts or not member.isfile():
            raise ValueError(
                f"{path}, member {member.name!r}: a link, a device or a path outside; "
                "wanted plain files with relative paths"
            )
        yield str(name.parent / name.name.split(".", 1)[0]), member.name, archive.extractfile(member).read()


def _sample(files: dict[str, bytes], where: str, captions_column: str | None) -> SourceRow:
    by_suffix: dict[str, list[str]] = {"picture": [], "text": [], ".json": []}
    for name in files:
        suffix = PurePosixPath(name).suffix.lower()
        kind = "picture" if suffix in PICTURE_SUFFIXES else "text" if suffix in CAPTION_SUFFIXES else suffix
        by_suffix.setdefault(kind, []).append(name)
    pictures, texts, records = by_suffix["picture"], by_suffix["text"], by_suffix[".json"]
    if len(pictures) != 1 or len(texts) > 1 or len(records) > 1 or not (texts or records):
        raise ValueError(
            f"{where}: {', '.join(files)}; wanted one picture and one .txt, .caption or .json, side by side in the tar"
        )
    image = {"bytes": files[pictures[0]], "path": pictures[0]}
    entry = parse_json(files[records[0]], f"{where}, {records[0]}") if records else {}
    if not isinstance(entry, dict):
        raise ValueError(f"{where}, {records[0]}: a JSON {json_type(entry)}; wanted an object")
    if texts and captions_column is None:
        entry = {name: value for name, value in entry.items() if not is_captions(name)}
        entry["captions"] = _lines(files[texts[0]], f"{where}, {texts[0]}")
    captions, prompt, roles = texts_of(entry, where, None, captions_column)
    image_id = check_image_id(entry[roles.image_id], where) if roles.image_id else None
    return SourceRow(image, captions, where, image_id, split_in(entry, roles), prompt)


def _lines(data: bytes, where: str) -> list[str]:
    return [line for line in decode_text(data, where).splitlines() if line.strip()]


def place_pictures(rows: Iterable[SourceRow], file: Path, image_folder: str | None) -> Iterator[SourceRow]:
    """Make the pictures' paths whole: relative to `image_folder`, else to a folder found beside the captions' file.

    Looked at are the file's own folder, `images` in it or beside it, and folders there of a word of the file's name
    (`val2017` for `captions_val2017.json`). In a folder that is given, a picture may also lie without its
    subfolders.

    Raises:
        ValueError: none of the first pictures is there.
    """
    rows = iter(rows)
    first = list(islice(rows, ROWS_LOOKED_AT))
    folders = [Path(image_folder)] if image_folder is not None else _folders_beside(file)
    choices = [(folder, False) for folder in folders]
    if image_folder is not None:
        choices.append((Path(image_folder), True))
    for folder, flat in choices:
        # os.path.isfile, because Path.is_file raises on names that are too long.
        if any(os.path.isfile(_placed(row, folder, flat)) for row in first):
            return (replace(row, image=_placed(row, folder, flat)) for row in chain(first, rows))
    if not first:
        return iter(())
    looked_in = ", ".join(map(str, folders))
    raise ValueError(
        f"{first[0].where}: picture {shown(first[0].image)}, and others after it, is not in {looked_in}; "
        "give the folder of the pictures with --image_folder, or fix the paths"
    )


def _placed(row: SourceRow, folder: Path, flat: bool) -> str:
    """Return the picture's path in the folder, as it is written or, where that is a file, as another system has it.

    Windows writes backslashes; macOS decomposes accents, and archives carry such names to other systems.
    """
    with_slashes = row.image.replace("\\", "/")
    spellings = [row.image, with_slashes]
    if not row.image.isascii():
        spellings += [unicodedata.normalize(form, with_slashes) for form in ("NFC", "NFD")]
    names = list(dict.fromkeys(PurePosixPath(name).name if flat else name for name in spellings))
    paths = [str(folder / name) for name in names]
    return paths[0] if len(paths) == 1 else next(filter(os.path.isfile, paths), paths[0])


def _folders_beside(file: Path) -> list[Path]:
    names = ["images", *file.stem.split("_")]
    return [file.parent, *(parent / name for parent in (file.parent, file.parent.parent) for name in names)]
