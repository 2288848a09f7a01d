"""Numbers with their nouns, in messages and reports."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 file`, `2 files`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"
