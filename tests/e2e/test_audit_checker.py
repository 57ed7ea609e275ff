"""The checker that ends every test of this folder finds what it is there to find: one planted violation each."""

from typing import Any

import pytest

from support.audit import Row, violations

OFF, TEN, HALF = (False, 0, frozenset[str]()), (True, 10, frozenset[str]()), (True, 50, frozenset[str]())
OFF_AGAIN = (False, 10, frozenset[str]())


def entry(number: int, before: Row, after: Row, kind: str = "Raise", **changes: Any) -> dict[str, Any]:
    def exposure(row: Row) -> dict[str, Any]:
        return {"enabled": row[0], "percentage": str(row[1]), "groups": sorted(row[2])}

    fields = {
        "id": number,
        "operation_id": f"key@{number}",
        "ledger_key": "key",
        "flag": "a",
        "before": exposure(before),
        "after": exposure(after),
        "kind": kind,
        "epoch": 1,
        "uid": "u-1",
        "generation": 1,
        "reason": "StageEntered",
        "at": number,
    }
    return {**fields, **changes}


GOOD = [entry(1, OFF, TEN), entry(2, TEN, HALF)]
REVERTED = [entry(1, OFF, TEN), entry(2, TEN, OFF_AGAIN, "Lower", reason="FlagsDisabled")]
PLANTED = [
    pytest.param([GOOD[0]], HALF, "S5", id="a-change-that-is-not-in-the-audit"),
    pytest.param([GOOD[1]], HALF, "S5", id="an-audit-row-that-is-missing"),
    pytest.param([*GOOD, entry(3, HALF, HALF)], HALF, "S5", id="an-audit-row-of-no-change"),
    pytest.param([entry(1, OFF, TEN, epoch=2), GOOD[1]], HALF, "S3", id="an-epoch-that-goes-down"),
    pytest.param([*REVERTED, entry(3, OFF_AGAIN, TEN)], TEN, "S2", id="a-raise-after-a-revert"),
    pytest.param(
        [GOOD[0], entry(2, TEN, HALF, operation_id="key@1")], HALF, "S6", id="an-operation-that-is-done-twice"
    ),
    pytest.param([entry(2, OFF, TEN), entry(1, TEN, HALF)], HALF, "S6", id="a-sequence-that-goes-back"),
]


@pytest.mark.parametrize(("audit", "row", "invariant"), PLANTED)
def test_a_planted_violation_is_found(audit: list[dict[str, Any]], row: Row, invariant: str) -> None:
    found = violations(audit, {"a": OFF}, {"a": row})
    assert {text.partition(":")[0] for text in found} == {invariant}


def test_a_good_audit_has_none() -> None:
    assert violations(GOOD, {"a": OFF}, {"a": HALF}) == []
    rearmed = [*REVERTED, entry(3, OFF_AGAIN, TEN, generation=2)]
    assert violations(rearmed, {"a": OFF}, {"a": TEN}) == []


def test_a_raise_after_a_persons_retry_is_no_violation_and_after_an_earlier_one_is() -> None:
    audit = [*REVERTED, entry(4, OFF_AGAIN, TEN)]
    retry = {"ledger_key": "key", "type": "Retry", "outcome": "Applied", "at": 3}
    assert violations(audit, {"a": OFF}, {"a": TEN}, actions=[retry]) == []
    for wrong in ({"at": 1}, {"outcome": "Refused"}, {"type": "Resume"}, {"ledger_key": "other"}):
        (found,) = violations(audit, {"a": OFF}, {"a": TEN}, actions=[{**retry, **wrong}])
        assert found.startswith("S2")
