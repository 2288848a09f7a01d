"""Cells of CSV files that people open in spreadsheets, which run what begins like a formula."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the beginning of one


def safe_cell(cell: str) -> str:
    """Return a cell that no spreadsheet runs as a formula: names and text of others may begin like one."""
    return "'" + cell if cell.startswith(_FORMULA) else cell


def plain_cell(cell: str) -> str:
    """Return what `safe_cell` was given."""
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(_FORMULA) else cell
