"""The checker that ends every story finds what it is there to find: one made-up history a way to break an invariant."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from support.audit import Row
from support.invariants import SERVER_TEXT, History, check, meet, within

EVERYONE: frozenset[str] = frozenset()
OFF, TEN, HALF = (False, 0, EVERYONE), (True, 10, EVERYONE), (True, 50, EVERYONE)
REVERTED, TEN_OFF = (False, 50, EVERYONE), (False, 10, EVERYONE)
ADMINS = frozenset({"admin"})
STAGES = {"ten": {"a": TEN, "b": TEN}, "half": {"a": HALF, "b": HALF}}


def exposure(row: Row) -> dict[str, Any]:
    return {"enabled": row[0], "percentage": str(row[1]), "groups": sorted(row[2])}


def entry(number: int, flag: str, before: Row, after: Row, **changes: Any) -> dict[str, Any]:
    stage = {TEN: "ten", HALF: "half"}.get(after, "")
    fields = {
        "id": number * 2 + (flag == "b"),
        "at": number,
        "operation_id": f"key@{number}",
        "ledger_key": "key",
        "flag": flag,
        "before": exposure(before),
        "after": exposure(after),
        "kind": "Raise" if stage else "Lower",
        "epoch": 3,
        "uid": "u-1",
        "generation": 1,
        "stage": stage,
        "reason": "StageEntered" if stage else "FlagsDisabled",
    }
    return {**fields, **changes}


def both(number: int, before: Row, after: Row, **changes: Any) -> list[dict[str, Any]]:
    return [entry(number, flag, before, after, **changes) for flag in ("a", "b")]


def state(row: Row) -> dict[str, Row]:
    return {"a": row, "b": row}


LEDGER: dict[str, Any] = {"key": "key", "epoch": 3, "attempt": 1, "latch": {"stage": "half"}, "closed_at": None}
OWNED = [{"flag": flag, "owner": "key", "epoch": 3} for flag in ("a", "b")]
RAISED = [*both(1, OFF, TEN), *both(2, TEN, HALF)]
GOOD = History(
    audit=[*RAISED, *both(3, HALF, REVERTED)],
    baseline=state(OFF),
    rows=state(REVERTED),
    stages=STAGES,
    targets={"FlagsDisabled": (False, 100, EVERYONE)},
    ledgers=[LEDGER],
    ownership=OWNED,
    seen=[state(OFF), state(HALF), state(REVERTED)],
    said="all is well",
    secrets=["hunter2"],
)
GONE = replace(
    GOOD,
    ledgers=[{**LEDGER, "closed_at": 9}],
    ownership=[{**row, "owner": None} for row in OWNED],
    deleted_at=3,  # type: ignore[arg-type] - the made-up clock counts from one
    left=state(REVERTED),
)


def ended(audit: list[dict[str, Any]], **rows: Row) -> dict[str, Any]:
    """An audit and the rows that it ends with, and nothing that was seen."""
    return {"audit": audit, "rows": {**state(REVERTED), **rows}, "seen": []}


def by_hand(number: int, before: Row, after: Row) -> dict[str, Any]:
    changes = {"kind": "Manual", "reason": "ManualChange", "generation": 0, "operation_id": "other", "stage": ""}
    return entry(number, "a", before, after, **changes)


MORE = (True, 90, EVERYONE)
PLANTED: list[tuple[str, str, Mapping[str, Any]]] = [
    (
        "S1",
        "a row above its stage",
        ended([*RAISED, *both(3, HALF, MORE, kind="Lower", reason="Rounded")], **state(MORE)),
    ),
    ("S1 S5", "a row above every stage that no audit has", {"rows": {"a": MORE, "b": REVERTED}}),
    ("S2", "a revert without a latch", {"ledgers": [{**LEDGER, "latch": None}]}),
    (
        "S2",
        "a raise after a revert",
        ended([*both(1, OFF, TEN), *both(2, TEN, TEN_OFF), *both(3, TEN_OFF, HALF)], **state(HALF)),
    ),
    ("S3", "an ownership that forgets an epoch", {"ownership": [{**row, "epoch": 2} for row in OWNED]}),
    ("S3", "a ledger row that forgets an epoch", {"ledgers": [{**LEDGER, "epoch": 2}]}),
    (
        "S3",
        "an epoch that goes down",
        ended([*both(1, OFF, TEN, epoch=3), *both(2, TEN, HALF, epoch=2), *both(3, HALF, REVERTED)]),
    ),
    (
        "S4",
        "a raise over a person's change",
        ended(
            [*both(1, OFF, TEN), by_hand(2, TEN, OFF), entry(3, "a", OFF, HALF), entry(3, "b", TEN, HALF)],
            **state(HALF),
        ),
    ),
    ("S5", "a change that no audit has", {"rows": {"a": HALF, "b": REVERTED}}),
    ("S5 S7", "an audit row that was lost", ended([*RAISED[1:], *both(3, HALF, REVERTED)])),
    (
        "S6",
        "a stage that is entered twice",
        ended([*both(1, OFF, TEN), *both(2, TEN, OFF, reason="Other"), *both(3, OFF, TEN)], **state(TEN)),
    ),
    (
        "S6",
        "a sequence that goes back",
        ended([*both(2, OFF, TEN), *both(1, TEN, HALF), *both(3, HALF, REVERTED)]),
    ),
    ("S7", "a raise of one of two flags", ended([RAISED[0]], a=TEN, b=OFF)),
    ("S7", "half of a raise, seen", {"seen": [state(OFF), {"a": TEN, "b": OFF}]}),
    ("S7", "what was before, seen again", {"seen": [state(HALF), state(TEN)]}),
    ("S8", "a row that the plan does not name", {"frame": ("other row", "another row")}),
    (
        "S14",
        "a second writer of a flag",
        ended([*RAISED, *both(3, HALF, REVERTED, ledger_key="other", operation_id="other@1")]),
    ),
    ("S14", "an owner that is not there", {"ownership": [{**OWNED[0], "owner": "nobody"}, OWNED[1]]}),
    ("S17", "a password in a log", {"said": "cannot connect with hunter2"}),
    *(("S17", f"a server's text: {text}", {"said": f"Ready=False: {text}"}) for text in SERVER_TEXT),
    ("S18", "a metric that writes", {"measured": ("digest", "another digest")}),
    ("S19", "a revert that writes something else", ended([*RAISED, *both(3, HALF, OFF)], **state(OFF))),
]
PLANTED_AFTER_DELETION: list[tuple[str, Mapping[str, Any]]] = [
    ("a raise after the deletion", {"deleted_at": 1}),
    ("rows that are not what onDelete says", {"left": state(OFF)}),
    ("a ledger row that is open", {"ledgers": [{**LEDGER, "closed_at": None}]}),
    ("an audit that goes on", {"ledgers": [{**LEDGER, "closed_at": 2}]}),
    ("flags that are still owned", {"ownership": OWNED}),
]


def ids(history: History) -> set[str]:
    return {text.partition(":")[0] for text in check(history)}


@pytest.mark.parametrize(("invariants", "changes"), [pytest.param(i, c, id=name) for i, name, c in PLANTED])
def test_a_planted_violation_is_found(invariants: str, changes: Mapping[str, Any]) -> None:
    assert ids(replace(GOOD, **changes)) == set(invariants.split())


@pytest.mark.parametrize("changes", [pytest.param(c, id=name) for name, c in PLANTED_AFTER_DELETION])
def test_a_planted_violation_after_a_deletion_is_found(changes: Mapping[str, Any]) -> None:
    assert "S15" in ids(replace(GONE, **changes))


def test_a_good_history_has_none() -> None:
    assert check(GOOD) == []
    assert check(GONE) == []


def test_people_may_do_what_they_like_and_another_generation_goes_on() -> None:
    hand = [*both(1, OFF, TEN), by_hand(2, TEN, MORE)]
    rows = {"a": MORE, "b": TEN}
    assert check(replace(GOOD, audit=hand, rows=rows, seen=[rows])) == []
    told = [*hand, entry(3, "a", MORE, HALF, kind="Raise", generation=2), entry(3, "b", TEN, HALF, generation=2)]
    assert check(replace(GOOD, audit=told, rows=state(HALF), seen=[state(HALF)])) == []


@pytest.mark.parametrize(
    ("a", "b", "is_within", "both"),
    [
        (TEN, HALF, True, TEN),
        (HALF, TEN, False, TEN),
        (OFF, TEN, True, OFF),
        (REVERTED, TEN, True, (False, 10, EVERYONE)),
        ((True, 100, ADMINS), HALF, False, (True, 50, ADMINS)),
        ((True, 50, EVERYONE), (True, 100, ADMINS), False, (True, 50, ADMINS)),
        ((True, 50, ADMINS), (True, 50, frozenset({"beta"})), False, (False, 50, ADMINS)),
    ],
)
def test_order_and_meet(a: Row, b: Row, is_within: bool, both: Row) -> None:
    assert within(a, b) == is_within
    assert meet(a, b) == both
