"""`hfcap alt review`: decisions of a person on each proposal, in the terminal or in a spreadsheet."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hfcap.applications.lint import alt_findings
from hfcap.applications.pictures import collapsed
from hfcap.applications.rows import DECIDED, PENDING, SKIPPED, check_characters, read_rows, write_rows
from hfcap.applications.signature import signed
from hfcap.applications.spreadsheets import plain_cell, safe_cell
from hfcap.atomic_files import write_atomic
from hfcap.counts import counted
from hfcap.errors import ConfigError, as_config_error, printable

KEYS = "a accept, e edit, d decorative, s skip, u undo, q quit"
COLUMNS = (
    "id",
    "file",
    "line",
    "role",
    "before",
    "after",
    "caption",
    "link",
    "suggestion",
    "notes",
    "decision",
    "alt",
)
END = "\nthat was the last one; u undoes it, Enter ends"
DECISIONS = {"accept": "accepted", "edit": "edited", "decorative": "decorative", "skip": SKIPPED}


def decided(row: dict[str, Any], status: str, alt: str | None = None) -> dict[str, Any]:
    """Return a row with a decision: what, who and when.

    Raises:
        ValueError: an alt that is empty where one is needed, or has a character that no document can store.
    """
    if status == "accepted":
        alt = row.get("suggestion")
        if alt == "" or (alt is None and row["role"] == "maybe_decorative"):
            status, alt = "decorative", None
    if status in ("accepted", "edited") and not (alt or "").strip():
        raise ValueError("there is no text to accept; write one, or mark the picture as decorative")
    check_characters(alt or "")
    text = collapsed(alt) if alt and status in ("accepted", "edited") else None
    return row | {"status": status, "alt": text} | signed()


def review(
    path: str, ask: Callable[[str], str] = input, say: Callable[[str], None] = print, status: str = PENDING
) -> None:
    """Go through the pending rows of a file; each decision is in the file before the next question is asked.

    Commands are a letter and Enter, so that any terminal, screen reader and pipe can give them; the end of the input
    is "quit".

    Args:
        path: `alts.jsonl`.
        ask: reads a line.
        say: shows a text.
        status: of the rows to go through: `PENDING`, or `SKIPPED` for those that were put off.
    """
    rows = read_rows(path)
    todo = [number for number, row in enumerate(rows) if row["status"] == status]
    done: list[tuple[int, dict[str, Any]]] = []  # what was decided, and the row before
    say(f"{path}: {len(todo)} of {counted(len(rows), 'row')} {status}. {KEYS}")
    at = 0
    while at < len(todo) or done:
        is_end = at == len(todo)
        say(END if is_end else _shown(rows[todo[at]], at + 1, len(todo)))
        try:
            answer = ask("> ").strip().lower()
            if answer == "u":
                at = _undo(path, rows, done, at, say)
                continue
            if answer == "q" or is_end:
                break
            number = todo[at]
            row = _answered(rows[number], answer, ask)
        except (EOFError, KeyboardInterrupt):
            break
        except ValueError as error:
            say(str(error))
            continue
        done.append((number, rows[number]))
        rows[number] = row
        write_rows(path, rows)
        for rule, message in alt_findings(row["alt"]) if row["alt"] else ():
            say(f"  {rule}: {message} (u undoes)")
        at += 1
    left = {name: sum(row["status"] == name for row in rows) for name in (PENDING, SKIPPED)}
    num_decided = sum(rows[number]["status"] in DECIDED for number, _ in done)
    say(f"{num_decided} decided now, {left[PENDING]} pending; `hfcap alt apply {path}` writes what is decided")
    if left[SKIPPED]:
        say(f"{left[SKIPPED]} skipped; `hfcap alt review {path} --skipped` asks about them again")


def _answered(row: dict[str, Any], answer: str, ask: Callable[[str], str]) -> dict[str, Any]:
    """Return the row with the decision of an answer. Raises ValueError where it is none."""
    if answer == "a":
        return decided(row, "accepted")
    if answer == "e":
        return decided(row, "edited", ask("alt: "))
    if answer in ("d", "s"):
        return decided(row, "decorative" if answer == "d" else SKIPPED)
    raise ValueError(f"{answer[:20]!r} is none of: {KEYS}")


def _undo(path: str, rows: list, done: list, at: int, say: Callable[[str], None]) -> int:
    if not done:
        say("nothing to undo")
        return at
    number, row = done.pop()
    rows[number] = row
    write_rows(path, rows)
    return at - 1


def _shown(row: dict[str, Any], number: int, count: int) -> str:
    context = row.get("context") or {}
    lines = [
        "",
        f"{number}/{count} {row['id']} ({row['role']})",
        *(f"  {name}: {value}" for name, value in context.items() if value),
        f"  picture: {row.get('image') or row['src'][:200]}",
        *(f"  text in it: {text['text']!r} ({text['score']:.2f})" for text in row.get("text_in_image") or ()),
        *(f"  note: {note}" for note in row.get("notes") or ()),
        f"  proposal, by a program, may be wrong: {row['suggestion']}" if row.get("suggestion") else _nothing(row),
    ]
    return "\n".join(map(printable, lines))


def _nothing(row: dict[str, Any]) -> str:
    return f"  proposal: {'decorative' if row['role'] == 'maybe_decorative' else 'none; write one'}"


def export_csv(rows: Sequence[dict[str, Any]], path: str) -> Path:
    """Write the rows for a spreadsheet; people fill in the columns `decision` and `alt`."""
    names = {status: decision for decision, status in DECISIONS.items()}
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for row in rows:
        values = row | (row.get("context") or {}) | {"decision": names.get(row["status"], "")}
        values["notes"] = "; ".join(row.get("notes") or ())
        writer.writerow([safe_cell(str("" if values.get(name) is None else values[name])) for name in COLUMNS])
    return write_atomic(path, "\ufeff" + text.getvalue())  # the mark tells Excel that it is UTF-8


def import_csv(rows: Sequence[dict[str, Any]], path: str) -> tuple[list[dict[str, Any]], int]:
    """Return the rows with the decisions of a spreadsheet, and how many have changed.

    "accept" with an `alt` of another wording than the proposal is "edit"; an empty decision changes nothing.

    Raises:
        ConfigError: no UTF-8, no column of that name, an id that `rows` have not, or a decision that is none.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"line {line} is not UTF-8", option=path, fix='save the spreadsheet as "CSV UTF-8", and import that'
        ) from None
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=text.partition("\n")[0].count))
    missing = [name for name in ("id", "decision", "alt") if name not in (reader.fieldnames or ())]
    if missing:
        raise ConfigError(
            f"no column {missing[0]}", option=path, wanted="the columns of `hfcap alt review --csv_export`"
        )
    found = {row["id"]: row for row in rows}
    changed = 0
    for line in reader:
        where = f"{path}, line {reader.line_num}"
        row_id, decision = plain_cell(line["id"] or ""), (line["decision"] or "").strip().lower()
        if not decision:
            continue
        if row_id not in found:
            raise ConfigError("no row has this id", option=f"{where}: id", got=row_id)
        if decision not in DECISIONS:
            raise ConfigError(
                option=f"{where}: decision", got=decision, wanted=f"one of {', '.join(DECISIONS)}, or nothing"
            )
        row, alt = found[row_id], collapsed(plain_cell(line["alt"] or ""))
        is_edit = decision == "edit" or (decision == "accept" and alt not in ("", row.get("suggestion")))
        with as_config_error(where):
            new = decided(row, "edited" if is_edit else DECISIONS[decision], alt)
        if (new["status"], new["alt"]) != (row["status"], row["alt"]):
            found[row_id] = new
            changed += 1
    return list(found.values()), changed
