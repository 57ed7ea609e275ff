"""Taking exposure back, and what is said of it: the end of an object, a revert that was lost, whose rows are left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from feature_rollout.core.decision import Decision, Phase, Verb, View
from feature_rollout.core.exposure import DISABLED
from feature_rollout.core.guards import Guard, GuardState
from feature_rollout.core.people import Order, RollBackTo
from feature_rollout.core.plan import Action, ActionType, OnBlind, OnDelete, OnDrift, Severity
from feature_rollout.core.progress import Progress
from feature_rollout.core.reverts import breached, met, not_measured, release, restored
from feature_rollout.core.state import Breach, Latch
from support.fakes import OFF, T0, above, exposure, ledger_in, minutes, plan, row, stage

NOW = T0 + minutes(40)
BREACH = Breach(Severity.HIGH, "errors", "errors above 1%", "20%", "1%", 5.0, T0, minutes(5), "ReducePercentage")
ORDER = Order("alice", RollBackTo.OFF, "users complain", T0, "DisableFlags")


def view(*, severity: Severity = Severity.HIGH, action: ActionType = ActionType.DISABLE_FLAGS, **changes: Any) -> View:
    """In the first of two flags' stages, with one guard that is breached, or of which `guard` says something else."""
    of = plan(
        stage("ten", ("bell", 10), ("menu", 10)),
        rows=[row(severity, above(), action=Action(action))],
        on_blind=OnBlind.REVERT,
    )
    guard = Guard(of.rows[0], of.rows[0].clauses[0], GuardState.BREACHED, 0.2, 5.0, T0, limit="1%")
    entered = replace(ledger_in(of, 0), **changes.pop("ledger", {}))
    guards = (replace(guard, **changes.pop("guard", {})),)
    return replace(View(of, entered, dict(entered.written), Progress(), guards, NOW), **changes)


@pytest.mark.parametrize("on_delete", list(OnDelete))
def test_what_is_said_of_a_deleted_rollout(on_delete: OnDelete) -> None:
    decision = release(ledger_in(plan(), 0), on_delete)
    assert decision.reason == "Released"
    assert decision.message == f"The rollout was deleted; onDelete is {on_delete}."


@pytest.mark.parametrize(
    ("cause", "verb", "words"),
    [
        (BREACH, Verb.REDUCE_PERCENTAGE, ": errors was 20%, limit 1% (High)"),
        (ORDER, Verb.DISABLE_FLAGS, ' by alice: "users complain"'),
        (replace(ORDER, reason=""), Verb.DISABLE_FLAGS, " by alice"),
    ],
    ids=["by a breach", "by a person", "by a person who gave no reason"],
)
def test_a_revert_that_the_database_has_lost_is_made_again(cause: Breach | Order, verb: Verb, words: str) -> None:
    lost = ledger_in(plan(), 1, latch=Latch(cause, "half", "v1:x", T0), written={"bell": exposure(10)})
    assert restored(lost) == Decision(
        verb,
        Phase.ROLLED_BACK,
        "RevertRestored",
        f"The database had lost the revert{words}; it was made again.",
        targets={"bell": exposure(10)},
        breach=cause if cause is BREACH else None,
        order=cause if cause is not BREACH else None,
    )


def test_two_lowerings_as_one_go_as_far_as_each() -> None:
    one = {"bell": exposure(10), "menu": exposure(5)}
    assert met(one, {"bell": exposure(50, "staff"), "old": OFF}) == {
        "bell": exposure(10, "staff"),
        "menu": exposure(5),
        "old": OFF,
    }


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        pytest.param(view(), "errors is 20%, above 1%: a High breach.", id="a breach"),
        pytest.param(
            view(severity=Severity.LOW), "errors is 20%, above 1%: a Low breach.", id="a row of the lowest severity too"
        ),
        pytest.param(
            view(action=ActionType.ROLL_BACK_DATABASE),
            "errors is 20%, above 1%: a High breach. "
            "The flags are disabled; the rollback script was not run, this version cannot.",
            id="a rollback of the database",
        ),
        pytest.param(
            view(rows={"bell": OFF, "menu": exposure(5, enabled=False)}),
            "errors is 20%, above 1%: a High breach. "
            "Left as somebody else has made them, which is low enough: bell, menu.",
            id="rows that somebody else has lowered",
        ),
        pytest.param(
            view(guard={"state": GuardState.BLIND, "blind_since": T0, "note": "errors: timeout"}),
            "errors could not be measured (errors: timeout); onBlind is Revert, as for a High breach.",
            id="not measured for as long as the row may take",
        ),
    ],
)
def test_what_is_said_of_a_revert(seen: View, message: str) -> None:
    decision = breached(seen) or not_measured(seen)
    assert decision is not None
    assert decision.message == message


def test_of_what_was_not_measured_the_onset_is_that_of_the_failures() -> None:
    seen = view(guard={"state": GuardState.BLIND, "blind_since": T0 + minutes(1), "onset_at": None})
    decision = not_measured(seen)
    assert decision is not None
    assert decision.breach is not None
    assert (decision.breach.value, decision.breach.onset_at) == ("not measured", T0 + minutes(1))


def test_of_a_breach_without_a_run_the_onset_is_now() -> None:
    decision = breached(view(guard={"onset_at": None}))
    assert decision is not None
    assert decision.breach is not None
    assert decision.breach.onset_at == NOW


@pytest.mark.parametrize(
    ("guard", "lowers"),
    [
        pytest.param({"blind_since": T0 + minutes(10)}, True, id="for just as long as the row may take"),
        pytest.param({"blind_since": T0 + minutes(10.1)}, False, id="not for so long"),
        pytest.param({"blind_since": None}, False, id="a hiccup"),
    ],
)
def test_how_long_a_guard_may_be_blind(guard: dict[str, Any], lowers: bool) -> None:
    assert (not_measured(view(guard={"state": GuardState.BLIND, **guard})) is not None) is lowers


@pytest.mark.parametrize(
    ("changes", "acts"),
    [
        pytest.param({"acted": frozenset({Severity.MEDIUM})}, True, id="a less severe row has acted"),
        pytest.param({"acted": frozenset({Severity.HIGH})}, False, id="this one has"),
        pytest.param({"acted": frozenset({Severity.LOW, Severity.CRITICAL})}, False, id="a more severe one has"),
        pytest.param({"written": {"bell": OFF, "menu": OFF}}, False, id="nothing is raised"),
        pytest.param({"completed_at": T0}, False, id="the rollout is over"),
    ],
)
def test_whether_a_breached_row_acts(changes: dict[str, Any], acts: bool) -> None:
    assert (breached(view(ledger=changes)) is not None) is acts


BELL_OFF = exposure(10, enabled=False)


@pytest.mark.parametrize(
    ("changes", "targets"),
    [
        pytest.param({}, {"bell", "menu"}, id="as the operator left them"),
        pytest.param({"rows": {"bell": exposure(5), "menu": exposure(10)}}, {"bell", "menu"}, id="lowered, not enough"),
        pytest.param({"rows": {"bell": BELL_OFF, "menu": exposure(10)}}, {"menu"}, id="lowered enough by somebody"),
        pytest.param(
            {"rows": {"bell": BELL_OFF, "menu": exposure(10)}, "unfinished": True},
            {"bell", "menu"},
            id="lowered by what was not finished",
        ),
        pytest.param(
            {"rows": {"bell": exposure(3, enabled=False), "menu": exposure(10)}, "unfinished": True},
            {"menu"},
            id="not what that would have left",
        ),
        pytest.param(
            {"rows": {"bell": BELL_OFF, "menu": exposure(10)}, "on_drift": OnDrift.LOWER_ONLY},
            {"bell", "menu"},
            id="with LowerOnly nobody's row is left",
        ),
    ],
)
def test_whose_rows_are_lowered(changes: dict[str, Any], targets: set[str]) -> None:
    decision = breached(view(**changes))
    assert decision is not None
    assert decision.targets == dict.fromkeys(sorted(targets), DISABLED)
