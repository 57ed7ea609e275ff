"""What Argo CD makes of our objects with the scripts of gitops/argocd, run by Lua 5.1.

| subject | what |
|---|---|
| health | that of `core.health`, in every situation and of every kind that has a status |
| actions | what is offered is not refused, what people need is offered; what they create |
| Argo CD's own tests | each case of `health_test.yaml` and `action_test.yaml` |
| installed | the ConfigMap and the Helm values hold these scripts |
"""

import re
from typing import Any

import pytest
import situated
import situations
import yaml

from feature_rollout.api.kinds import parse
from feature_rollout.core.decision import View
from feature_rollout.core.health import argocd as expected_of
from feature_rollout.core.people import Outcome, Request, RequestType
from feature_rollout.core.requests import rule
from support import argocd, lua
from support.argocd import created, offered

LAYOUT = argocd.FOLDER / "resource_customizations" / "featurerollout.dev"
ROLLOUT = LAYOUT / "FeatureRollout"
KINDS = ("FeatureRollout", "FlagStore", "MetricProvider", "RolloutAction")
ACTIONS = {
    "approve": RequestType.APPROVE,
    "promote": RequestType.PROMOTE,
    "pause": RequestType.PAUSE,
    "resume": RequestType.RESUME,
    "retry": RequestType.RETRY,
    "rollback": RequestType.ROLL_BACK,
}


def test_the_health_is_that_of_the_core_in_every_situation() -> None:
    met = set()
    for view, status in situations.situations():
        for generation in (1, 2):
            obj = situated.rollout(view, status)
            obj["metadata"]["generation"] = generation
            health, message = expected_of(obj)
            assert argocd.health(obj) == (str(health), message)
            met.add(str(health))
    assert met == {"Healthy", "Progressing", "Degraded", "Suspended"}


def test_the_cases_have_every_row_of_the_table() -> None:
    unlisted = {"progressing_unseen", "progressing_edited", "progressing_deleted"}
    assert len(situated.rollouts().keys() - unlisted) == len(situations.table())


@pytest.mark.parametrize("status", [None, {}, {"observedGeneration": 1}, {"observedGeneration": 1, "conditions": []}])
def test_a_status_may_be_empty(status: Any) -> None:
    obj = {"kind": "FeatureRollout", "metadata": {"generation": 1}, **({} if status is None else {"status": status})}
    assert argocd.health(obj) == ("Progressing", "The operator has not seen this yet.")


@pytest.mark.parametrize("kind", KINDS)
def test_the_cases_of_argo_cd_s_own_tests_of_health(kind: str) -> None:
    cases = yaml.safe_load((LAYOUT / kind / "health_test.yaml").read_text())["tests"]
    script = (LAYOUT / kind / "health.lua").read_text()
    assert script == argocd.health_script(kind)
    assert len(cases) >= 3
    for case in cases:
        obj = yaml.safe_load((LAYOUT / kind / case["inputPath"]).read_text())
        assert lua.run(script, obj) == case["healthStatus"], case["inputPath"]


def test_the_cases_of_argo_cd_s_own_tests_of_actions() -> None:
    folder = ROLLOUT / "actions"
    cases = yaml.safe_load((folder / "action_test.yaml").read_text())["actionTests"]
    assert {case["action"] for case in cases} == set(ACTIONS)
    for case in cases:
        obj = yaml.safe_load((folder / case["inputPath"]).read_text())
        assert argocd.action_scripts()[case["action"]] == (folder / case["action"] / "action.lua").read_text()
        made = created(case["action"], obj)
        made["metadata"]["name"], times = re.subn(r"-\d{14}$", "", made["metadata"]["name"])
        assert times == 1
        assert made == yaml.safe_load((folder / case["expectedOutputPath"]).read_text())
        parse(made)
    assert argocd.action_scripts()["discovery"] == (folder / "discovery.lua").read_text()


def test_the_helm_values_are_the_config_map() -> None:
    assert yaml.safe_load((argocd.FOLDER / "values.yaml").read_text()) == {"configs": {"cm": argocd.CONFIG}}


def ruling(view: View, action: str) -> Outcome:
    """What the operator would answer to Argo CD's service account."""
    following = view.next_stage.name if view.next_stage else None
    here = view.stage.name if view.stage else None
    stage = {"approve": following, "promote": here}.get(action)
    plan_hash = view.plan.plan_hash if action == "approve" else None
    request = Request("uid", ACTIONS[action], view.now, stage=stage, plan_hash=plan_hash, requested_by=argocd.ACCOUNT)
    return rule(view, request).answer.outcome


# What is offered and may be refused, because no status tells of it: a pause below what stalls, evidence below what
# holds, and rows that were changed to more than may be resumed from.
UNTOLD = {
    ("pause", "FlagMissing"),
    ("promote", "PlanChanged"),
    ("promote", "StageOverdue"),
    ("resume", "ManualChange"),
}


def test_what_is_offered_is_not_refused() -> None:
    refused = set()
    for view, status in situations.situations():
        if view is None:
            continue
        for action in offered(situated.rollout(view, status)):
            if ruling(view, action) is Outcome.REFUSED:
                refused.add((action, status["conditions"][1]["reason"]))
    assert refused == UNTOLD


NEEDED = {
    "AwaitingApproval": {"approve", "pause"},
    "Baking": {"promote", "pause"},
    "GateNotPassed": {"promote", "pause"},
    "NoTraffic": {"promote", "pause"},
    "EvidenceAgainst": {"pause"},
    "HoldAction": {"pause", "resume"},
    "Paused": {"resume"},
    "ManualChange": {"resume"},
    "Suspended": set(),
    "RolledBack": {"pause", "retry"},
    "Completed": set(),
}


@pytest.mark.parametrize("reason", NEEDED)
def test_what_people_need_is_offered(reason: str) -> None:
    """In a stage of a rollout whose plan is followed; to roll back always."""
    found = [
        offered(situated.rollout(view, status))
        for view, status in situations.situations()
        if view is not None and view.stage is not None and status["conditions"][1]["reason"] == reason
    ]
    assert found
    assert all(one == {"rollback", *NEEDED[reason]} for one in found)


def test_an_approval_that_counts_no_service_account_is_not_offered() -> None:
    obj = situated.rollouts()["healthy_awaitingApproval"]
    assert "approve" in offered(obj)
    obj["spec"]["stages"][1]["approval"] = {"required": 1}
    assert "approve" not in offered(obj)


def test_an_edited_plan_is_neither_approved_nor_promoted_before_it_was_seen() -> None:
    for name in ("healthy_awaitingApproval", "healthy_baking"):
        obj = situated.rollouts()[name]
        obj["metadata"]["generation"] += 1
        assert offered(obj) == {"pause", "rollback"}
