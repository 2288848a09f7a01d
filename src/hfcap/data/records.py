"""One record of a source (a line, an entry, a row) to picture, captions and prompt: which columns mean what."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfcap.json_files import check_caption, check_image_id, json_type, names_of

IMAGE_COLUMNS = ("image", "images", "file_name", "filename", "image_path", "path", "image_name")
CAPTION_COLUMNS = ("captions", "caption", "text", "sentences", "raw")
SPLIT_NAMES = {
    "train": ("train", "training", "restval"),
    "validation": ("validation", "val", "valid", "dev", "eval"),
    "test": ("test", "testing"),
}
_SPLIT_OF_WORD = {word: split for split, words in SPLIT_NAMES.items() for word in words}
_NUMBERED_CAPTION = re.compile(r"captions?_?(\d+)")
_IMAGE_PLACEHOLDER = re.compile(r"\s*<image>\s*")


@dataclass(frozen=True)
class SourceRow:
    """A picture and some of its captions, as a reader found them.

    Attributes:
        image: path of the file, or `{"bytes": file, "path": name}`.
        captions: as they stand there; empty ones and None are dropped later, with a count.
        where: file and line (or entry, or row), for messages.
        image_id: where the source has one.
        split: "train", "validation", "test" or a name of the source's own; None where it does not say.
        prompt: the instruction that these captions answer, where the source has one.
        extra: the other columns.
    """

    image: str | Mapping[str, Any]
    captions: list[str | None]
    where: str
    image_id: str | None = None
    split: str | None = None
    prompt: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def source_row(
    entry: Mapping[str, Any], where: str, image_column: str | None = None, captions_column: str | None = None
) -> SourceRow:
    """Read one record with a path to a picture in it.

    Args:
        entry: the record; columns are recognised (`IMAGE_COLUMNS`, `texts_of`) or named.
        where: file and line, for messages.
        image_column: column of the picture's path.
        captions_column: column of the captions.

    Raises:
        ValueError: one message with place and fix: a column is missing, or a value is of the wrong type.
    """
    image_column = image_column or next((name for name in IMAGE_COLUMNS if name in entry), "image")
    if image_column not in entry:
        raise ValueError(
            f"{where}: no picture's path among {names_of(entry)} (looked for {', '.join(IMAGE_COLUMNS)}); "
            "add it, or name its column with --image_column"
        )
    captions, prompt, used = texts_of(entry, captions_column, where)
    known = {image_column, "image_id", "split", "prompt", *used}
    return SourceRow(
        image=_check_path(entry[image_column], f"{where}: {image_column}"),
        captions=captions,
        where=where,
        image_id=check_image_id(entry["image_id"], where) if "image_id" in entry else None,
        split=split_named(str(entry["split"])) if entry.get("split") else None,
        prompt=prompt,
        extra={name: value for name, value in entry.items() if name not in known},
    )


def texts_of(
    entry: Mapping[str, Any], captions_column: str | None, where: str
) -> tuple[list[str | None], str | None, list[str]]:
    """Return captions, prompt, and the columns that the captions came from.

    Looked for in this order: `captions_column` if named; `messages` (one user turn, the prompt, then one assistant
    turn, the caption); the first there is of `CAPTION_COLUMNS`; columns `caption_0`, `caption_1`, … together.
    """
    prompt = entry.get("prompt")
    if prompt is not None and not isinstance(prompt, str):
        raise ValueError(f"{where}: prompt is a JSON {json_type(prompt)}; wanted a string")
    columns = caption_columns(entry, captions_column)
    if not columns:
        looked_for = f"{captions_column!r}" if captions_column else ", ".join(("messages", *CAPTION_COLUMNS))
        raise ValueError(
            f"{where}: no captions among {names_of(entry)} (looked for {looked_for}); "
            "add them, or name their column with --captions_column"
        )
    if columns == ["messages"]:
        asked, caption = texts_of_messages(entry["messages"], where)
        return [caption], asked, columns
    captions = [text for name in columns for text in captions_in(entry[name], f"{where}: {name}")]
    return captions, (prompt or "").strip() or None, columns


def caption_columns(names: Iterable[str], captions_column: str | None = None) -> list[str]:
    """Return which of the columns `names` hold the captions; none if that cannot be told."""
    names = list(names)
    if captions_column is not None:
        return [captions_column] if captions_column in names else []
    for name in ("messages", *CAPTION_COLUMNS):
        if name in names:
            return [name]
    numbered = [(int(match[1]), name) for name in names if (match := _NUMBERED_CAPTION.fullmatch(name))]
    return [name for _, name in sorted(numbered)]


def captions_in(value: Any, what: str) -> list[str | None]:
    """Return the captions in a string, a list of strings, or `{"raw": …}` and lists of these (Karpathy's sentences).

    Empty captions and None stay, for the caller to count.
    """
    if value is None:
        return [None]
    if isinstance(value, Mapping) and "raw" in value:
        return captions_in(value["raw"], f"{what}.raw")
    if isinstance(value, list):
        return [text for index, item in enumerate(value) for text in captions_in(item, f"{what}[{index}]")]
    if not isinstance(value, str):
        raise ValueError(f"{what} is a JSON {json_type(value)}; wanted a string or a list of strings")
    return [check_caption(value, what, allow_empty=True)]


def texts_of_messages(messages: Any, where: str) -> tuple[str | None, str]:
    """Return prompt and caption of an instruction-style record: a user turn with one picture, an assistant turn.

    A turn's `content` is a string (`<image>` in it stands for the picture) or a list of parts
    `{"type": "image"}`, `{"type": "text", "text": str}`.
    """
    wanted = 'wanted [{"role": "user", "content": …}, {"role": "assistant", "content": …}]'
    if not isinstance(messages, list) or not all(isinstance(turn, Mapping) for turn in messages):
        raise ValueError(f"{where}: messages is a JSON {json_type(messages)}; {wanted}")
    roles = [turn.get("role") for turn in messages]
    if roles != ["user", "assistant"]:
        raise ValueError(f"{where}: messages has the roles {roles}; {wanted}, one question and one answer a row")
    asked, answered = (_turn_text(turn.get("content"), f"{where}: messages[{i}]") for i, turn in enumerate(messages))
    return _IMAGE_PLACEHOLDER.sub(" ", asked).strip() or None, check_caption(answered, f"{where}: messages[1]", True)


def _turn_text(content: Any, what: str) -> str:
    if isinstance(content, str):
        parts = [{"type": "text", "text": content}]
    elif isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        parts = content
    else:
        raise ValueError(f"{what}.content is a JSON {json_type(content)}; wanted a string or a list of parts")
    kinds = [part.get("type") for part in parts]
    texts = [part.get("text") for part in parts if part.get("type") == "text"]
    if set(kinds) - {"text", "image"} or kinds.count("image") > 1 or not all(isinstance(t, str) for t in texts):
        raise ValueError(f"{what}.content has parts of the types {kinds}; wanted texts and at most one image")
    num_images = kinds.count("image") + sum(text.count("<image>") for text in texts)
    if num_images > 1:
        raise ValueError(f"{what}.content has {num_images} images; wanted one image a row")
    return " ".join(texts)


def split_named(word: str) -> str:
    """Return the split that a word means ("val", "dev" are "validation"); an unknown word is a name of its own."""
    return _SPLIT_OF_WORD.get(word.strip().lower(), word.strip())


def split_of_file(path: Path) -> str | None:
    """Return the split that a file's name tells by one of its words ("captions_val2017.json"), or None.

    Words may follow a dot ("coco.val.jsonl"); no suffix of a file that is read is one.
    """
    words = [word for word in re.split(r"[^a-z]+", path.name.lower()) if word in _SPLIT_OF_WORD]
    return _SPLIT_OF_WORD[words[-1]] if words else None


def split_of_folders(parts: Iterable[str]) -> str | None:
    """Return the split that one of a path's folders tells by its whole name ("train", "val2017"), or None."""
    for part in parts:
        word = re.sub(r"\d+$", "", part.lower())
        if word in _SPLIT_OF_WORD:
            return _SPLIT_OF_WORD[word]
    return None


def _check_path(value: Any, what: str) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str) or not value.strip():
        got = repr(value) if value in (None, "", []) else f"a JSON {json_type(value)} ({str(value)[:60]})"
        raise ValueError(f"{what} is {got}; wanted the path of one picture")
    if "\0" in value:
        raise ValueError(f"{what} is {value!r}, which holds a null character; mend the path")
    if re.match(r"(https?|s3|gs|hf|data):", value):
        raise ValueError(f"{what} is {value[:60]!r}; download the picture and give the path of its file")
    return value
