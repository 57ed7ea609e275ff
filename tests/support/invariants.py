"""What must hold of everything that a run left behind: looked at afterwards, without a line of the operator's own code.

| id | what is looked at |
|---|---|
| S1 | every row that was written or seen is within the baseline or a stage that was entered by then |
| S2 | no raise after a revert but by another generation; a revert leaves a latch |
| S3 | epochs of raises never go down, and neither ledger nor ownership remembers a smaller one |
| S4 | no raise of a flag that somebody else changed, but by another generation |
| S5 | the audit replays from the baseline to the rows |
| S6 | an operation is there once, sequences go up, a stage is entered once |
| S7 | a raise is whole; readers saw nothing but the states between operations, in their order |
| S8 | what the plan does not name is as it was, byte by byte |
| S14 | a flag is written for its one owner, and owned by a rollout that is open |
| S15 | a deletion raises nothing, leaves what `onDelete` says, releases the flags and closes the audit |
| S17 | no password and no server's text in anything that was said |
| S18 | what the metrics read is as it was |
| S19 | a revert leaves the meet of the row and its target |
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any

from support.audit import REVERTS, Row, violations

Rows = Mapping[str, Row]
Entry = Mapping[str, Any]

# Words of PostgreSQL, libpq and psycopg that no message of ours has.
SERVER_TEXT = (
    "could not extend file",
    "No space left on device",
    "terminating connection",
    "server closed the connection",
    "canceling statement",
    "FATAL:",
    "DETAIL:",
    "HINT:",
    "psycopg.errors",
)


@dataclass(frozen=True)
class History:
    """What a run left behind. Pairs are (before the run, after it)."""

    audit: Sequence[Entry]
    baseline: Rows
    rows: Rows
    # Each stage's exposure of the flags that it names, by its name.
    stages: Mapping[str, Rows]
    # What an action lowers to, by the reason of its audit.
    targets: Mapping[str, Row] = field(default_factory=dict)
    ledgers: Sequence[Entry] = ()
    ownership: Sequence[Entry] = ()
    # All rows as a reader saw them, whenever they were others than before.
    seen: Sequence[Rows] = ()
    frame: tuple[object, object] = ((), ())
    measured: tuple[object, object] = ((), ())
    said: str = ""
    secrets: Sequence[str] = ()
    deleted_at: datetime | None = None
    # What the rows must be when the rollout is gone; None while it is there.
    left: Rows | None = None


def check(history: History) -> list[str]:
    """Every violation, in words that begin with the invariant's id."""
    found = violations(history.audit, history.baseline, history.rows)
    return found + [f"{id_}: {text}" for id_, look in CHECKS for text in look(history)]


def within(a: Row, b: Row) -> bool:
    """The order on exposure: whether nobody gains the flag by going from b to a."""
    if not a[0] or a[1] == 0:
        return True
    return b[0] and a[1] <= b[1] and (not b[2] or (bool(a[2]) and a[2] <= b[2]))


def meet(row: Row, target: Row) -> Row:
    common = row[2] & target[2]
    if row[2] and target[2] and not common:
        return False, min(row[1], target[1]), row[2]
    return row[0] and target[0], min(row[1], target[1]), common or row[2] | target[2]


def exposure(of: Mapping[str, Any]) -> Row:
    return of["enabled"], int(of["percentage"]), frozenset(of["groups"])


def _ceiling(history: History) -> Iterator[str]:
    allowed = {flag: [row] for flag, row in history.baseline.items()}
    by_hand: set[str] = set()
    for entry in history.audit:
        flag, after = entry["flag"], exposure(entry["after"])
        if entry["kind"] == "Manual":
            by_hand.add(flag)
            continue
        by_hand.discard(flag)
        if entry["kind"] == "Raise":
            allowed[flag].append(history.stages[entry["stage"]][flag])
        if not any(within(after, ceiling) for ceiling in allowed[flag]):
            yield f"audit {entry['id']} leaves {flag} at {after}"
    for flag, row in history.rows.items():
        if flag not in by_hand and not any(within(row, ceiling) for ceiling in allowed[flag]):
            yield f"the row of {flag} is {row}"


def _latch(history: History) -> Iterator[str]:
    last = {entry["ledger_key"]: entry for entry in history.audit if entry["kind"] in ("Raise", "Lower")}
    for ledger in history.ledgers:
        entry = last.get(ledger["key"])
        reverted = entry is not None and entry["reason"] in REVERTS
        # A later attempt may not have raised yet, and a closed row's latch is with the ownership of its flags.
        if reverted and ledger["latch"] is None and ledger["attempt"] == 1 and not ledger["closed_at"]:
            yield f"{ledger['key']} has reverted and has no latch"


def _fence(history: History) -> Iterator[str]:
    remembered = {row["flag"]: row["epoch"] for row in history.ownership}
    epochs = {row["key"]: row["epoch"] for row in history.ledgers}
    for entry in history.audit:
        if entry["kind"] != "Raise":
            continue
        if remembered.get(entry["flag"], entry["epoch"]) < entry["epoch"]:
            yield f"the ownership of {entry['flag']} forgets epoch {entry['epoch']}"
        if epochs.get(entry["ledger_key"], entry["epoch"]) < entry["epoch"]:
            yield f"the ledger row of {entry['ledger_key']} forgets epoch {entry['epoch']}"


def _people(history: History) -> Iterator[str]:
    generation: dict[str, int] = {}
    told: dict[str, int] = {}
    for entry in history.audit:
        flag = entry["flag"]
        if entry["kind"] == "Manual":
            told[flag] = generation.get(flag, 0)
            continue
        generation[flag] = entry["generation"]
        if entry["kind"] == "Raise" and entry["generation"] <= told.get(flag, -1):
            yield f"audit {entry['id']} raises {flag}, which somebody else had changed"


def _once(history: History) -> Iterator[str]:
    entered: set[tuple[object, ...]] = set()
    for entry in history.audit:
        what = entry["ledger_key"], entry["uid"], entry["generation"], entry["stage"], entry["flag"]
        if entry["kind"] == "Raise":
            if what in entered:
                yield f"audit {entry['id']} enters stage {entry['stage']} with {entry['flag']} a second time"
            entered.add(what)


def _atomic(history: History) -> Iterator[str]:
    now = dict(history.baseline)
    states = [dict(now)]
    for operation, entries in groupby(history.audit, key=lambda entry: entry["operation_id"]):
        done = list(entries)
        now |= {entry["flag"]: exposure(entry["after"]) for entry in done}
        states.append(dict(now))
        if done[0]["kind"] == "Raise":
            for flag, row in history.stages[done[0]["stage"]].items():
                if now[flag] != row:
                    yield f"{operation} leaves {flag} at {now[flag]}, stage {done[0]['stage']} has {row}"
    reached = 0
    for seen in history.seen:
        at = next((at for at in range(reached, len(states)) if states[at] == seen), None)
        if at is None:
            different = {flag: row for flag, row in seen.items() if states[reached].get(flag) != row}
            yield f"a reader saw {different}, which no operation left after the state that was seen before"
        else:
            reached = at


def _frame(history: History) -> Iterator[str]:
    before, after = history.frame
    if before != after:
        yield f"what the plan does not name was {before} and is {after}"


def _owner(history: History) -> Iterator[str]:
    closed = {row["key"]: row["closed_at"] for row in history.ledgers}
    writer: dict[str, str] = {}
    for entry in history.audit:
        if entry["kind"] not in ("Raise", "Lower"):
            continue
        flag, key = entry["flag"], entry["ledger_key"]
        before = writer.get(flag, key)
        if before != key and not (closed.get(before) and closed[before] <= entry["at"]):
            yield f"audit {entry['id']} writes {flag} for {key} while {before} has it"
        writer[flag] = key
    for row in history.ownership:
        if row["owner"] is not None and (row["owner"] not in closed or closed[row["owner"]] is not None):
            yield f"{row['flag']} is owned by {row['owner']}, which is not open"


def _deletion(history: History) -> Iterator[str]:
    for entry in history.audit:
        if history.deleted_at and entry["kind"] == "Raise" and entry["at"] > history.deleted_at:
            yield f"audit {entry['id']} raises {entry['flag']} after the deletion"
    if history.left is None:
        return
    for flag, row in history.left.items():
        if history.rows[flag] != row:
            yield f"the rollout is gone and {flag} is {history.rows[flag]}, not {row}"
    for owned in history.ownership:
        if owned["owner"] is not None:
            yield f"the rollout is gone and {owned['flag']} is owned by {owned['owner']}"
    for ledger in history.ledgers:
        if ledger["closed_at"] is None:
            yield f"the rollout is gone and {ledger['key']} is open"
        elif any(entry["at"] > ledger["closed_at"] for entry in history.audit if entry["ledger_key"] == ledger["key"]):
            yield f"the audit goes on after {ledger['key']} was closed"


def _leaks(history: History) -> Iterator[str]:
    # A password must not be in the report either.
    yield from ("a password was said" for secret in history.secrets if secret in history.said)
    yield from (f"a server's text was said: {text}" for text in SERVER_TEXT if text in history.said)


def _metrics(history: History) -> Iterator[str]:
    before, after = history.measured
    if before != after:
        yield f"the digest of what metrics read was {before} and is {after}"


def _exact(history: History) -> Iterator[str]:
    for entry in history.audit:
        if entry["reason"] in history.targets:
            before, after = exposure(entry["before"]), exposure(entry["after"])
            target = history.targets[entry["reason"]]
            if after != meet(before, target):
                yield f"audit {entry['id']} goes from {before} to {after}, not to its meet with {target}"


Check = Callable[[History], Iterator[str]]
CHECKS: Sequence[tuple[str, Check]] = (
    ("S1", _ceiling),
    ("S2", _latch),
    ("S3", _fence),
    ("S4", _people),
    ("S6", _once),
    ("S7", _atomic),
    ("S8", _frame),
    ("S14", _owner),
    ("S15", _deletion),
    ("S17", _leaks),
    ("S18", _metrics),
    ("S19", _exact),
)
