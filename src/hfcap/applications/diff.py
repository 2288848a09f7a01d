"""Unified diffs of spliced texts: what changes is known, so that nothing has to be searched for."""

import re
from bisect import bisect_right
from collections.abc import Sequence

AROUND = 3  # lines shown in front of a change and behind it
LONG_LINE = 400  # characters; a longer line is shown tag by tag


def spliced_diff(name: str, text: str, splices: Sequence[tuple[int, int, str]]) -> str:
    """Return a unified diff of a text and of the same with `(start, end, written)` spliced in, without line ends.

    Args:
        name: of the file.
        text: before.
        splices: at least one, in order and apart from each other; one that ends a line is joined with the next line.
    """
    lines = _lines(text)
    starts = [0]
    for line in lines[:-1]:
        starts.append(starts[-1] + len(line))
    blocks: list[list] = []  # first line, last line, splices
    for splice in splices:
        first = bisect_right(starts, splice[0]) - 1
        last = bisect_right(starts, max(splice[0], splice[1] - 1)) - 1
        if blocks and first <= blocks[-1][1] + 1:
            blocks[-1][1] = max(last, blocks[-1][1])
            blocks[-1][2].append(splice)
        else:
            blocks.append([first, last, [splice]])
    groups: list[list] = []
    for block in blocks:
        if groups and block[0] - groups[-1][-1][1] - 1 <= 2 * AROUND:
            groups[-1].append(block)
        else:
            groups.append([block])
    out, grown = [f"--- a/{name}", f"+++ b/{name}"], 0
    for group in groups:
        hunk, more = _hunk(lines, starts, group, grown)
        out += hunk
        grown += more
    return "".join(f"{line}\n" for line in out)


def _hunk(lines: list[str], starts: list[int], group: list[list], grown: int) -> tuple[list[str], int]:
    """Return the lines of a hunk, and how many more lines it has behind than before."""
    first, last = max(0, group[0][0] - AROUND), min(len(lines) - 1, group[-1][1] + AROUND)
    out, at, more = [], first, 0
    for start, end, splices in group:
        out += [" " + line.rstrip("\r\n") for line in lines[at:start]]
        old = lines[start : end + 1]
        new = "".join(old)
        for begin, stop, written in reversed(splices):
            new = new[: begin - starts[start]] + written + new[stop - starts[start] :]
        new_lines = new.splitlines()
        out += ["-" + line.rstrip("\r\n") for line in old] + ["+" + line for line in new_lines]
        more += len(new_lines) - len(old)
        at = end + 1
    out += [" " + line.rstrip("\r\n") for line in lines[at : last + 1]]
    size = last - first + 1
    return [f"@@ -{first + 1},{size} +{first + 1 + grown},{size + more} @@", *out], more


def _lines(text: str) -> list[str]:
    """Return the lines of a text with what ends them."""
    lines = re.findall(r"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+", text) or [""]
    pieces = ([line] if len(line) <= LONG_LINE else re.split("(?=<)", line) for line in lines)
    return [piece for of_line in pieces for piece in of_line if piece] or [""]
