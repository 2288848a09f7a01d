"""Records of a source (a line, an entry, a row): their columns as image, captions and prompt."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from hfcap.errors import shown
from hfcap.json_files import check_caption, check_image_id, json_type, names_of

IMAGE_COLUMNS = ("image", "images", "file_name", "filename", "image_path", "path", "image_name")
CAPTION_COLUMNS = ("captions", "caption", "text", "sentences", "raw")
OTHER_CAPTIONS = (
    "%s: captions are not read from %s; to read another column, or to silence this, pass --captions_column"
)
NO_CAPTIONS = ""  # as captions_column: the rows are read for their pictures alone
SPLIT_NAMES = {
    "train": ("train", "training", "restval"),
    "validation": ("validation", "val", "valid", "dev", "eval"),
    "test": ("test", "testing"),
}
_SPLIT_OF_WORD = {word: split for split, words in SPLIT_NAMES.items() for word in words}
_WORDS_WITH_SPLIT = {"image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "data", "set"}
_NUMBERED_CAPTION = re.compile(r"(captions?|texts?|sentences?|raw)_?(\d+)")
# What pandas reads as a missing value, and so what it and others write for one.
MISSING_VALUES = {"nan", "NaN", "-nan", "None", "NULL", "null", "NA", "<NA>", "N/A", "n/a", "#N/A"}
DEEPEST_CAPTION = 4
LONGEST_PATH = 4096  # bytes, of Linux
# How files of JPEG, PNG, GIF and WebP begin in base64.
_BASE64_PICTURES = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR")
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


@dataclass(frozen=True)
class Roles:
    """Which column of a record plays which part; None, or no captions, where there is none."""

    image: str | None
    captions: tuple[str, ...]
    image_id: str | None
    split: str | None
    prompt: str | None

    @property
    def used(self) -> set[str | None]:
        """The names of all these columns."""
        return {self.image, *self.captions, self.image_id, self.split, self.prompt}


def source_row(
    entry: Mapping[str, Any], where: str, image_column: str | None = None, captions_column: str | None = None
) -> SourceRow:
    """Read one record with a path to a picture in it.

    Args:
        entry: the record; columns are recognised (`roles_of`) or named.
        where: file and line, for messages.
        image_column: column of the picture's path.
        captions_column: column of the captions.

    Raises:
        ValueError: one message with place and fix: a column is missing, or a value is of the wrong type.
    """
    captions, prompt, roles = texts_of(entry, where, image_column, captions_column, need_image=True)
    return SourceRow(
        image=_check_path(entry[roles.image], f"{where}: {roles.image}"),
        captions=captions,
        where=where,
        image_id=check_image_id(entry[roles.image_id], where) if roles.image_id else None,
        split=split_in(entry, roles),
        prompt=prompt,
        extra={name: value for name, value in entry.items() if name not in roles.used},
    )


def texts_of(
    entry: Mapping[str, Any],
    where: str,
    image_column: str | None = None,
    captions_column: str | None = None,
    need_image: bool = False,
) -> tuple[list[str | None], str | None, Roles]:
    """Return captions (none for `NO_CAPTIONS`), prompt, and which columns play which part.

    `messages` hold one user turn, the prompt, then one assistant turn, the caption.

    Raises:
        ValueError: no captions; no picture's path where one is needed; two prompts; a value of the wrong type.
    """
    try:
        roles = roles_of(tuple(entry), image_column, captions_column)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if need_image and roles.image is None:
        looked_for = ", ".join(IMAGE_COLUMNS) if image_column is None else repr(image_column)
        raise ValueError(
            f"{where}: no picture's path among {names_of(entry)} (looked for {looked_for}); "
            "add it, or name its column with --image_column"
        )
    prompt = entry[roles.prompt] if roles.prompt else None
    if prompt is not None and not isinstance(prompt, str):
        raise ValueError(f"{where}: {roles.prompt} is a JSON {json_type(prompt)}; wanted a string")
    prompt = None if prompt is None or is_blank(prompt) else prompt.strip()
    if captions_column == NO_CAPTIONS:
        return [], prompt, roles
    if not roles.captions:
        looked_for = f"{captions_column!r}" if captions_column else ", ".join(("messages", *CAPTION_COLUMNS))
        raise ValueError(
            f"{where}: no captions among {names_of(entry)} (looked for {looked_for}); "
            "add them, or name their column with --captions_column"
        )
    if _key(roles.captions[0]) == "messages":
        asked, caption = texts_of_messages(entry[roles.captions[0]], where)
        if prompt is not None and asked not in (None, prompt):
            raise ValueError(
                f"{where}: {roles.prompt} is {shown(prompt)}, the user's turn {shown(asked)}; keep one of the two"
            )
        return [caption], asked or prompt, roles
    captions = [text for name in roles.captions for text in captions_in(entry[name], f"{where}: {name}")]
    if prompt is not None and prompt in captions:
        raise ValueError(
            f"{where}: {roles.prompt} is the caption itself, {shown(prompt)}; remove the column, or if these are the "
            f"captions, pass --captions_column {roles.prompt}"
        )
    return captions, prompt, roles


@lru_cache(maxsize=1024)
def roles_of(names: tuple[str, ...], image_column: str | None = None, captions_column: str | None = None) -> Roles:
    """Tell which of the columns `names` plays which part; a column that is named has no other part.

    Names are compared without regard to case, spaces and hyphens. Captions are, in this order, `messages`; the first
    there is of `CAPTION_COLUMNS`, and with it, unless it is the plural, those with a number behind (`caption_2`);
    columns `caption_0`, `caption_1`, … alone.

    Raises:
        ValueError: one column is named for both, or two names mean the same.
    """
    if image_column is not None and image_column == captions_column:
        raise ValueError(
            f"image_column and captions_column are both {image_column!r}; name the column of each, or remove one"
        )
    by_key: dict[str, list[str]] = {}
    for name in names:
        if name not in (image_column, captions_column):
            by_key.setdefault(_key(name), []).append(name)

    def only(key: str) -> str | None:
        found = by_key.get(key, [])
        if len(found) > 1:
            raise ValueError(f"columns {', '.join(map(repr, found))} mean the same; rename or remove one of the two")
        return found[0] if found else None

    image = image_column if image_column in names else None
    if image_column is None:
        image = next((name for name in map(only, IMAGE_COLUMNS) if name is not None), None)
    captions = (captions_column,) if captions_column in names else ()
    if captions_column is None:
        by_key = {key: [name for name in found if name != image] for key, found in by_key.items()}
        captions = tuple(_caption_columns(by_key, only))
    return Roles(image, captions, only("image_id"), only("split"), only("prompt"))


def _caption_columns(by_key: Mapping[str, list[str]], only: Callable[[str], str | None]) -> list[str]:
    numbered: dict[str, list[tuple[int, str]]] = {}
    for key, names in by_key.items():
        if match := _NUMBERED_CAPTION.fullmatch(key):
            numbered.setdefault(match[1].removesuffix("s"), []).extend((int(match[2]), name) for name in names)
    in_order = {base: [name for _, name in sorted(found)] for base, found in numbered.items()}
    for key in ("messages", *CAPTION_COLUMNS):
        if (name := only(key)) is not None:
            return [name, *in_order.get(key, [])]
    return next((in_order[base] for base in ("caption", "text", "sentence", "raw") if base in in_order), [])


def is_captions(name: str) -> bool:
    """Tell whether captions would be read from a column of this name, where there is none before it."""
    key = _key(name)
    return key in ("messages", *CAPTION_COLUMNS) or _NUMBERED_CAPTION.fullmatch(key) is not None


def _key(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def is_blank(text: str | None) -> bool:
    """Tell whether a text is none: nothing, spaces, or what tools write for a missing value ("nan", "None")."""
    return text is None or not text.strip() or is_missing_value(text)


def is_missing_value(text: str) -> bool:
    """Tell whether a text is what tools write for a missing value."""
    return text.strip() in MISSING_VALUES


def split_in(entry: Mapping[str, Any], roles: Roles) -> str | None:
    """Return the split that a record names in its column, or None."""
    told = entry[roles.split] if roles.split else None
    return None if not told or is_blank(str(told)) else split_named(str(told))


def captions_in(value: Any, what: str, depth: int = 0) -> list[str | None]:
    """Return the captions in a string, a list of strings, or `{"raw": …}` and lists of these (Karpathy's sentences).

    Empty captions and None stay, for the caller to count.
    """
    if depth > DEEPEST_CAPTION:
        raise ValueError(f"{what} lies {depth} lists or objects deep; wanted a string or a list of strings")
    if value is None:
        return [None]
    if isinstance(value, Mapping) and "raw" in value:
        return captions_in(value["raw"], f"{what}.raw", depth + 1)
    if isinstance(value, list):
        return [text for index, item in enumerate(value) for text in captions_in(item, f"{what}[{index}]", depth + 1)]
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
        raise ValueError(
            f"{where}: messages has the roles {shown(roles)}; {wanted}, one question and one answer per row"
        )
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
        raise ValueError(f"{what}.content has parts of the types {shown(kinds)}; wanted texts and at most one image")
    num_images = kinds.count("image") + sum(text.count("<image>") for text in texts)
    if num_images > 1:
        raise ValueError(f"{what}.content has {num_images} images; wanted one image per row")
    return " ".join(texts)


def split_named(word: str) -> str:
    """Return the split that a word means ("val", "dev" are "validation"); an unknown word is a name of its own."""
    return _SPLIT_OF_WORD.get(word.strip().lower(), word.strip())


def split_of_file(path: Path) -> str | None:
    """Return the split that a file's name tells by one of its words ("captions_val2017.json"), or None.

    Words may follow a dot ("coco.val.jsonl"); no suffix of a file that is read is one. Words of several splits
    ("train_val_test.csv") tell none.
    """
    words = re.split(r"[^a-z]+", path.name.lower())
    splits = {_SPLIT_OF_WORD[word] for word in words if word in _SPLIT_OF_WORD}
    return splits.pop() if len(splits) == 1 else None


def split_of_folders(parts: Iterable[str]) -> str | None:
    """Return the split that one of a path's folders tells by its name ("train", "val2017", "test_images"), or None."""
    word = split_word(parts)
    return None if word is None else _SPLIT_OF_WORD[word]


def split_word(parts: Iterable[str]) -> str | None:
    """Return the word by which the first folder that tells a split tells it: "val" of "a/val2017", or None."""
    for part in parts:
        words = re.findall(r"[a-z]+", part.lower())
        named = [word for word in words if word in _SPLIT_OF_WORD]
        if len(named) == 1 and _WORDS_WITH_SPLIT.issuperset(word for word in words if word != named[0]):
            return named[0]
    return None


def _check_path(value: Any, what: str) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str) or not value.strip():
        got = repr(value) if value in (None, "", []) else f"a JSON {json_type(value)} ({shown(value)})"
        raise ValueError(f"{what} is {got}; wanted the path of one picture")
    if "\0" in value:
        raise ValueError(f"{what} is {shown(value)}, which holds a null character; fix the path")
    if len(value) > LONGEST_PATH or (len(value) > 100 and value.startswith(_BASE64_PICTURES)):
        raise ValueError(
            f"{what} is {shown(value, 40)}, which looks like a picture in base64; write the picture to a file and "
            "give its path"
        )
    if re.match(r"(https?|s3|gs|hf|data):", value):
        raise ValueError(f"{what} is {shown(value, 60)}; download the picture and give the path of its file")
    return value
