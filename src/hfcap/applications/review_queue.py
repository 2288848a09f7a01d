"""The queue of tagged pictures that wait for a person: next item, decide, undo, appeal.

The terminal and the demo's tab use the same functions; nothing here asks or prints.
"""

import io
import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageFilter, ImageOps

from hfcap.applications.decisions import ANSWERS, APPEAL, DECISION, UNDO, DecisionLog, Key, check_pictures
from hfcap.applications.images import image_sha256
from hfcap.applications.tag_rows import Tags
from hfcap.applications.threshold_file import Thresholds, goes_to_a_person
from hfcap.errors import ConfigError

BLURRED_PIXELS, BLUR_RADIUS = 160, 10  # longest side; what is left is colours and large shapes


@dataclass(frozen=True)
class Item:
    """A tag of a picture to decide on.

    Attributes:
        row: of `tags.jsonl`.
        tag: name.
        score: of the tagger.
        threshold: that was in force, or None.
        appeal: the reason of an appeal against an earlier decision, or None.
        position: in the queue, from 1.
        length: of the queue.
    """

    row: dict[str, Any]
    tag: str
    score: float
    threshold: float | None
    appeal: str | None
    position: int
    length: int


class ReviewQueue:
    """Items in order: appeals first, then by falling score. Decisions are in the log before a function returns.

    Args:
        tags: rows.
        log: decisions, read from its file and repaired.
        names: tags to decide on.
        thresholds: lowest scores that go to a person; without them, see `goes_to_a_person`.
    """

    def __init__(self, tags: Tags, log: DecisionLog, names: Sequence[str], thresholds: Thresholds | None = None):
        check_pictures(log, tags)
        self.tags, self.log, self.names, self.thresholds = tags, log, tuple(names), thresholds
        self._done: list[Key] = []  # of this session, for undo
        self._skipped: set[Key] = set()
        keys = [(image_id, tag) for image_id in tags.rows for tag in self.names]
        wanted = [key for key in keys if self._is_wanted(key)]
        self._order = sorted(wanted, key=lambda key: (not self._is_appealed(key), -self._score(key), key))

    def next_item(self) -> Item | None:
        """Return the first item without a decision, or None at the end."""
        waiting = self.waiting()
        return self._item(waiting[0]) if waiting else None

    def waiting(self) -> list[Key]:
        """Return (image id, tag) of the items without a decision that were not skipped, in order."""
        return [key for key in self._order if not self._has_decision(key) and key not in self._skipped]

    def decide(self, item: Item, answer: str, reason: str = "") -> None:
        """Record what a person decides.

        Args:
            item: what `next_item` gave.
            answer: "agree" (it shows what the tag means), "disagree" or "cannot_tell".
            reason: why; needed unless the person agrees.

        Raises:
            ValueError: another answer, no reason where one is needed, or decided already.
            OSError: it could not be written; it does not count.
        """
        if answer not in ANSWERS:
            raise ValueError(f"{answer!r}; wanted one of {', '.join(ANSWERS)}")
        if answer != "agree" and not reason.strip():
            raise ValueError("give a reason: one word is enough")
        row, tagger = item.row, self.tags.tagger
        self.log.append(
            {
                "kind": DECISION,
                "image_id": row["image_id"],
                "tag": item.tag,
                "answer": answer,
                "reason": " ".join(reason.split()),
                "score": item.score,
                "threshold": item.threshold,
                "image_sha256": row["image_sha256"],
                "weights_sha256": tagger.get("weights_sha256"),
            }
        )
        self._done.append((row["image_id"], item.tag))

    def is_decided(self, item: Item) -> bool:
        """Whether an item has a decision by now: another window of the demo may have been first."""
        return self._has_decision((item.row["image_id"], item.tag))

    def undo(self) -> Key | None:
        """Undo the last decision of this session and return its (image id, tag); None where there is none."""
        if not self._done:
            return None
        image_id, tag = self._done[-1]
        self.log.append({"kind": UNDO, "image_id": image_id, "tag": tag})
        return self._done.pop()

    def skip(self, item: Item) -> None:
        """Leave an item for another session; nothing is written."""
        self._skipped.add((item.row["image_id"], item.tag))

    def counts(self) -> dict[str, int]:
        """Return the numbers of items decided in this session, waiting, and skipped."""
        return {"decided": len(self._done), "waiting": len(self.waiting()), "skipped": len(self._skipped)}

    def _item(self, key: Key) -> Item:
        image_id, tag = key
        row, state = self.tags.rows[image_id], self.log.states.get(key)
        appeal = state.appeal["reason"] if state is not None and state.appeal else None
        threshold = self.thresholds.by_tag.get(tag) if self.thresholds is not None else None
        position = self._order.index(key) + 1
        return Item(row, tag, row["scores"][tag], threshold, appeal, position, len(self._order))

    def _is_wanted(self, key: Key) -> bool:
        image_id, tag = key
        return key in self.log.states or goes_to_a_person(self.tags.rows[image_id], tag, self.thresholds)

    def _has_decision(self, key: Key) -> bool:
        return key in self.log.states and self.log.states[key].is_decided

    def _is_appealed(self, key: Key) -> bool:
        return key in self.log.states and self.log.states[key].appeal is not None

    def _score(self, key: Key) -> float:
        return self.tags.rows[key[0]]["scores"][key[1]]


def appeal(tags: Tags, log: DecisionLog, image_id: str, tag: str, reason: str) -> None:
    """Open a decision again, by a line of its own.

    Raises:
        ConfigError: no such picture or tag, no decision to appeal against, or no reason.
    """
    if image_id not in tags.rows:
        raise ConfigError(f"no such picture in {tags.path}", option="--appeal", got=image_id)
    if not reason.strip():
        raise ConfigError("an appeal needs a reason", option="--reason")
    try:
        log.append({"kind": APPEAL, "image_id": image_id, "tag": tag, "reason": " ".join(reason.split())})
    except ValueError as error:
        raise ConfigError(str(error), option="--appeal", got=image_id) from None


def picture_path(row: dict[str, Any], tags_path: str | os.PathLike) -> Path:
    """Find the picture of a row: at its path, or from the folder of `tags.jsonl`.

    Raises:
        ValueError: it is not there, is another picture than the one that was tagged, or has no file of its own.
    """
    if not row["path"]:
        raise ValueError("it is no file but part of a parquet file or tar shard; tag a folder of pictures to see them")
    for path in (Path(row["path"]), Path(tags_path).parent / row["path"]):
        if path.is_file():
            if image_sha256(path.as_posix()) != row["image_sha256"]:
                raise ValueError(f"{path} is not the picture that was tagged; tag it again")
            return Path(posixpath.normpath(path.as_posix()))
    raise ValueError(f"no picture at {row['path']}")


def blurred_jpeg(path: Path) -> bytes:
    """Return a small blurred copy of a picture, as JPEG.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with Image.open(path) as image:
            image.draft("RGB", (BLURRED_PIXELS * 2, BLURRED_PIXELS * 2))
            small = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    small.thumbnail((BLURRED_PIXELS, BLURRED_PIXELS))
    buffer = io.BytesIO()
    small.filter(ImageFilter.GaussianBlur(BLUR_RADIUS)).save(buffer, "JPEG", quality=60)
    return buffer.getvalue()
