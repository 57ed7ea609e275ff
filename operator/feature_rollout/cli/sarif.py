"""The findings of `lint` for other programs: as plain JSON, and as SARIF 2.1.0, which code hosts show in a review."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from feature_rollout import __version__

if TYPE_CHECKING:
    from feature_rollout.api.lint import Finding
    from feature_rollout.api.manifests import Document

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
# `RollbackMatrix/strict spec.rows[0]: …` or `spec.stages[0]: …`: the object, if it is another one, and the path in it.
_PATH = re.compile(r"(?:(?P<object>[A-Za-z]+/\S+) )?(?P<path>[^\s:]+):")


def records(findings: Iterable[Finding], documents: Sequence[Document]) -> list[dict[str, Any]]:
    """An object a finding; `line` is that of the field, or null where it is not known."""
    places = {str(document): document for document in documents}
    return [_record(finding, places) for finding in findings]


def sarif(findings: Iterable[Finding], documents: Sequence[Document]) -> dict[str, Any]:
    """The log of one run."""
    from feature_rollout.api.lint import DESCRIPTIONS

    rules = [{"id": str(check), "shortDescription": {"text": text}} for check, text in DESCRIPTIONS.items()]
    order = [rule["id"] for rule in rules]
    driver = {"name": "featurerollout lint", "version": __version__, "rules": rules}
    results = [
        {
            "ruleId": record["check"],
            "ruleIndex": order.index(record["check"]),
            "level": record["level"],
            "message": {"text": record["text"]},
            "locations": [_location(record)],
        }
        for record in records(findings, documents)
    ]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _record(finding: Finding, places: dict[str, Document]) -> dict[str, Any]:
    document, found = places[finding.where], _PATH.match(finding.text)
    path = found["path"] if found else ""
    if found and found["object"]:
        # What a rollout finds wrong in its matrix is shown in the matrix.
        document = next((d for name, d in places.items() if name.endswith(f"/{found['object']}")), document)
    return {
        "level": str(finding.level),
        "check": str(finding.check),
        "where": finding.where,
        "file": document.file,
        "line": document.line(path),
        "text": finding.text,
    }


def _location(record: dict[str, Any]) -> dict[str, Any]:
    path = Path(record["file"])
    physical: dict[str, Any] = {
        "artifactLocation": {"uri": path.as_uri() if path.is_absolute() else quote(path.as_posix())}
    }
    if record["line"] is not None:
        physical["region"] = {"startLine": record["line"]}
    return {"physicalLocation": physical, "logicalLocations": [{"fullyQualifiedName": record["where"]}]}
