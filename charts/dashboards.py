"""The two dashboards for Grafana, as panels of PromQL. From them come the JSON files of the chart.

Who stands by knows nothing of a rollout, and during a change of the leader two may: each expression takes the `max` of
what the replicas say of one thing, and the `sum` of what each of them has counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, ROW_HEIGHT = 24, 1
NAMESPACES = 'rollout_namespace=~"$namespace"'
ONE = 'rollout_namespace="$namespace", rollout="$rollout"'
ROLLOUT = "rollout_namespace, rollout"
EXPOSED = f'max by ({ROLLOUT}) (featurerollout_flag_percentage{{exposure="observed"}}) > 0'
SAME_FLAG = f"({ROLLOUT}, flag)"
BY_SOMEBODY_ELSE = (
    f'count(max by {SAME_FLAG} (featurerollout_flag_percentage{{exposure="observed"}}) '
    f'!= on {SAME_FLAG} max by {SAME_FLAG} (featurerollout_flag_percentage{{exposure="applied"}})) or vector(0)'
)
# From a healthy green to what needs a person.
RED_FROM_ONE = [{"color": "green", "value": None}, {"color": "red", "value": 1}]
NEUTRAL = [{"color": "blue", "value": None}]
TOWARDS_A_REVERT = [
    {"color": "green", "value": None},
    {"color": "orange", "value": 0.5},
    {"color": "red", "value": 1},
]


@dataclass(frozen=True)
class Panel:
    """`queries` are pairs of PromQL and the legend of its lines."""

    title: str
    queries: Sequence[tuple[str, str]]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8
    height: int = 8
    what: str = ""
    thresholds: Sequence[Json] = ()
    by_name: bool = False  # a stat that shows the legend instead of the value
    repeat: str = ""


def stat(title: str, query: str, thresholds: Sequence[Json] = NEUTRAL, **changes: Any) -> Panel:
    made: Json = {"kind": "stat", "width": 6, "height": 4, "thresholds": thresholds, **changes}
    return Panel(title, [(query, made.pop("legend", ""))], **made)


def evidence(labels: str, matching: str) -> str:
    """As a part of what the row of the clause acts at."""
    of = "featurerollout_guard_evidence"
    return f"max by ({labels}) ({of}{{{matching}}} / {of}_limit{{{matching}}})"


def slowest(metric: str) -> str:
    return f"histogram_quantile(0.99, sum by (le) (increase(featurerollout_{metric}_bucket[1d])))"


def p99(metric: str, by: str = "", what: str = "") -> tuple[str, str]:
    labels = f"le, {by}" if by else "le"
    query = f"histogram_quantile(0.99, sum by ({labels}) (rate(featurerollout_{metric}_bucket[$__rate_interval])))"
    return query, f"{{{{{by}}}}}" if by else what


FLEET: Json = {
    "Exposure and its guards": [
        stat("Rollouts with a flag switched on", "max(featurerollout_rollouts_exposed)"),
        stat(
            "Exposed while nothing watches",
            f"count((max by ({ROLLOUT}) (featurerollout_metric_blind_seconds) > 60) and on ({ROLLOUT}) "
            f"({EXPOSED})) or vector(0)",
            RED_FROM_ONE,
            what="Rollouts with a flag switched on and a guarded metric that nobody could judge for a minute.",
        ),
        stat(
            "Need a person",
            'max(featurerollout_rollout_conditions{type="Stalled",status="True"}) or vector(0)',
            RED_FROM_ONE,
        ),
        stat("Shards that nobody leads", "max(featurerollout_shards) - sum(featurerollout_leader)", RED_FROM_ONE),
        Panel(
            "Rollouts",
            [(f"max by ({ROLLOUT}, phase, stage) (featurerollout_rollout_info{{{NAMESPACES}}})", "")],
            kind="table",
            width=12,
        ),
        Panel(
            "Nearest to a revert",
            [
                (
                    f"topk(10, {evidence(f'{ROLLOUT}, clause', NAMESPACES)})",
                    "{{rollout_namespace}}/{{rollout}}: {{clause}}",
                )
            ],
            kind="bargauge",
            unit="percentunit",
            width=12,
            thresholds=TOWARDS_A_REVERT,
            what="Evidence against each clause as a part of what its row acts at.",
        ),
        Panel("Rollouts by phase", [("max by (phase) (featurerollout_rollouts)", "{{phase}}")]),
        Panel(
            "Not judged for",
            [
                (
                    f"topk(10, max by ({ROLLOUT}, metric) (featurerollout_metric_blind_seconds{{{NAMESPACES}}}))",
                    "{{rollout_namespace}}/{{rollout}}: {{metric}}",
                )
            ],
            unit="s",
        ),
        Panel("Flags that somebody else has changed", [(BY_SOMEBODY_ELSE, "flags")]),
    ],
    "Reverts": [
        Panel(
            "Reverts in an hour", [("sum by (severity) (increase(featurerollout_reverts_total[1h]))", "{{severity}}")]
        ),
        Panel(
            "Later than respondWithin, in an hour",
            [("sum by (severity) (increase(featurerollout_reverts_late_total[1h]))", "{{severity}}")],
        ),
        Panel(
            "From the onset to the committed action",
            [
                (
                    slowest("time_to_revert_seconds"),
                    "99 % in a day",
                ),
                (
                    slowest("look_to_revert_seconds"),
                    "of these, from the look that decided",
                ),
            ],
            unit="s",
        ),
    ],
    "The operator": [
        Panel(
            "Looks",
            [("sum by (verdict) (rate(featurerollout_looks_total[$__rate_interval]))", "{{verdict}}")],
            unit="ops",
        ),
        Panel(
            "Queue and event loop, 99 %",
            [
                p99("queue_wait_seconds", what="wait for a worker"),
                p99("loop_lag_seconds", what="lag of the event loop"),
                p99("reconcile_seconds", what="a reconcile"),
            ],
            unit="s",
        ),
        Panel("Rollouts that wait for a worker", [("max by (pod) (featurerollout_queue_depth)", "{{pod}}")]),
        Panel("The database, 99 %", [p99("database_seconds", "operation")], unit="s"),
        Panel("The API server, 99 %", [p99("api_request_seconds", "verb")], unit="s"),
        Panel(
            "Calls to the API server",
            [("sum by (code) (rate(featurerollout_api_requests_total[$__rate_interval]))", "{{code}}")],
            unit="ops",
        ),
        Panel(
            "Age of the oldest transition that is not told",
            [("max by (recipient) (featurerollout_outbox_age_seconds)", "{{recipient}}")],
            unit="s",
        ),
        Panel(
            "Restarts of the watch, in an hour",
            [("sum by (pod) (increase(featurerollout_watch_restarts_total[1h]))", "{{pod}}")],
        ),
        Panel(
            "Changes of the leader, in an hour",
            [("sum by (pod) (increase(featurerollout_role_changes_total[1h]))", "{{pod}}")],
        ),
    ],
}


def flag(metric: str, whose: str) -> tuple[str, str]:
    query = f'max by (flag) (featurerollout_flag_{metric}{{{ONE}, exposure="{whose}"}})'
    return query, f"{{{{flag}}}} {whose}"


ROLLOUT_PANELS: Json = {
    "Where it is": [
        stat(
            "Phase",
            f"max by (phase) (featurerollout_rollout_info{{{ONE}}})",
            legend="{{phase}}",
            by_name=True,
        ),
        stat("Stage", f"max by (stage) (featurerollout_rollout_info{{{ONE}}})", legend="{{stage}}", by_name=True),
        stat(
            "Stages entered",
            f"max(featurerollout_rollout_stage{{{ONE}}}) / max(featurerollout_rollout_stages{{{ONE}}})",
            unit="percentunit",
        ),
        stat(
            "Not judged for",
            f"max(featurerollout_metric_blind_seconds{{{ONE}}})",
            RED_FROM_ONE,
            unit="s",
            what="The longest of its guarded metrics, from the first raise to the end of the rollout.",
        ),
    ],
    "Exposure": [
        Panel(
            "Who has the flags",
            [flag("percentage", whose) for whose in ("desired", "applied", "observed")],
            unit="percent",
            width=12,
            what="Desired by the plan, applied by the operator, observed in the table. Percent of flag_groups' groups.",
        ),
        Panel("Groups that the flags are restricted to", [flag("groups", "observed")], width=6, what="0 is everyone."),
        Panel("Switched on", [flag("enabled", "observed")], width=6),
    ],
    "Guards": [
        Panel(
            "Evidence, as a part of what the row acts at",
            [(evidence("severity, clause", ONE), "{{severity}}: {{clause}}")],
            unit="percentunit",
            width=12,
            thresholds=TOWARDS_A_REVERT,
        ),
        Panel(
            "Not judged for",
            [(f"max by (metric) (featurerollout_metric_blind_seconds{{{ONE}}})", "{{metric}}")],
            unit="s",
            width=6,
        ),
        Panel("Looked at", [(f"max(featurerollout_rollout_age_seconds{{{ONE}}})", "seconds ago")], unit="s", width=6),
        Panel(
            "$metric",
            [
                (f'max(featurerollout_metric_value{{{ONE}, metric="$metric"}})', "value"),
                (
                    f'max by (severity, clause) (featurerollout_guard_limit{{{ONE}, metric="$metric"}})',
                    "{{severity}}: {{clause}}",
                ),
            ],
            repeat="metric",
        ),
    ],
    "Revert": [
        Panel(
            "From the onset to the committed action",
            [
                (f"max by (severity) (featurerollout_rollout_revert_seconds{{{ONE}}})", "{{severity}}: it took"),
                (
                    f"max by (severity) (featurerollout_rollout_respond_within_seconds{{{ONE}}})",
                    "{{severity}}: it may take",
                ),
            ],
            unit="s",
            width=12,
            what="Nothing while the matrix has taken nothing back.",
        )
    ],
}


def variable(name: str, values: str, *, several: bool = False) -> Json:
    made: Json = {
        "name": name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": values, "refId": name},
        "definition": values,
        "refresh": 2,
        "sort": 1,
    }
    everything = {"multi": True, "includeAll": True, "current": {"text": ["All"], "value": ["$__all"]}}
    return made | (everything if several else {})


VARIABLES = {
    "fleet": [variable("namespace", "label_values(featurerollout_rollout_info, rollout_namespace)", several=True)],
    "rollout": [
        variable("namespace", "label_values(featurerollout_rollout_info, rollout_namespace)"),
        variable("rollout", 'label_values(featurerollout_rollout_info{rollout_namespace="$namespace"}, rollout)'),
        variable("metric", f"label_values(featurerollout_metric_value{{{ONE}}}, metric)", several=True),
    ],
}


def dashboards() -> dict[str, Json]:
    """By the name of the file, without its ending."""
    return {
        "fleet": _dashboard("fleet", "Feature rollouts", FLEET),
        "rollout": _dashboard("rollout", "One feature rollout", ROLLOUT_PANELS),
    }


def _dashboard(name: str, title: str, rows: dict[str, list[Panel]]) -> Json:
    source = {"name": "datasource", "type": "datasource", "query": "prometheus"}
    return {
        "uid": f"feature-rollout-{name}",
        "title": title,
        "tags": ["feature-rollout-operator"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [source, *VARIABLES[name]]},
        "links": [
            {
                "title": "All feature rollout dashboards",
                "type": "dashboards",
                "tags": ["feature-rollout-operator"],
                "asDropdown": True,
                "keepTime": True,
            }
        ],
        "panels": _laid_out(rows),
    }


def _laid_out(rows: dict[str, list[Panel]]) -> list[Json]:
    """Panels from left to right under the title of their row, as high as the highest beside them."""
    placed: list[Json] = []
    x = y = height = 0
    for title, panels in rows.items():
        x, y = 0, y + height
        placed.append({"type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": ROW_HEIGHT}})
        y, height = y + ROW_HEIGHT, 0
        for panel in panels:
            if x + panel.width > WIDTH:
                x, y, height = 0, y + height, 0
            placed.append(_panel(panel, {"x": x, "y": y, "w": panel.width, "h": panel.height}))
            x, height = x + panel.width, max(height, panel.height)
    return [{"id": number, **panel} for number, panel in enumerate(placed, 1)]


def _panel(panel: Panel, place: dict[str, int]) -> Json:
    at_once = panel.kind != "timeseries"
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": DATASOURCE,
            "expr": expr,
            "legendFormat": legend or "__auto",
            "instant": at_once,
            "range": not at_once,
            **({"format": "table"} if panel.kind == "table" else {}),
        }
        for number, (expr, legend) in enumerate(panel.queries)
    ]
    defaults: Json = {"unit": panel.unit}
    if panel.thresholds:
        defaults["thresholds"] = {"mode": "absolute", "steps": list(panel.thresholds)}
    if panel.thresholds and at_once:
        defaults["color"] = {"mode": "thresholds"}
    made: Json = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.what,
        "datasource": DATASOURCE,
        "gridPos": place,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
    }
    return made | ({"repeat": panel.repeat, "repeatDirection": "h", "maxPerRow": 3} if panel.repeat else {})


def _options(panel: Panel) -> Json:
    newest = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    if panel.kind == "stat":
        return {"reduceOptions": newest, "textMode": "name" if panel.by_name else "value", "colorMode": "value"}
    if panel.kind == "bargauge":
        return {"reduceOptions": newest, "orientation": "horizontal", "displayMode": "basic"}
    return {} if panel.kind == "table" else {"tooltip": {"mode": "multi"}, "legend": {"displayMode": "list"}}
