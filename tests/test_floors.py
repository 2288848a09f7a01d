"""Rooms of the package import from lower floors only."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "hfcap"
FLOORS = ("models", "data", "metrics", "ondevice", "generation", "training", "hub", "applications", "recipes")
# A run ends with its card, and is published where that was asked for.
EXCEPTIONS = {("training/results.py", "hub"), ("training/steps.py", "hub")}


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hfcap."):
            yield node.module.split(".")[1]


def test_no_room_imports_from_a_higher_floor():
    upward = set()
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        room = name.split("/")[0]
        if room in FLOORS:
            above = FLOORS[FLOORS.index(room) + 1 :]
            upward |= {(name, other) for other in imported_rooms(path) if other in above}
    assert upward == EXCEPTIONS
