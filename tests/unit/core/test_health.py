"""What tools read out of a FeatureRollout, and the table of it in docs/reference.md.

| subject | what |
|---|---|
| the rules | kstatus and Argo CD, by objects of every kind |
| agreement | they never disagree on whether to wait, to fail or to go on |
| the table | has every phase, and every status that the tests of the decision draw |
"""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import situations

from feature_rollout.core import reasons
from feature_rollout.core.decide import decide
from feature_rollout.core.decision import Phase, View
from feature_rollout.core.health import CONDITIONS, PHASES, ArgoHealth, KStatus, argocd, kstatus
from feature_rollout.core.status import picture
from unit.core import test_decide, test_dependencies, test_status

DOCS = Path(__file__).parents[3] / "docs"


TABLE = situations.table()


def seen(
    phase: str = "Baking", *, generation: int = 3, observed: int = 3, deleted: bool = False, **conditions: str
) -> Any:
    metadata = {"generation": generation, **({"deletionTimestamp": "2026-01-05T09:00:00Z"} if deleted else {})}
    told = [{"type": kind, "status": status, "message": f"{kind} it is"} for kind, status in conditions.items()]
    return {"metadata": metadata, "status": {"observedGeneration": observed, "phase": phase, "conditions": told}}


READY = {"Ready": "True", "Reconciling": "False", "Stalled": "False"}
STALLED = {"Ready": "False", "Reconciling": "False", "Stalled": "True"}
BLIND = {"Ready": "False", "Reconciling": "False", "Stalled": "False"}
BEGINNING = {"Ready": "False", "Reconciling": "True", "Stalled": "False"}


@pytest.mark.parametrize(
    ("rollout", "by_kstatus", "by_argocd"),
    [
        pytest.param({"metadata": {"generation": 1}}, "InProgress", "Progressing", id="without a status"),
        pytest.param(seen(observed=-1), "InProgress", "Progressing", id="with the default of a status"),
        pytest.param(seen(observed=2, **READY), "InProgress", "Progressing", id="edited since"),
        pytest.param(seen("Paused", observed=2, **READY), "InProgress", "Progressing", id="paused, and edited since"),
        pytest.param(seen(), "InProgress", "Progressing", id="without conditions"),
        pytest.param(seen(**READY), "Current", "Healthy", id="baking"),
        pytest.param(seen("AwaitingApproval", **READY), "Current", "Healthy", id="waiting for people"),
        pytest.param(seen("Pending", **BEGINNING), "InProgress", "Progressing", id="beginning"),
        pytest.param(seen("Held", **BLIND), "InProgress", "Progressing", id="blind"),
        pytest.param(seen("Stalled", **STALLED), "Failed", "Degraded", id="stalled"),
        pytest.param(seen("RolledBack", **STALLED), "Failed", "Degraded", id="rolled back"),
        pytest.param(seen("Paused", **READY), "Current", "Suspended", id="paused"),
        pytest.param(seen("Paused", **BLIND), "InProgress", "Suspended", id="a row was changed by hand"),
        pytest.param(seen("Paused", **STALLED), "Failed", "Degraded", id="paused and stalled"),
        pytest.param(seen("Paused", deleted=True, **READY), "Terminating", "Progressing", id="being deleted"),
    ],
)
def test_what_tools_say(rollout: Any, by_kstatus: str, by_argocd: str) -> None:
    health, _ = argocd(rollout)
    assert (str(kstatus(rollout)), str(health)) == (by_kstatus, by_argocd)


@pytest.mark.parametrize(
    ("rollout", "message"),
    [
        pytest.param(seen(**READY), "Ready it is", id="that of Ready"),
        pytest.param(seen("Paused", **BLIND), "Ready it is", id="who is paused too"),
        pytest.param(seen("Paused", deleted=True, **READY), "It is being deleted.", id="being deleted"),
        pytest.param(seen(observed=2, **READY), "The operator has not seen this yet.", id="edited since"),
        pytest.param(seen(Stalled="False"), "The operator has not seen this yet.", id="without Ready"),
        pytest.param({"metadata": {"generation": 1}}, "The operator has not seen this yet.", id="without a status"),
    ],
)
def test_the_message(rollout: Any, message: str) -> None:
    assert argocd(rollout)[1] == message


def test_an_object_without_a_generation_has_been_seen_by_nobody() -> None:
    """As the default of a status has it: -1 is no generation of any object."""
    assert kstatus({}) is KStatus.IN_PROGRESS
    ready = seen(**READY)
    del ready["status"]["observedGeneration"]
    for generation in (1, 2, None):
        unread = {**ready, "metadata": {"generation": generation} if generation else {}}
        assert kstatus(unread) is KStatus.IN_PROGRESS
        assert argocd(unread) == (ArgoHealth.PROGRESSING, "The operator has not seen this yet.")


def test_every_phase_and_condition_is_explained() -> None:
    assert set(PHASES) == set(Phase)
    status = picture(test_status.view(), decide(test_status.view()), {}, 1, acted=decide(test_status.view()))
    assert [condition["type"] for condition in status["conditions"]] == list(CONDITIONS)


def test_the_table_has_every_phase() -> None:
    assert {key[0] for key in TABLE} == {str(phase) for phase in Phase} - {"Migrating", "Terminating"}


def test_tools_agree() -> None:
    allowed = {
        KStatus.CURRENT: {ArgoHealth.HEALTHY, ArgoHealth.SUSPENDED},
        KStatus.IN_PROGRESS: {ArgoHealth.PROGRESSING, ArgoHealth.SUSPENDED},
        KStatus.FAILED: {ArgoHealth.DEGRADED},
    }
    for phase, ready, reconciling, stalled, by_kstatus, by_argocd in TABLE:
        assert ArgoHealth(by_argocd) in allowed[KStatus(by_kstatus)], phase
        assert [ready, reconciling, stalled].count("True") <= 1
        assert (ready == "True") == (by_kstatus == "Current")
        assert (by_argocd == "Suspended") == (phase == "Paused")


def test_the_table_has_every_reason_to_wait() -> None:
    """Those of the chain; those that only the shell gives are told as troubles of either kind."""
    told = {reason for line in TABLE.values() for reason in line.reasons}
    waits = {
        getattr(reasons, name)
        for module in ("readiness", "standstill", "dependencies", "clearance")
        for name in _reasons_in(module)
    }
    # The one is an act; the other is no status, because a replica that does not lead writes none.
    assert waits - told == {reasons.REARMED, reasons.NOT_LEADING}


def _reasons_in(module: str) -> set[str]:
    text = (DOCS.parent / "operator" / "feature_rollout" / "core" / f"{module}.py").read_text()
    return set(re.findall(r"reasons\.([A-Z_]+)", text))


def _views(of: object) -> Iterator[View]:
    """Those in the tables of a module: of cases, parameters, tuples."""
    if isinstance(of, View):
        yield of
    elif isinstance(of, tuple | list):
        for one in of:
            yield from _views(one)
    elif is_dataclass(of) and type(of).__module__.startswith(("unit.core", "_pytest")):
        yield from _views([getattr(of, field.name) for field in fields(of)])


def test_every_status_that_is_drawn_elsewhere_is_in_the_table() -> None:
    drawn = 0
    modules = (test_decide, test_dependencies, test_status)
    for view in (view for module in modules for value in vars(module).values() for view in _views(value)):
        decision = decide(view)
        if decision.verb.acts:
            continue
        status = picture(view, decision, {}, 1, acted=decision)
        key = situations.key(status)
        assert key in TABLE, (key, decision)
        for condition in status["conditions"]:
            if condition["type"] in situations.OTHERS:
                assert condition["status"] in TABLE[key].others[condition["type"]], (key, condition)
        drawn += 1
    assert drawn > 30
