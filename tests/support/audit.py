"""What must hold of an audit table (invariants.md), looked at after the fact and without the operator's own code."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

Row = tuple[bool, int, frozenset[str]]
REVERTS = frozenset({"FlagsDisabled", "PercentageReduced", "RestrictedToGroups", "RevertRestored"})


def violations(
    audit: Sequence[Mapping[str, Any]],
    baseline: Mapping[str, Row],
    rows: Mapping[str, Row],
    changed_by_hand: AbstractSet[str] = frozenset(),
    actions: Sequence[Mapping[str, Any]] = (),
) -> list[str]:
    """Every violation of S2, S3, S5 and S6, in words.

    `changed_by_hand` are flags that the test itself has changed, `actions` what became of RolloutActions.
    """
    return [
        *_replay(audit, baseline, rows, changed_by_hand),
        *_epochs(audit),
        *_raises_after_reverts(audit, actions),
        *_operations(audit),
    ]


def _replay(
    audit: Sequence[Mapping[str, Any]], baseline: Mapping[str, Row], rows: Mapping[str, Row], by_hand: AbstractSet[str]
) -> list[str]:
    found, now = [], dict(baseline)
    for entry in audit:
        flag, before, after = entry["flag"], _row(entry["before"]), _row(entry["after"])
        if flag not in by_hand and now.get(flag) != before:
            found.append(f"S5: audit {entry['id']} says that {flag} was {before}, it was {now.get(flag)}")
        if (before == after) != (entry["kind"] == "Released"):
            found.append(f"S5: audit {entry['id']} of kind {entry['kind']} goes from {before} to {after}")
        now[flag] = after
    found += [
        f"S5: the audit leaves {flag} at {now[flag]}, the row is {rows.get(flag)}"
        for flag in now
        if flag not in by_hand and now[flag] != rows.get(flag)
    ]
    return found


def _epochs(audit: Sequence[Mapping[str, Any]]) -> list[str]:
    found, highest = [], defaultdict[str, int](int)
    for entry in audit:
        if entry["kind"] == "Raise":
            if entry["epoch"] < highest[entry["flag"]]:
                found.append(f"S3: audit {entry['id']} raises {entry['flag']} with epoch {entry['epoch']}")
            highest[entry["flag"]] = max(highest[entry["flag"]], entry["epoch"])
    return found


def _raises_after_reverts(audit: Sequence[Mapping[str, Any]], actions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Only another plan begins another attempt, and an edit is another generation; or a person's Retry in between."""
    found, reverted = [], dict[tuple[str, str], Mapping[str, Any]]()
    for entry in audit:
        key = (entry["ledger_key"], entry["uid"])
        revert = reverted.get(key)
        if entry["reason"] in REVERTS:
            reverted[key] = entry
        elif entry["kind"] != "Raise" or revert is None or entry["generation"] > revert["generation"]:
            continue
        elif not any(
            (action["ledger_key"], action["type"], action["outcome"]) == (key[0], "Retry", "Applied")
            and revert["at"] < action["at"] < entry["at"]
            for action in actions
        ):
            found.append(f"S2: audit {entry['id']} raises {entry['flag']} after a revert")
    return found


def _operations(audit: Sequence[Mapping[str, Any]]) -> list[str]:
    seen = [(entry["operation_id"], entry["flag"]) for entry in audit]
    found = [f"S6: {operation} changes {flag} twice" for operation, flag in seen if seen.count((operation, flag)) > 1]
    sequences: dict[str, int] = {}
    for entry in audit:
        key, _, number = entry["operation_id"].rpartition("@")
        if number.isdigit():
            if int(number) < sequences.get(key, 0):
                found.append(f"S6: audit {entry['id']} has sequence {number} after {sequences[key]}")
            sequences[key] = int(number)
    return found


def _row(exposure: Mapping[str, Any]) -> Row:
    return exposure["enabled"], int(exposure["percentage"]), frozenset(exposure["groups"])
