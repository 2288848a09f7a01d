"""The diff of spliced texts is the one that `difflib` finds, where that is able to find it."""

import difflib
import random

from hfcap.applications.apply import spliced
from hfcap.applications.diff import spliced_diff


def test_diffs_are_those_of_difflib():
    generator = random.Random(0)
    for _ in range(200):
        lines = [f"line {number} of {generator.random()}" for number in range(generator.randint(1, 40))]
        text = "\n".join(lines) + generator.choice(["", "\n"])
        # Insertions within lines, so that `difflib` has no choice of the line.
        at = sorted({sum(map(len, lines[:n])) + n + 3 for n in generator.choices(range(len(lines)), k=4)})
        splices = [(start, start + generator.randint(0, 2), f"new {start}") for start in at]
        new = spliced(text, splices)
        wanted = list(difflib.unified_diff(text.splitlines(), new.splitlines(), "a/x", "b/x", lineterm=""))
        found = spliced_diff("x", text, splices).splitlines()
        # `difflib` leaves out a count of 1.
        assert [line.replace(",1 ", " ") for line in found] == [line.replace(",1 ", " ") for line in wanted]


def test_an_alt_of_two_lines_becomes_one_line():
    text = 'a\n<img alt="x\ny">\nb\n'
    start, end = text.index('alt="'), text.index(">")
    assert spliced_diff("x", text, [(start, end, 'alt="z"')]).splitlines()[2:] == [
        "@@ -1,4 +1,3 @@",
        " a",
        '-<img alt="x',
        '-y">',
        '+<img alt="z">',
        " b",
    ]
