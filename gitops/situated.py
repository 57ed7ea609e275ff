"""Whole objects in the situations of docs/situations.py, as an API server has them."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import situations

from feature_rollout.core.decision import Trouble, View
from feature_rollout.core.people import Answer, Outcome
from feature_rollout.core.status import kube_time
from feature_rollout.kube.resources import API_VERSION
from feature_rollout.runtime.answers import Answers

Object = dict[str, Any]

SINCE = kube_time(situations.NOW)
# As the ledger keys of the situations have them.
NAME, NAMESPACE, UID = "rollout", "team", "6a1f3f0e-7c0e-4b7a-9a53-3d1f5b0c2f11"
# The situations' own is too short for an API server.
PLAN_HASH = f"v1:{'0123456789abcdef' * 4}"
SPEC: Object = {
    "storeRef": {"name": "shop-db"},
    "metrics": [
        {
            "name": "errors",
            "interval": "30s",
            "template": {
                "type": "Ratio",
                "sql": {
                    "query": "SELECT count(*) FILTER (WHERE failed) AS events, count(*) AS units FROM orders "
                    "WHERE at >= %(window_start)s AND at < %(window_end)s"
                },
            },
        }
    ],
    "matrix": {
        "rows": [
            {
                "severity": "High",
                "when": [{"metric": "errors", "above": "1%"}],
                "respondWithin": "15m",
                "action": {"type": "DisableFlags"},
            }
        ]
    },
}


def rollout(view: View | None, status: Mapping[str, Any] | None) -> Object:
    """The FeatureRollout with that status; without one, as it is when it was just created."""
    spec = {**SPEC, "stages": _stages(view.plan.stages if view else situations.plan().stages)}
    if view is not None and view.suspended:
        spec["suspend"] = True
    if status is not None and "planHash" in status:
        status = {**status, "planHash": PLAN_HASH}
    return _object("FeatureRollout", NAME, spec, status)


def rollouts() -> dict[str, Object]:
    """A FeatureRollout for each row of the table, and those that no table has: unseen, edited since, being deleted.

    By a name for a file: Argo CD's health, and the phase.
    """
    found: dict[str, Object] = {}
    for view, status in situations.situations():
        found.setdefault(_file_name(situations.key(status)), rollout(view, status))
    baking = found["healthy_baking"]
    found["progressing_unseen"] = rollout(None, None)
    found["progressing_edited"] = {**baking, "metadata": {**baking["metadata"], "generation": 2}}
    found["progressing_deleted"] = {**baking, "metadata": {**baking["metadata"], "deletionTimestamp": SINCE}}
    return found


def others() -> Iterator[tuple[str, str, Object]]:
    """The kinds that the operator only answers, by kind and a name for a file, in every state of theirs."""
    troubles = {
        "healthy_usable": None,
        "progressing_unreachable": Trouble("StoreUnreachable", "The database server does not answer.", stalled=False),
        "degraded_refused": Trouble("AuthenticationFailed", "The database server refuses the role."),
    }
    provider: Object = {"prometheus": {"address": "http://prometheus.monitoring.svc:9090"}, "allowedNamespaces": ["*"]}
    store: Object = {"postgres": {"writer": {"secretKeyRef": {"name": "shop-db", "key": "uri"}}}}
    for name, trouble in troubles.items():
        yield "FlagStore", name, _answered("store_is", _object("FlagStore", "shop-db", store, None), trouble)
        made = _object("MetricProvider", "prometheus", provider, None)
        yield "MetricProvider", name, _answered("provider_is", made, trouble)
    outcomes = {
        "healthy_applied": Answer(Outcome.APPLIED, "Paused", "Paused by alice; guards go on."),
        "progressing_pending": Answer(Outcome.PENDING, "StoreUnreachable", "It waits until this is mended."),
        "degraded_refused": Answer(Outcome.REFUSED, "AlreadyPaused", "It was paused by alice already."),
        "degraded_expired": Answer(Outcome.EXPIRED, "Expired", "It could not be applied within 24 hours."),
    }
    wanted: Object = {"rolloutRef": {"name": NAME}, "type": "Pause", "reason": "why"}
    for name, answer in outcomes.items():
        made = _object("RolloutAction", "pause", wanted, None)
        yield "RolloutAction", name, _answered("action_is", made, answer, situations.NOW)


def without_status() -> Iterator[Object]:
    """The kinds that hold what rollouts read, as a ConfigMap does: nobody answers them."""
    (metric,) = SPEC["metrics"]
    for kind, spec in (("RollbackMatrix", SPEC["matrix"]), ("MetricTemplate", metric["template"])):
        yield {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "checkout"}, "spec": spec}


def _stages(stages: Any) -> list[Object]:
    found = []
    for stage in stages:
        one: Object = {"name": stage.name, "bake": "1d"}
        if stage.approval is not None:
            one["approval"] = {"allowServiceAccounts": stage.approval.service_accounts}
        percentage = int(stage.entries[0].change.percentage)
        one["flags"] = [{"names": [situations.FLAG], "percentage": percentage}]
        found.append(one)
    return found


def _object(kind: str, name: str, spec: Object, status: Mapping[str, Any] | None) -> Object:
    metadata: Object = {"name": name, "namespace": NAMESPACE, "generation": 1, "uid": UID}
    if kind == "MetricProvider":
        del metadata["namespace"]
    # The default that the CRD gives a status.
    shown = dict(status) if status is not None else {"observedGeneration": -1}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec, "status": shown}


def _file_name(key: situations.Key) -> str:
    """As Argo CD's own: the health, and what it is of."""
    phase, ready, reconciling, *_, health = key
    name = f"{health.lower()}_{phase[0].lower()}{phase[1:]}"
    if reconciling == "True":
        return f"{name}Reconciling"
    return f"{name}NotReady" if health == "Suspended" and ready != "True" else name


class _Recorder:
    """In the place of the API server: what the operator would have it write."""

    def __init__(self) -> None:
        self.written: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def apply_status(self, _plural: str, _obj: Object, status: dict[str, Any]) -> None:
        self.written.set_result(status)


def _answered(answer: str, obj: Object, *what: Any) -> Object:
    """The object with the status that the operator gives it, at the time of the situations."""

    async def ask() -> dict[str, Any]:
        recorder = _Recorder()
        answers = Answers(recorder)  # type: ignore[arg-type]
        getattr(answers, answer)(obj, *what)
        running = asyncio.create_task(answers.run())
        status = await recorder.written
        running.cancel()
        return status

    status = asyncio.run(ask())
    conditions = [{**condition, "lastTransitionTime": SINCE} for condition in status["conditions"]]
    return {**obj, "status": {**status, "conditions": conditions}}
