"""Phase and conditions while the metrics or the database are away, and what kstatus (Helm, Flux, Argo CD) says.

| fault | GuardsHealthy | FlagsInSync | Ready |
|---|---|---|---|
| none | True | True | as the phase says |
| metrics | False; True when completed | True | False; True when completed |
| database | Unknown | Unknown | False |
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from feature_rollout.core.calendar import Calendar, Freeze
from feature_rollout.core.decide import decide
from feature_rollout.core.decision import Decision, Phase, Verb, View
from feature_rollout.core.plan import Approval
from feature_rollout.core.status import picture, trouble_picture
from support.fakes import T0, ledger_in, plan, stage
from unit.core.test_status import GOOD, LATCH, PLAN, PREFLIGHT, view

FROZEN = Calendar("UTC", (), (Freeze(T0.date(), T0.date() + timedelta(days=9), "a freeze"),))
APPROVAL = plan(PLAN.stages[0], stage("half", ("bell", 50), approval=Approval(1)))
BAKED, ERROR = [GOOD] * 10, {"error": "timeout"}
SITUATIONS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "Preflight": ({"of": PREFLIGHT, "index": -1}, [GOOD]),
    "Baking": ({}, [GOOD]),
    "AwaitingApproval": ({"of": APPROVAL}, BAKED),
    "AwaitingWindow": ({"of": plan(calendar=FROZEN)}, BAKED),
    "Paused": ({"suspended": True}, [GOOD]),
    "RolledBack": ({"ledger": replace(ledger_in(PLAN, 0), latch=LATCH)}, [GOOD]),
    "Completed": ({"ledger": ledger_in(PLAN, 2, completed_at=T0)}, [GOOD]),
}
# Phase; Ready, Reconciling, Stalled, GuardsHealthy, FlagsInSync; what kstatus says.
WELL = ("True", "False", "False", "True", "True", "Current")
WAITS = ("False", "False", "False", "False", "True", "InProgress")
AWAY = ("False", "True", "False", "Unknown", "Unknown", "InProgress")
FAILED = ("False", "False", "True", "True", "True", "Failed")
TABLE = {
    ("Preflight", "none"): ("Preflight", *WELL),
    ("Preflight", "metrics"): ("Preflight", *WAITS),
    ("Preflight", "database"): ("Pending", *AWAY),
    ("Baking", "none"): ("Baking", *WELL),
    ("Baking", "metrics"): ("Held", *WAITS),
    ("Baking", "database"): ("Pending", *AWAY),
    ("AwaitingApproval", "none"): ("AwaitingApproval", *WELL),
    ("AwaitingApproval", "metrics"): ("Held", *WAITS),
    ("AwaitingApproval", "database"): ("Pending", *AWAY),
    ("AwaitingWindow", "none"): ("AwaitingWindow", *WELL),
    ("AwaitingWindow", "metrics"): ("Held", *WAITS),
    ("AwaitingWindow", "database"): ("Pending", *AWAY),
    ("Paused", "none"): ("Paused", *WELL),
    ("Paused", "metrics"): ("Paused", *WAITS),
    ("Paused", "database"): ("Pending", *AWAY),
    ("RolledBack", "none"): ("RolledBack", *FAILED),
    ("RolledBack", "metrics"): ("RolledBack", "False", "False", "True", "False", "True", "Failed"),
    # It needs a person all the same.
    ("RolledBack", "database"): ("RolledBack", "False", "False", "True", "Unknown", "Unknown", "Failed"),
    ("Completed", "none"): ("Completed", *WELL),
    ("Completed", "metrics"): ("Completed", *WELL),
    ("Completed", "database"): ("Pending", *AWAY),
}


def drawn(situation: str, fault: str) -> dict[str, Any]:
    given, looks = SITUATIONS[situation]
    of: View = view(looks=[*looks, ERROR] if fault == "metrics" else looks, **given)
    decision = decide(of)
    status = picture(of, decision, {}, 7, acted=decision)
    if fault != "database":
        return status
    away = Decision(Verb.HOLD, Phase.PENDING, "StoreUnreachable", "The database does not answer.")
    return trouble_picture(away, status, 7, of.now)


def kstatus(conditions: dict[str, str]) -> str:
    """As `pkg/kstatus` of sigs.k8s.io/cli-utils computes it for a kind that it does not know."""
    if conditions["Reconciling"] == "True":
        return "InProgress"
    if conditions["Stalled"] == "True":
        return "Failed"
    return "Current" if conditions["Ready"] == "True" else "InProgress"


@pytest.mark.parametrize(("situation", "fault"), TABLE, ids="-".join)
def test_phase_conditions_and_what_others_make_of_them(situation: str, fault: str) -> None:
    status = drawn(situation, fault)
    told = {c["type"]: c["status"] for c in status["conditions"]}
    kinds = ("Ready", "Reconciling", "Stalled", "GuardsHealthy", "FlagsInSync")
    assert (status["phase"], *(told[kind] for kind in kinds), kstatus(told)) == TABLE[situation, fault]
    assert [told["Ready"], told["Reconciling"], told["Stalled"]].count("True") <= 1
    assert all(c["message"] and c["reason"] for c in status["conditions"])


def test_every_situation_meets_every_fault() -> None:
    assert {(s, f) for s in SITUATIONS for f in ("none", "metrics", "database")} == set(TABLE)
