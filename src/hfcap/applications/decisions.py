"""`decisions.jsonl`: what people decided about tagged pictures, line after line, and never changed.

A line is a decision, the undoing of one, or an appeal, which opens it again. Each is on the disk before the next
question is asked. A process that is killed leaves at most one line cut off at the end, which the next one takes away:
no decision was confirmed for it.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfcap.applications.signature import signed
from hfcap.applications.tag_rows import Tags
from hfcap.errors import ConfigError, shown
from hfcap.json_files import loads

ANSWERS = ("agree", "disagree", "cannot_tell")
DECISION, UNDO, APPEAL = "decision", "undo", "appeal"
_FIX = "restore the file, to which lines are only added"
_TEXTS = ("kind", "image_id", "tag", "policy_sha256", "by", "at")

Key = tuple[str, str]  # image id, tag


@dataclass
class State:
    """What the lines about one tag of one picture amount to.

    Attributes:
        decisions: decisions that were not undone, the last one in force; those before an appeal are part of it.
        appeal: the appeal that waits for a decision, or None.
    """

    decisions: list[dict[str, Any]] = field(default_factory=list)
    appeal: dict[str, Any] | None = None
    _appeals: list[dict[str, Any] | None] = field(default_factory=list)  # what each decision has answered

    @property
    def is_decided(self) -> bool:
        """Whether a decision is in force."""
        return bool(self.decisions) and self.appeal is None

    def add(self, line: dict[str, Any]) -> None:
        """Follow a line. Raises ValueError where it cannot follow what is there."""
        if line["kind"] == DECISION:
            if self.is_decided:
                raise ValueError("a second decision without an appeal or an undo between")
            self.decisions.append(line)
            self._appeals.append(self.appeal)
            self.appeal = None
        elif line["kind"] == UNDO:
            if not self.is_decided:
                raise ValueError("an undo, and there is no decision to undo")
            self.decisions.pop()
            self.appeal = self._appeals.pop()
        else:
            if not self.is_decided:
                raise ValueError("an appeal, and there is no decision to appeal against")
            self.appeal = line


@dataclass
class DecisionLog:
    """Decisions of one policy.

    Attributes:
        path: of the file, which need not be there yet.
        policy_sha256: of the policy.
        states: by image id and tag.
        num_torn: bytes of a line that was cut off, 0 if none.
    """

    path: Path
    policy_sha256: str
    states: dict[Key, State]
    num_torn: int = 0

    def append(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """Write a line, with who and when, and return once it is on the disk.

        Raises:
            ValueError: it cannot follow what is there.
            OSError: as the file system does; then nothing counts as decided.
        """
        line = dict(line) | {"policy_sha256": self.policy_sha256} | signed()
        key = (line["image_id"], line["tag"])
        state = self.states.get(key) or State()
        state.add(line)
        try:
            append_line(self.path, json.dumps(line, ensure_ascii=False, allow_nan=False))
        except OSError:
            self.states = read_decisions(self.path, self.policy_sha256).states
            raise
        self.states[key] = state
        return line

    def repair(self) -> None:
        """Take away a line that was cut off, or give the last line its end. Only under the lock of the file."""
        if not self.path.exists():
            return
        with open(self.path, "r+b") as file:
            data = file.read()
            if not data or data.endswith(b"\n"):
                return
            if self.num_torn:
                file.truncate(len(data) - self.num_torn)
            else:
                file.write(b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.num_torn = 0


def append_line(path: Path, text: str) -> None:
    """Append a line and wait for the disk."""
    is_new = not path.exists()
    with open(path, "ab") as file:
        file.write(text.encode("utf-8", "backslashreplace") + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if is_new and hasattr(os, "O_DIRECTORY"):  # the name of a new file is in its folder
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_decisions(path: str | os.PathLike, policy_sha256: str) -> DecisionLog:
    """Read the decisions of a policy; a file that is not there has none. Nothing is written.

    Raises:
        ConfigError: one line with file and place: a line that is none or cannot follow those before it, or one of
            another policy. A line cut off at the end is no error.
    """
    path = Path(path)
    log = DecisionLog(path, policy_sha256, {})
    data = path.read_bytes() if path.exists() else b""
    *whole, last = data.split(b"\n")
    if last:
        try:
            loads(last.decode("utf-8"))
            whole.append(last)  # only its end is missing
        except (ValueError, RecursionError):
            log.num_torn = len(last)
    for number, line in enumerate(whole, start=1):
        where = f"{path}, line {number}"
        entry = _parsed(line, where)
        if entry["policy_sha256"] != policy_sha256:
            reason = f"made under another policy ({entry['policy_sha256'][:12]}, wanted {policy_sha256[:12]})"
            raise ConfigError(reason, option=where, fix="pass another --decisions file for this policy")
        try:
            log.states.setdefault((entry["image_id"], entry["tag"]), State()).add(entry)
        except ValueError as error:
            raise ConfigError(str(error), option=where, fix=_FIX) from None
    return log


def check_pictures(log: DecisionLog, tags: Tags) -> int:
    """Check that decisions are about the pictures of the rows, and return how many are about none of them.

    Raises:
        ConfigError: an image id stands for another picture than then.
    """
    num_absent = 0
    for (image_id, _), state in log.states.items():
        row = tags.rows.get(image_id)
        num_absent += row is None
        for decision in state.decisions if row is not None else ():
            if decision["image_sha256"] != row["image_sha256"]:
                reason = f"{shown(image_id)} is another picture in {tags.path}"
                raise ConfigError(reason, option=str(log.path), fix="pass another --decisions file")
    return num_absent


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        entry = loads(line.decode("utf-8"))
    except (ValueError, RecursionError):  # UnicodeDecodeError is one
        raise ConfigError("not a line of JSON", option=where, fix=_FIX) from None
    wrong = not isinstance(entry, dict) or any(not isinstance(entry.get(key), str) for key in _TEXTS)
    wrong = wrong or entry["kind"] not in (DECISION, UNDO, APPEAL)
    if not wrong and entry["kind"] == DECISION:
        wrong = entry.get("answer") not in ANSWERS or not isinstance(entry.get("image_sha256"), str)
    if wrong:
        raise ConfigError("no decision, undo or appeal", option=where, fix=_FIX)
    return entry
