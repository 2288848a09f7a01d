"""`hfcap alt check`: the findings of documents as text, JSON or SARIF."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hfcap import __version__
from hfcap.applications.apply import count_sources, find_picture
from hfcap.applications.documents import Document, find_documents, read_document
from hfcap.applications.lint import RULES, Finding, document_findings
from hfcap.applications.texts import DocumentError
from hfcap.counts import counted
from hfcap.errors import printable

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def check_documents(paths: Sequence[str], rows: Sequence[dict[str, Any]] = ()) -> tuple[list[Finding], list[str]]:
    """Check documents, and return the findings, and in words how much was checked and what was left out.

    A missing alt is no finding where one of `rows` says that its picture is decorative.

    Raises:
        ConfigError: a path that does not exist, or no document.
    """
    files, notes = find_documents(paths)
    findings: list[Finding] = []
    num_pictures = 0
    for path in files:
        try:
            document = read_document(path)
        except (DocumentError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            findings.append(Finding(path.as_posix(), "", 1, 1, "unreadable", why))
            continue
        num_pictures += len(document.pictures)
        findings += document_findings(document, _decorative(document, rows))
    return findings, [f"{counted(len(files), 'file')}, {counted(num_pictures, 'picture')}", *notes]


def _decorative(document: Document, rows: Sequence[dict[str, Any]]) -> set[int]:
    """Return the numbers of the pictures that are decorative by decision; rows without their place do not count."""
    of_file = [row for row in rows if Path(row["file"]) == document.path]
    found, num_of_source = set(), count_sources(of_file)
    for row in of_file:
        if row["status"] == "decorative":
            with suppress(DocumentError):
                found.add(find_picture(document, row, num_of_source))
    return found


def as_text(findings: Sequence[Finding]) -> str:
    """Return a line per finding."""
    return "".join(f"{printable(str(finding))}\n" for finding in findings)


def summary(findings: Sequence[Finding]) -> str:
    """Return the number of findings of each level in words."""
    count = Counter(finding.level for finding in findings)
    return ", ".join(counted(count[level], level) for level in ("error", "warning", "note"))


def as_json(findings: Sequence[Finding]) -> str:
    """Return a JSON list of findings."""
    rows = [vars(finding) | {"level": finding.level} for finding in findings]
    return json.dumps(rows, indent=2, ensure_ascii=True) + "\n"


def as_sarif(findings: Sequence[Finding]) -> str:
    """Return the findings as SARIF 2.1.0 (docs.oasis-open.org/sarif), which code hosts show beside the lines."""
    rules = [
        {"id": rule, "shortDescription": {"text": text}, "defaultConfiguration": {"level": level}}
        for rule, (level, text) in RULES.items()
    ]
    driver = {"name": "hfcap alt check", "version": __version__, "rules": rules}
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": list(map(_sarif_result, findings)),
    }
    return json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _sarif_result(finding: Finding) -> dict:
    path = Path(finding.path)
    uri = path.as_uri() if path.is_absolute() else quote(os.fsencode(finding.path))
    physical = {
        "artifactLocation": {"uri": uri},
        "region": {"startLine": finding.line, "startColumn": finding.column},
    }
    location = {"physicalLocation": physical}
    if finding.part:  # the line is one of the member, and a region of the archive would be another place
        del physical["region"]
        location["logicalLocations"] = [{"fullyQualifiedName": f"{finding.part}:{finding.line}:{finding.column}"}]
    return {
        "ruleId": finding.rule,
        "ruleIndex": list(RULES).index(finding.rule),
        "level": finding.level,
        "message": {"text": finding.message},
        "locations": [location],
    }
