"""Pictures of CSV and JSONL: a column with the picture, and a column for its alt."""

import json
import re
from collections.abc import Iterable, Iterator

from hfcap.applications.pictures import Picture, Slot, collapsed
from hfcap.applications.texts import DocumentError
from hfcap.errors import shown

ALT_NAMES = ("alt", "alttext", "imagealt", "imagealttext", "alternativetext", "altdescription", "accessibilitytext")
SRC_NAMES = (
    "image",
    "imagesrc",
    "imageurl",
    "imagepath",
    "src",
    "picture",
    "photo",
    "img",
    "file",
    "filename",
    "path",
)
CAPTION_NAMES = ("caption", "title", "name", "productname")
DELIMITERS = ",;\t|"
_FIELD = re.compile(r'"(?:[^"]|"")*"?')


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _named(names: Iterable[str], wanted: tuple[str, ...]) -> str | None:
    """Return the name that stands first in `wanted`, however it is written."""
    plain = {_plain(name): name for name in names}
    return next((plain[name] for name in wanted if name in plain), None)


def csv_pictures(text: str) -> list[Picture]:
    """Return a picture for each row of a CSV file with a header.

    An empty cell is a missing alt, since a table cannot leave a cell out.

    Raises:
        DocumentError: no column for the picture or for the alt, or a row of another length.
    """
    start = 1 if text.startswith("\ufeff") else 0
    first_line = text[start:].split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=first_line.count)
    rows = list(_csv_rows(text, start, delimiter))
    header = [_cell(text, span) for span in rows[0]] if rows else []
    src, alt = _named(header, SRC_NAMES), _named(header, ALT_NAMES)
    if rows and (src is None or alt is None):
        missing, wanted = ("the picture", SRC_NAMES) if src is None else ("the alt", ALT_NAMES)
        raise DocumentError(f"no column for {missing} in {shown(first_line.strip())}; name one of them {wanted[0]}")
    caption = _named(header, CAPTION_NAMES)
    pictures = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) == 1 and not text[slice(*row[0])].strip():
            continue
        if len(row) != len(header):
            raise DocumentError(f"row {number} has {len(row)} cells, the header {len(header)}; fix the row")
        cells = dict(zip(header, row, strict=True))
        value = _cell(text, cells[alt])
        slot = Slot(*cells[alt], form="csv" + delimiter, says_decorative=False)
        picture = Picture(row[0][0], "csv", _cell(text, cells[src]), value if value.strip() else None, slot)
        picture.context.caption = collapsed(_cell(text, cells[caption])) if caption else ""
        pictures.append(picture)
    return pictures


def _csv_rows(text: str, at: int, delimiter: str) -> Iterator[list[tuple[int, int]]]:
    """Yield where the cells of each row stand, quotes included."""
    plain = re.compile(rf"[^{re.escape(delimiter)}\r\n]*")
    while at < len(text):
        row = []
        while True:
            field = _FIELD.match(text, at) if text.startswith('"', at) else plain.match(text, at)
            end = plain.match(text, field.end()).end()  # what follows a closing quote belongs to the cell
            row.append((at, end))
            if not text.startswith(delimiter, end):
                break
            at = end + 1
        yield row
        at = end + (2 if text.startswith("\r\n", end) else 1)


def _cell(text: str, span: tuple[int, int]) -> str:
    raw = text[slice(*span)]
    return raw[1:-1].replace('""', '"') if len(raw) > 1 and raw[0] == raw[-1] == '"' else raw


def jsonl_pictures(text: str) -> list[Picture]:
    """Return a picture for each object of a JSONL file; `null` and no key are a missing alt, "" says decorative.

    Raises:
        DocumentError: a line that is no object, or has no key for the picture.
    """
    objects = []
    at = 1 if text.startswith("\ufeff") else 0
    for number, line in enumerate(text[at:].split("\n"), start=1):
        if line.strip():
            objects.append((number, at, _spans(line, number)))
        at += len(line) + 1
    keys = [key for *_, spans in objects for key in spans]
    alt_key = _named(dict.fromkeys(keys), ALT_NAMES) or "alt"
    return [_json_picture(text, number, at, spans, alt_key) for number, at, spans in objects]


def _json_picture(text: str, number: int, at: int, spans: dict, alt_key: str) -> Picture:
    src = _named((key for key, (_, _, value) in spans.items() if isinstance(value, str)), SRC_NAMES)
    if src is None:
        raise DocumentError(f"line {number}: no picture among {', '.join(map(shown, spans))}; name its key image")
    if alt_key in spans:
        start, end, alt = spans[alt_key]
        if not isinstance(alt, str | None):
            raise DocumentError(f"line {number}: {alt_key} is {shown(alt)}; wanted a string, or null")
        slot = Slot(at + start, at + end, form="json")
    else:
        alt, end = None, at + max(end for _, end, _ in spans.values())
        slot = Slot(end, end, f", {json.dumps(alt_key)}: ", form="json")
    picture = Picture(at, "jsonl", spans[src][2], alt, slot)
    caption = _named((key for key, (_, _, value) in spans.items() if isinstance(value, str)), CAPTION_NAMES)
    picture.context.caption = collapsed(spans[caption][2]) if caption else ""
    return picture


def _spans(line: str, number: int) -> dict[str, tuple[int, int, object]]:
    """Return where the values of the object on a line begin and end, and what they are, by key."""
    decoder, spans = json.JSONDecoder(), {}

    def skip(at: int) -> int:
        return re.compile(r"\s*").match(line, at).end()

    try:
        at = skip(0)
        if not line.startswith("{", at):
            raise DocumentError(f"line {number}: no JSON object; wanted one per line")
        decoder.raw_decode(line, at)  # the whole of it is checked before its parts
        at = skip(at + 1)
        while not line.startswith("}", at):
            key, at = decoder.raw_decode(line, at)
            start = skip(skip(at) + 1)
            value, end = decoder.raw_decode(line, start)
            if key in spans:
                raise DocumentError(f"line {number}: the key {shown(key)} twice; keep one of the two")
            spans[key] = (start, end, value)
            at = skip(end)
            at = skip(at + 1) if line.startswith(",", at) else at
    except (json.JSONDecodeError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise DocumentError(f"line {number}: malformed JSON ({why}); fix it") from None
    if line[at + 1 :].strip():
        raise DocumentError(f"line {number}: more behind the object; wanted one per line")
    return spans
