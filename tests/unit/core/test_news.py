"""What others are told of although nothing was done: by what was said last, and what is said now."""

from typing import Any

import pytest

from feature_rollout.core.decision import Decision, Phase, Verb
from feature_rollout.core.news import news


def said(reason: str | None, *, stalled: bool = False) -> dict[str, Any]:
    """A status."""
    if reason is None:
        return {}
    return {"conditions": [{"type": "Stalled", "status": str(stalled), "reason": reason}]}


def decision(reason: str, *, stalled: bool = False) -> Decision:
    return Decision(Verb.HOLD, Phase.HELD, reason, "", stalled=stalled)


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        pytest.param(said("Baking"), decision("HoldAction"), "Hold", id="the matrix holds"),
        pytest.param(said("HoldAction"), decision("HoldAction"), "", id="it still does"),
        pytest.param(said("HoldAction"), decision("EvidenceAgainst"), "Recover", id="it does not any more"),
        pytest.param(said("Baking"), decision("EvidenceAgainst"), "", id="evidence comes and goes"),
        pytest.param(said("Baking"), decision("GuardsBlind"), "", id="blind guards have an alert"),
        pytest.param(said("Baking"), decision("StageOverdue", stalled=True), "Hold", id="it stalls"),
        pytest.param(said("StoreBusy"), decision("StoreBusy", stalled=True), "Hold", id="it has not healed by waiting"),
        pytest.param(said("StoreBusy", stalled=True), decision("StoreBusy", stalled=True), "", id="it still has not"),
        pytest.param(said("StageOverdue", stalled=True), decision("Conflict", stalled=True), "Hold", id="for another"),
        pytest.param(said("Conflict", stalled=True), decision("Baking"), "Recover", id="it goes on"),
        pytest.param(said("Conflict", stalled=True), decision("AwaitingApproval"), "Hold", id="it waits for a person"),
        pytest.param(said("AwaitingApproval"), decision("Baking"), "", id="the person was told as well"),
        pytest.param(said("Baking"), decision("ManualChange"), "Hold", id="people win"),
        pytest.param(said("Baking"), decision("RolledBack", stalled=True), "", id="a revert is told by itself"),
        pytest.param(said("RolledBack", stalled=True), decision("Baking"), "", id="and so is its end"),
        pytest.param(said("HoldAction"), decision("RolledBack", stalled=True), "", id="a hold that became one"),
        pytest.param(said(None), decision("Pending"), "", id="nothing was said before"),
        pytest.param(said(None), decision("InvalidPlan", stalled=True), "Hold", id="wrong from the start"),
    ],
)
def test_news(before: dict[str, Any], now: Decision, told: str) -> None:
    assert news(now, before) == told
