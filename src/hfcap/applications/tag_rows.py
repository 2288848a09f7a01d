"""`tags.jsonl`: the scores that a tagger gave to pictures, as `hfcap moderate tag` writes them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfcap.applications.policy import Policy, read_policy
from hfcap.errors import ConfigError, shown
from hfcap.json_files import image_id_of, read_jsonl

DECISIONS = ("review", "unsure", "none")


@dataclass(frozen=True)
class Tags:
    """The rows of a file, and what they have in common.

    Attributes:
        path: of the file.
        rows: by image id, in the order of the file.
        names: of the tags, by alphabet.
        policy: `{"path", "sha256"}` of the policy that the pictures were tagged by.
        tagger: `{"source", "weights_sha256"}` of what scored them.
    """

    path: str
    rows: dict[str, dict[str, Any]]
    names: tuple[str, ...]
    policy: dict[str, str]
    tagger: dict[str, str | None]

    def read_policy(self, path: str | os.PathLike | None = None) -> Policy:
        """Read the policy of the rows.

        Args:
            path: where it lies now; by default where the rows say, from here or from the folder of the rows.

        Raises:
            ConfigError: it cannot be read, means something else than when the pictures were tagged, or lacks a tag.
        """
        if path is None:
            said, beside = Path(self.policy["path"]), Path(self.path).parent / self.policy["path"]
            path = beside if not said.is_file() and beside.is_file() else said
        policy = read_policy(path)
        if policy.sha256 != self.policy["sha256"]:
            raise ConfigError(
                f"it is not the policy of {self.path} (sha256 {policy.sha256[:12]}, wanted "
                f"{self.policy['sha256'][:12]})",
                option=policy.path,
                fix="tag the pictures again, or pass the policy of that time with --policy",
            )
        unknown = [tag for tag in self.names if tag not in policy.tags]
        if unknown:
            reason = f"the tag {unknown[0]!r} of {self.path} is none of its tags, {', '.join(policy.tags)}"
            raise ConfigError(reason, option=policy.path, fix="use the policy that the tagger was trained for")
        return policy

    def chosen(self, tag: str | None) -> tuple[str, ...]:
        """Return all tags, or the one asked for. Raises ConfigError where no row has it."""
        if tag is None:
            return self.names
        if tag not in self.names:
            raise ConfigError(option="--tag", got=tag, wanted=f"one of {', '.join(self.names)}")
        return (tag,)


def read_tags(path: str | os.PathLike) -> Tags:
    """Read `tags.jsonl`.

    Raises:
        ConfigError: one line with file and place: a row that is none, an image id twice, a score that is none, rows of
            two policies, two taggers or different tags, or no row at all.
    """
    rows: dict[str, dict[str, Any]] = {}
    try:
        for entry, where in read_jsonl(path):
            row = _checked(entry, where)
            if row["image_id"] in rows:
                raise ConfigError(f"the image id {shown(row['image_id'])} twice", option=where, fix="remove one row")
            first = next(iter(rows.values()), row)
            for what in ("policy", "tagger", "scores"):
                _check_same(what, row, first, where)
            rows[row["image_id"]] = row
    except ValueError as error:
        raise error if isinstance(error, ConfigError) else ConfigError(str(error)) from error
    if not rows:
        raise ConfigError("no picture in it", option=str(path), fix="run `hfcap moderate tag`")
    row = next(iter(rows.values()))
    return Tags(Path(path).as_posix(), rows, tuple(sorted(row["scores"])), row["policy"], row["tagger"])


def _check_same(what: str, row: Mapping[str, Any], first: Mapping[str, Any], where: str) -> None:
    key = {"policy": "sha256", "tagger": "weights_sha256"}.get(what)
    own, other = (set(r[what]) if key is None else r[what].get(key) for r in (row, first))
    if own != other:
        reason = f"other {what} than the first row's; thresholds and decisions are about one"
        raise ConfigError(reason, option=where, fix="keep rows of one run of `hfcap moderate tag`")


def _checked(entry: dict[str, Any], where: str) -> dict[str, Any]:
    row = entry | {"image_id": image_id_of(entry, where)}
    missing = [key for key in ("path", "image_sha256", "scores", "tagger", "policy") if key not in row]
    if missing:
        raise ConfigError(f"no {missing[0]}; a row of `hfcap moderate tag` has one", option=where)
    wrong = [key for key in ("scores", "tagger", "policy") if not isinstance(row[key], dict) or not row[key]]
    wrong += [key for key in ("path", "image_sha256") if not isinstance(row[key], str)]
    wrong += [key for key in ("path", "sha256") if not isinstance(dict(row["policy"] or {}).get(key), str)]
    wrong += [key for key in ("probabilities", "decision", "evidence") if not isinstance(row.get(key, {}), dict)]
    if row["policy"] is None:
        raise ConfigError("tagged without a policy", option=where, fix="tag the pictures again with --policy")
    if wrong:
        raise ConfigError(f"{wrong[0]} is {shown(row.get(wrong[0]))}", option=where, fix="tag the pictures again")
    for what in ("scores", "probabilities"):
        for tag, score in row.get(what, {}).items():
            if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
                raise ConfigError(option=f"{where}: {what}.{tag}", got=score, wanted="a number from 0 to 1")
    for tag, decision in row.get("decision", {}).items():
        if decision not in DECISIONS:
            raise ConfigError(option=f"{where}: decision.{tag}", got=decision, wanted=", ".join(DECISIONS))
    return row
