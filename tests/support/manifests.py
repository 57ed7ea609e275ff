"""Short manifests for tests: a store, metrics on the deliveries, and rollouts whose stages take seconds."""

from typing import Any

API_VERSION = "featurerollout.dev/v1alpha1"
PLURALS = {
    "ConfigMap": "configmaps",
    "FeatureRollout": "featurerollouts",
    "FlagStore": "flagstores",
    "MetricProvider": "metricproviders",
    "MetricTemplate": "metrictemplates",
    "RollbackMatrix": "rollbackmatrices",
    "RolloutAction": "rolloutactions",
    "Secret": "secrets",
}
STORE = "supabase"
SECRET = "supabase-db"
ROLLOUT = "enhanced"
# Two flags that plans change, and one that they do not name.
A, B, OTHER = "notifications_enhanced_realtime", "notifications_intelligent_grouping", "notifications_new_bell_ui"

WINDOW = "created_at >= %(window_start)s AND created_at < %(window_end)s"
ERRORS = (
    "SELECT count(DISTINCT user_id) FILTER (WHERE delivery_status = 'failed') AS events, "
    f"count(DISTINCT user_id) AS units FROM notifications WHERE {WINDOW}"
)
SLOW = (
    "SELECT count(DISTINCT user_id) FILTER (WHERE updated_at - created_at > interval '2 seconds') AS events, "
    f"count(DISTINCT user_id) AS units FROM notifications WHERE {WINDOW}"
)
SECONDS = f"SELECT avg(extract(epoch FROM updated_at - created_at)) AS value FROM notifications WHERE {WINDOW}"

Object = dict[str, Any]


def manifest(kind: str, name: str, spec: Object) -> Object:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def key_of(key: str, secret: str = SECRET) -> Object:
    return {"secretKeyRef": {"name": secret, "key": key}}


def store(name: str = STORE, secret: str = SECRET, **spec: Any) -> Object:
    roles = {role: key_of(f"{role}-uri", secret) for role in ("writer", "reader", "owner")}
    return manifest("FlagStore", name, {"postgres": roles, "notifyChannel": "feature_flags", **spec})


def template(query: str, kind: str = "Ratio", **spec: Any) -> Object:
    """A MetricTemplate's spec; rows are in the table a moment after the window's end."""
    counts = {"counts": "Users"} if kind == "Ratio" else {"unit": "s"}
    return {"type": kind, **counts, "delay": "200ms", "sql": {"query": query}, **spec}


def metric(name: str = "error-rate", query: str = ERRORS, kind: str = "Ratio") -> Object:
    return {"name": name, "template": template(query, kind), "interval": "1s"}


def row(severity: str, action: Object, *, clause: Object | None = None, settle: str = "0s") -> Object:
    """A row on the error rate, unless another clause is given."""
    return {
        "severity": severity,
        "when": [clause or {"metric": "error-rate", "above": "1%"}],
        "respondWithin": "15m",
        "settle": settle,
        "action": action,
    }


def disable() -> Object:
    return row("High", {"type": "DisableFlags"})


def stage(name: str, percentage: int, bake: str = "1s", *, groups: list[str] | None = None, **more: Any) -> Object:
    entry: Object = {"names": [A, B], "percentage": percentage}
    if groups is not None:
        entry["groups"] = groups
    return {"name": name, "flags": [entry], "bake": bake, **more}


def rollout(name: str = ROLLOUT, *, stages: list[Object], rows: list[Object] | None = None, **spec: Any) -> Object:
    """A rollout with one metric and one row, unless others are given."""
    full: Object = {"storeRef": {"name": STORE}, "stages": stages, "metrics": [metric()], **spec}
    if "matrixRef" not in spec:
        full["matrix"] = {"rows": rows or [disable()]}
    return manifest("FeatureRollout", name, full)
