"""`hfcap moderate review`: decisions in the terminal, caption and evidence first, the picture only on request."""

import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from hfcap.applications.moderation_texts import evidence_text, may_show
from hfcap.applications.policy import Policy
from hfcap.applications.review import END
from hfcap.applications.review_queue import Item, ReviewQueue, blurred_jpeg, picture_path
from hfcap.errors import printable

KEYS = "a agree, d disagree, c cannot tell, b blurred picture, o original, s skip, u undo, q quit"
ANSWER_OF = {"a": "agree", "d": "disagree", "c": "cannot_tell"}


def review_tags(
    queue: ReviewQueue,
    policy: Policy,
    viewer: str | None = None,
    ask: Callable[[str], str] = input,
    say: Callable[[str], None] = print,
) -> None:
    """Go through a queue; each decision is in the file before the next question.

    Commands are a letter and Enter, so that any terminal, screen reader and pipe can give them; the reason may stand
    behind the letter. The end of the input is "quit".

    Args:
        queue: items.
        policy: says what the tags mean.
        viewer: command that shows a file; its path is printed without one.
        ask: reads a line.
        say: shows a text.
    """
    say(f"{len(queue.waiting())} to decide. {KEYS}")
    with tempfile.TemporaryDirectory(prefix="hfcap-review-") as folder:
        last = None
        while (item := queue.next_item()) is not None or queue.counts()["decided"]:
            key = None if item is None else (item.row["image_id"], item.tag)
            if key is None or key != last:
                say(END if item is None else _shown(item, policy))
                last = key
            try:
                answer = ask("> ").strip()
                if answer.lower() == "q" or (item is None and answer.lower() != "u"):
                    break
                _follow(queue, item, answer, viewer, Path(folder), ask, say)
            except (EOFError, KeyboardInterrupt):
                break
            except ValueError as error:
                say(printable(str(error)))
    counts = queue.counts()
    say(f"{counts['decided']} decided now, {counts['waiting'] + counts['skipped']} left; {queue.log.path}")


def _follow(
    queue: ReviewQueue,
    item: Item | None,
    answer: str,
    viewer: str | None,
    folder: Path,
    ask: Callable[[str], str],
    say: Callable[[str], None],
) -> None:
    letter, _, reason = answer.partition(" ")
    letter = letter.lower()
    if letter in ANSWER_OF:
        if letter != "a" and not reason.strip():
            reason = ask("reason: ")
        queue.decide(item, ANSWER_OF[letter], reason)
    elif letter == "u":
        undone = queue.undo()
        say("nothing to undo" if undone is None else f"undone: {undone[0]}, {undone[1]}")
    elif letter == "s":
        queue.skip(item)
    elif letter in ("b", "o"):
        path = picture_path(item.row, queue.tags.path)
        if letter == "b":
            blurred = folder / "blurred.jpg"
            blurred.write_bytes(blurred_jpeg(path))
            path = blurred
        _view(path, viewer, say)
    else:
        raise ValueError(f"{answer[:20]!r} is none of: {KEYS}")


def _view(path: Path, viewer: str | None, say: Callable[[str], None]) -> None:
    say(f"  {printable(str(path.absolute()))}")
    if viewer is not None:
        try:
            subprocess.run([*shlex.split(viewer), str(path)], check=False)
        except OSError as error:
            raise ValueError(f"{viewer}: {error.strerror}; pass another --viewer") from None


def _shown(item: Item, policy: Policy) -> str:
    tag = policy.tags[item.tag]
    threshold = "" if item.threshold is None else f", threshold {item.threshold:.3f}"
    words = (item.row.get("evidence") or {}).get(item.tag) or []
    lines = [
        "",
        f"{item.position}/{item.length} {item.row['image_id']}",
        f"  {may_show(item.tag)} (score {item.score:.3f}{threshold})",
        f"  that means: {tag.means}",
        *(f"  {line}" for line in evidence_text(item.row.get("caption"), words)),
    ]
    if item.appeal is not None:
        lines.append(f"  appeal: {item.appeal}")
    return "\n".join(map(printable, lines))
