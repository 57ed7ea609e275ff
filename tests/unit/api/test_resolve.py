"""From objects to a plan.

| what | then |
|---|---|
| the guide's rollout | its stages, rows and queries, as numbers |
| a reference, limit or argument that cannot be | InvalidPlan, which names the field and what would be right |
| an optional clause on an unbound metric | dropped, without a notice |
| a field without effect in this version | blocks what depends on it, and is listed |
"""

from copy import deepcopy
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from feature_rollout.api import reasons
from feature_rollout.api.base import Resource
from feature_rollout.api.featurerollout import FeatureRollout
from feature_rollout.api.kinds import is_ours, parse
from feature_rollout.api.metricprovider import MetricProvider
from feature_rollout.api.metrictemplate import MetricTemplate
from feature_rollout.api.resolve import (
    CheckQuery,
    InvalidPlan,
    PrometheusQuery,
    References,
    Resolved,
    references,
    resolve,
)
from feature_rollout.api.rollbackmatrix import RollbackMatrix
from feature_rollout.core.calendar import DailyWindow, Freeze
from feature_rollout.core.checks import Check
from feature_rollout.core.exposure import FlagChange
from feature_rollout.core.plan import (
    Action,
    ActionType,
    Approval,
    BaselineType,
    FlagEntry,
    Limit,
    MetricType,
    Mode,
    Notice,
    OnBlind,
    OnDelete,
    OnNoTraffic,
    Persist,
    Plan,
    Sense,
    Severity,
    Target,
)
from unit.api.cases import SCRIPT, Change, both, drop, manifest, put

EXAMPLES = Path(__file__).parents[3] / "examples"
PROMETHEUS = {"providerRef": {"name": "p"}, "events": "a", "units": "b"}


def changed(*changes: Change) -> FeatureRollout:
    obj = manifest("FeatureRollout")
    for change in changes:
        change(obj["spec"])
    return FeatureRollout.parse(obj)


def plan(*changes: Change) -> Plan:
    return resolve(changed(*changes)).plan


def row(plan: Plan, severity: Severity) -> Any:
    return next(row for row in plan.rows if row.severity is severity)


@pytest.fixture(scope="module")
def guide() -> Resolved:
    objects: dict[str, dict[str, Resource]] = {}
    for file in sorted((EXAMPLES / "notifications").glob("*.yaml")):
        for item in yaml.safe_load_all(file.read_text()):
            objects.setdefault(item["kind"], {})[item["metadata"]["name"]] = parse(item)
    rollout = objects["FeatureRollout"]["enhanced-notifications"]
    assert isinstance(rollout, FeatureRollout)
    matrix: Any = objects["RollbackMatrix"]["notification-system"]
    templates: Any = objects["MetricTemplate"]
    return resolve(rollout, matrix=matrix, templates=templates)


class TestTheGuide:
    def test_its_stages(self, guide: Resolved) -> None:
        assert len(guide.plan.stages) == 10
        ten = guide.plan.stages[4]
        assert (ten.name, ten.bake, ten.on_no_traffic) == ("ten-percent", timedelta(days=2), OnNoTraffic.WAIT)
        names = (
            "notifications_enhanced_realtime",
            "notifications_intelligent_grouping",
            "notifications_optimistic_updates",
        )
        assert ten.entries == (FlagEntry(names, FlagChange(Decimal(10), frozenset())),)
        assert guide.plan.stages[5].entries[0].change == FlagChange(Decimal(25), None)
        assert guide.plan.bakes == timedelta(days=21)
        assert len(guide.plan.flags) == 11
        assert guide.plan.flag_stages == 8

    def test_its_gates(self, guide: Resolved) -> None:
        gate, adoption = guide.plan.stages[9].gates
        assert (gate.metric, gate.at_most, gate.min_units) == ("error-rate", Limit(0.001, "0.1%"), 50_000)
        assert (adoption.at_least, adoption.at_most) == (Limit(0.6, "60%"), None)

    def test_its_matrix(self, guide: Resolved) -> None:
        assert [str(row.severity) for row in guide.plan.rows] == ["Critical", "High", "Medium", "Low"]
        assert [row.respond_within for row in guide.plan.rows] == [
            timedelta(0),
            timedelta(minutes=15),
            timedelta(hours=1),
            timedelta(hours=4),
        ]
        assert [row.action.type for row in guide.plan.rows] == [
            ActionType.ROLL_BACK_DATABASE,
            ActionType.DISABLE_FLAGS,
            ActionType.REDUCE_PERCENTAGE,
            ActionType.HOLD,
        ]
        assert all(row.settle == timedelta(minutes=2) for row in guide.plan.rows)
        assert row(guide.plan, Severity.MEDIUM).action.to is Target.PREVIOUS_STAGE
        below = row(guide.plan, Severity.LOW).clauses[0]
        assert (below.sense, below.limit) == (Sense.BELOW, Limit(0.8, "80%"))
        assert guide.plan.alpha == 0.05

    def test_its_queries(self, guide: Resolved) -> None:
        assert set(guide.queries) == {"error-rate", "slow-deliveries", "bell-adoption"}
        assert guide.queries["error-rate"].params == {}
        assert guide.queries["bell-adoption"].params == {"flag": "notifications_new_bell_ui"}
        assert "feature_flag_usage" in guide.queries["bell-adoption"].text
        metric = guide.plan.metrics["error-rate"]
        assert (metric.type, metric.interval, metric.delay) == (
            MetricType.RATIO,
            timedelta(seconds=30),
            timedelta(seconds=30),
        )
        assert metric.counts_users
        assert not guide.plan.metrics["bell-adoption"].counts_users

    def test_what_it_refers_to(self, guide: Resolved) -> None:
        assert (guide.store_name, guide.matrix_name) == ("supabase", "notification-system")
        assert set(guide.template_names) == {
            "error-rate",
            "slow-deliveries",
            "p95-latency",
            "websocket-drop-rate",
            "cache-hit-rate",
            "adoption",
        }
        assert (guide.suspended, guide.hold_at, guide.plan.on_delete) == (False, None, OnDelete.KEEP)

    def test_what_this_version_does_not_do(self, guide: Resolved) -> None:
        stages = guide.plan.stages
        assert [len(stage.blockers) for stage in stages] == [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        assert stages[0].blockers[0].startswith("spec.stages[0].migrations is not in effect yet")
        assert [check.key for check in guide.plan.preflight] == [
            "preflight/backup-is-recent",
            "preflight/rehearsed-on-staging",
            "preflight/on-call-available",
        ]
        assert not any(metric.blocker for metric in guide.plan.metrics.values())
        assert not any(clause.blocker for row in guide.plan.rows for clause in row.clauses)
        assert [notice.path for notice in guide.plan.notices] == [
            "spec.stages[0].migrations",
            "spec.stages[*].risk",
            "RollbackMatrix/notification-system spec.rows[0].action.script",
            "RollbackMatrix/notification-system spec.rows[0].action.approval",
        ]


def test_a_plan_with_nothing_unusual_has_no_notices_and_no_blockers() -> None:
    resolved = plan()
    assert resolved.notices == ()
    assert not any(stage.blockers for stage in resolved.stages)
    assert not any(clause.blocker for row in resolved.rows for clause in row.clauses)
    assert not any(metric.blocker for metric in resolved.metrics.values())


def test_references_are_what_must_be_looked_up() -> None:
    rollout = changed(
        drop("matrix"),
        put("matrixRef", {"name": "guards"}),
        drop("metrics.0.template"),
        put("metrics.0.templateRef", {"name": "errors"}),
    )
    assert references(rollout) == References("shop", "guards", ("errors",))
    assert references(changed()) == References("shop", None, ())


def test_suspend_and_hold_at_are_handed_on() -> None:
    resolved = resolve(changed(put("suspend", True), put("holdAt", "canary"), put("onDelete", "Restore")))
    assert (resolved.suspended, resolved.hold_at, resolved.plan.on_delete) == (True, "canary", OnDelete.RESTORE)


@pytest.mark.parametrize(
    ("written", "action"),
    [
        ({"type": "DisableFlags"}, Action(ActionType.DISABLE_FLAGS)),
        ({"type": "DisableFlags", "flags": ["new_cart"]}, Action(ActionType.DISABLE_FLAGS, flags=("new_cart",))),
        ({"type": "ReducePercentage", "to": "Baseline"}, Action(ActionType.REDUCE_PERCENTAGE, to=Target.BASELINE)),
        (
            {"type": "ReducePercentage", "percentage": 2.5},
            Action(ActionType.REDUCE_PERCENTAGE, percentage=Decimal("2.5")),
        ),
        (
            {"type": "RestrictToGroups", "groups": ["staff", "beta"]},
            Action(ActionType.RESTRICT_TO_GROUPS, groups=frozenset({"staff", "beta"})),
        ),
        ({"type": "Hold"}, Action(ActionType.HOLD)),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_an_action(written: dict[str, Any], action: Action) -> None:
    assert row(plan(put("matrix.rows.0.action", written)), Severity.HIGH).action == action


def test_persist_settle_mode_and_traffic() -> None:
    resolved = plan(
        put("matrix.rows.1.when.0.persist", {"failures": 8, "of": 10}),
        put("matrix.rows.0.settle", "0s"),
        put("metrics.1.mode", "Observe"),
        put("stages.0.onNoTraffic", "Count"),
        put("matrix.alphaBudget", "1%"),
    )
    assert row(resolved, Severity.LOW).clauses[0].persist == Persist(8, 10)
    assert row(resolved, Severity.HIGH).settle == timedelta(0)
    assert resolved.metrics["latency"].mode is Mode.OBSERVE
    assert resolved.stages[0].on_no_traffic is OnNoTraffic.COUNT
    assert resolved.alpha == 0.01


INVALID = [
    (
        "a matrix that is not there",
        both(drop("matrix"), put("matrixRef", {"name": "guards"})),
        reasons.MATRIX_NOT_FOUND,
        "spec.matrixRef: there is no RollbackMatrix guards in namespace",
    ),
    (
        "a template that is not there",
        both(drop("metrics.0.template"), put("metrics.0.templateRef", {"name": "errors"})),
        reasons.TEMPLATE_NOT_FOUND,
        "spec.metrics[0].templateRef: there is no MetricTemplate errors",
    ),
    (
        "a Gauge that must act within a quarter of an hour",
        put("matrix.rows.0.when", [{"metric": "latency", "above": "0.8"}]),
        reasons.GAUGE_TOO_SLOW,
        "spec.matrix.rows[0].when[0]: latency is a Gauge, which cannot be judged within 15m: use a Ratio",
    ),
    (
        "a small increase against the past that would revert",
        put(
            "matrix.rows.0.when",
            [{"metric": "errors", "increase": "49.9%", "baseline": {"type": "BeforeRollout"}}],
        ),
        reasons.INCREASE_TOO_SMALL,
        'spec.matrix.rows[0].when[0].increase: "49.9%" against the past would revert healthy rollouts',
    ),
    (
        "a decrease by all there is",
        put("matrix.rows.0.when", [{"metric": "errors", "decrease": "100%", "baseline": {"type": "Control"}}]),
        reasons.DECREASE_TOO_LARGE,
        'spec.matrix.rows[0].when[0].decrease: nothing can fall by more than "100%": write less than "100%"',
    ),
    (
        "a clause twice in a row",
        put("matrix.rows.0.when", [{"metric": "errors", "above": "1%"}, {"metric": "errors", "above": "1.0%"}]),
        reasons.DUPLICATE_CLAUSE,
        "spec.matrix.rows[0].when[1]: the row has errors above 1.0% twice: write it once",
    ),
    (
        "an action on a flag that no stage names",
        put("matrix.rows.0.action.flags", ["new_cart", "old_cart"]),
        reasons.FLAG_UNKNOWN,
        'spec.matrix.rows[0].action.flags: no stage names the flag "old_cart": name some of new_cart, new_search',
    ),
    (
        "a settle of a day",
        put("matrix.rows.0.settle", "1d"),
        reasons.SETTLE_TOO_LONG,
        'spec.matrix.rows[0].settle: "1d" is too long: write at most 1h',
    ),
    (
        "101 flags",
        put(
            "stages.0.flags",
            [{"names": [f"f{place}-{i}" for i in range(25)], "percentage": 1} for place in range(4)],
        ),
        reasons.TOO_MANY_FLAGS,
        "spec.stages: the plan names 102 flags, and 100 is the most",
    ),
    (
        "an argument without a value",
        put("metrics.0.template.args", [{"name": "flag"}]),
        reasons.ARGUMENT_MISSING,
        "spec.metrics[0].args: spec.metrics[0].template.args has flag, which gets no value: add it to args",
    ),
    (
        "a value without an argument",
        put("metrics.0.args", {"flag": "x"}),
        reasons.ARGUMENT_UNKNOWN,
        "spec.metrics[0].args: flag is not an argument of the template: it has none",
    ),
    (
        "a placeholder that nothing fills",
        put("metrics.0.template.sql.query", "SELECT count(*) FROM t WHERE flag = %(flag)s AND at < %(window_end)s"),
        reasons.ARGUMENT_UNKNOWN,
        "spec.metrics[0].template.sql.query: %(flag)s is neither %(window_start)s nor %(window_end)s nor in args",
    ),
]


@pytest.mark.parametrize(("change", "reason", "words"), [i[1:] for i in INVALID], ids=[i[0] for i in INVALID])
def test_it_cannot_be(change: Change, reason: str, words: str) -> None:
    with pytest.raises(InvalidPlan) as error:
        plan(change)
    assert error.value.reason == reason
    assert words in error.value.message


def shared(matrix_change: Change, *changes: Change) -> Resolved:
    matrix, template = manifest("RollbackMatrix"), manifest("MetricTemplate")
    matrix_change(matrix["spec"])
    rollout = changed(
        drop("matrix"),
        put("matrixRef", {"name": "guards"}),
        drop("metrics.0.template"),
        put("metrics.0.templateRef", {"name": "errors"}),
        *changes,
    )
    return resolve(
        rollout,
        matrix=RollbackMatrix.parse(matrix),
        templates={"errors": MetricTemplate.parse(template)},
    )


SHARED_INVALID = [
    (
        "a clause on a metric that the rollout does not bind",
        put("rows.0.when.0.metric", "apdex"),
        reasons.METRIC_UNBOUND,
        'spec.rows[0].when[0].metric: the rollout does not bind "apdex": add it to spec.metrics, or write optional',
    ),
    (
        "a plain number on a Ratio",
        put("rows.0.when.0.above", "0.01"),
        reasons.LIMIT_MISMATCH,
        (
            'RollbackMatrix/guards spec.rows[0].when[0].above: "0.01" does not fit errors, which is a Ratio: write a '
            'percentage such as "0.1%"'
        ),
    ),
    (
        "a percentage on a Gauge",
        put("rows.0.when.0", {"metric": "latency", "below": "5%"}),
        reasons.LIMIT_MISMATCH,
        '.below: "5%" does not fit latency, which is a Gauge: write a plain number in s',
    ),
]


@pytest.mark.parametrize(
    ("change", "reason", "words"), [i[1:] for i in SHARED_INVALID], ids=[i[0] for i in SHARED_INVALID]
)
def test_a_shared_matrix_that_does_not_fit(change: Change, reason: str, words: str) -> None:
    slow = put("rows.0.respondWithin", "1h")
    with pytest.raises(InvalidPlan) as error:
        shared(both(slow, change))
    assert error.value.reason == reason
    assert words in error.value.message


def test_an_optional_clause_on_an_unbound_metric_is_dropped_without_a_notice() -> None:
    clauses = [{"metric": "errors", "above": "1%"}, {"metric": "apdex", "increase": "90%", "optional": True}]
    clauses[1]["baseline"] = {"type": "BeforeRollout"}
    resolved = shared(put("rows.0.when", clauses)).plan
    assert [clause.metric for clause in resolved.rows[0].clauses] == ["errors"]
    assert resolved.notices == ()


WITHOUT_EFFECT = [
    ("migrations", put("stages.0.migrations", [SCRIPT]), "spec.stages[0].migrations"),
]


@pytest.mark.parametrize(("change", "path"), [i[1:] for i in WITHOUT_EFFECT], ids=[i[0] for i in WITHOUT_EFFECT])
def test_a_stage_does_not_start_without_what_it_demands(change: Change, path: str) -> None:
    resolved = plan(change)
    assert [notice.path for notice in resolved.notices] == [path]
    assert resolved.stages[0].blockers[0].startswith(f"{path} is not in effect yet")


def test_the_guides_calendar(guide: Resolved) -> None:
    calendar = guide.plan.calendar
    assert calendar is not None
    assert calendar.zone == "Europe/Berlin"
    assert calendar.windows == (DailyWindow(frozenset({0, 1, 2, 3}), 9 * 60, 16 * 60),)
    assert calendar.freezes == (Freeze(date(2026, 12, 20), date(2027, 1, 3), "year end"),)


@pytest.mark.parametrize(
    ("calendar", "message"),
    [
        (
            {"timeZone": "Europe/Bonn"},
            'spec.calendar.timeZone: there is no time zone "Europe/Bonn": write a name such as Europe/Berlin',
        ),
        (
            {"freezes": [{"from": "2026-01-01", "to": "2026-02-30"}]},
            'spec.calendar.freezes[0].to: "2026-02-30" is on no calendar: write a day that the month has',
        ),
        (
            {"freezes": [{"from": "2026-02-02", "to": "2026-02-01"}]},
            "spec.calendar.freezes[0]: it ends on 2026-02-01, before it begins on 2026-02-02: exchange from and to",
        ),
    ],
)
def test_a_calendar_that_cannot_be(calendar: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidPlan) as raised:
        plan(put("calendar", calendar))
    assert (raised.value.reason, raised.value.message) == ("CalendarInvalid", message)


def test_on_blind_and_deadline() -> None:
    resolved = plan(put("onBlind", "Revert"), put("stages.1.deadline", "3d"))
    assert resolved.on_blind is OnBlind.REVERT
    assert [stage.deadline for stage in resolved.stages] == [None, timedelta(days=3)]
    assert resolved.notices == ()
    assert resolved.plan_hash != plan(put("stages.1.deadline", "3d")).plan_hash, "what guards do is approved"


def test_jobs_are_checks_whose_manifest_is_elsewhere() -> None:
    change = (
        put("preflight", [{"name": "backup", "confirm": "Is there one?"}, {"name": "a", "job": SCRIPT}]),
        put("stages.0.checks", [{"name": "b", "job": SCRIPT}]),
    )
    found = resolve(changed(*change))
    stage = found.plan.stages[0]
    assert found.plan.preflight == (Check("preflight/backup", "Is there one?"), Check("preflight/a"))
    assert (stage.checks, stage.blockers) == ((Check(f"stages/{stage.name}/b"),), ())
    assert {key: (at.name, at.key) for key, at in found.jobs.items()} == {
        "preflight/a": ("scripts", "back.sql"),
        f"stages/{stage.name}/b": ("scripts", "back.sql"),
    }
    assert (found.checks, found.plan.notices) == ({}, ())
    elsewhere = {"configMapKeyRef": {"name": "scripts", "key": "other.sql"}}
    other = resolve(changed(change[0], put("stages.0.checks", [{"name": "b", "job": elsewhere}])))
    assert other.plan.plan_hash != found.plan.plan_hash


def test_checks_and_approvals_are_in_the_plan_under_their_full_names() -> None:
    asked = {"name": "backup", "sql": "SELECT 1", "expect": "Rows"}
    change = (
        put("preflight", [asked, {"name": "on-call", "confirm": "Somebody is there."}]),
        put("stages.0.checks", [{"name": "backup", "sql": "SELECT 2"}]),
        put("stages.0.approval", {"required": 2, "allowServiceAccounts": True}),
    )
    found = resolve(changed(*change))
    assert found.plan.preflight == (Check("preflight/backup"), Check("preflight/on-call", "Somebody is there."))
    stage = found.plan.stages[0]
    assert stage.checks == (Check(f"stages/{stage.name}/backup"),)
    assert stage.approval == Approval(2, service_accounts=True)
    assert found.checks == {
        "preflight/backup": CheckQuery("SELECT 1", "Rows"),
        f"stages/{stage.name}/backup": CheckQuery("SELECT 2", None),
    }
    assert (stage.blockers, found.plan.notices) == ((), ())


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (put("stages.1.risk", "High"), "spec.stages[*].risk"),
    ],
    ids=["risk"],
)
def test_what_only_informs_blocks_nothing(change: Change, path: str) -> None:
    resolved = plan(change)
    assert [notice.path for notice in resolved.notices] == [path]
    assert not any(stage.blockers for stage in resolved.stages)


def on_prometheus(*changes: Change) -> FeatureRollout:
    return changed(put("metrics.0.template", {"type": "Ratio", "prometheus": PROMETHEUS}), *changes)


def provider(*namespaces: str, address: str = "http://metrics:9090") -> dict[str, MetricProvider]:
    obj = manifest("MetricProvider")
    obj["spec"] = {"prometheus": {"address": address}, "allowedNamespaces": list(namespaces)}
    return {"p": MetricProvider.parse(obj)}


class TestPrometheus:
    def test_nothing_on_it_is_blocked(self) -> None:
        resolved = resolve(on_prometheus(), providers=provider("*"))
        assert resolved.plan.metrics["errors"].blocker is None
        assert row(resolved.plan, Severity.HIGH).clauses[0].blocker is None
        assert set(resolved.queries) == {"latency"}
        assert resolved.prometheus == {"errors": PrometheusQuery("p", MetricType.RATIO, events="a", units="b")}
        assert resolved.plan.notices == ()

    def test_arguments_are_escaped_label_values(self) -> None:
        source = {
            **PROMETHEUS,
            "events": 'sum(e{flag="{{flag}}"}[{{window}}])',
            "controlEvents": "c",
            "controlUnits": "d",
        }
        template = {"type": "Ratio", "args": [{"name": "flag"}], "prometheus": source}
        bound = changed(put("metrics.0.template", template), put("metrics.0.args", {"flag": 'a"} or b{c="'}))
        query = resolve(bound).prometheus["errors"]
        assert query.events == 'sum(e{flag="a\\"} or b{c=\\""}[{{window}}])'
        assert (query.control_events, query.control_units) == ("c", "d")

    def test_a_gauge_has_a_value_in_the_control_arm(self) -> None:
        source = {"providerRef": {"name": "p"}, "value": "a", "controlValue": "c"}
        template = {"type": "Gauge", "prometheus": source}
        query = resolve(
            changed(
                put("metrics.0.template", template),
                put("stages", [{"name": "ten", "flags": [{"names": ["a"], "percentage": 10}]}]),
                put(
                    "matrix.rows",
                    [
                        {
                            "severity": "High",
                            "when": [{"metric": "errors", "increase": "5%", "baseline": {"type": "Control"}}],
                            "respondWithin": "2h",
                            "action": {"type": "DisableFlags"},
                        }
                    ],
                ),
            )
        )
        assert query.prometheus["errors"].control_value == "c"
        assert str(query.plan.rows[0].clauses[0]) == "errors increase 5% against Control"

    @pytest.mark.parametrize(
        ("providers", "reason", "words"),
        [
            ({}, reasons.PROVIDER_NOT_FOUND, "there is no MetricProvider p: create it or correct the name"),
            (provider(), reasons.PROVIDER_NOT_ALLOWED, "the MetricProvider p is not for namespace"),
            (provider("other"), reasons.PROVIDER_NOT_ALLOWED, "ask for it to be added to allowedNamespaces"),
        ],
        ids=["missing", "for nobody", "for others"],
    )
    def test_a_provider_that_cannot_be_asked(
        self, providers: dict[str, MetricProvider], reason: str, words: str
    ) -> None:
        with pytest.raises(InvalidPlan) as raised:
            resolve(on_prometheus(), providers=providers)
        assert raised.value.reason == reason
        assert raised.value.message.startswith("spec.metrics[0].template.prometheus.providerRef: ")
        assert words in raised.value.message
        assert "metrics:9090" not in raised.value.message

    def test_another_address_resets_the_evidence_that_it_touches_and_no_other(self) -> None:
        before = resolve(on_prometheus(), providers=provider("*")).plan
        widened = resolve(on_prometheus(), providers=provider("*", "default")).plan
        moved = resolve(on_prometheus(), providers=provider("*", address="http://other:9090")).plan
        keys = [[clause.key for row in plan.rows for clause in row.clauses] for plan in (before, widened, moved)]
        assert keys[0] == keys[1]
        assert [a == b for a, b in zip(keys[0], keys[2], strict=True)] == [False, True]
        assert (before.plan_hash, before.spec_hash) == (widened.plan_hash, moved.spec_hash)
        assert before.plan_hash != moved.plan_hash


@pytest.mark.parametrize(
    ("clause", "baseline", "text"),
    [
        ({"increase": "60%"}, BaselineType.BEFORE_ROLLOUT, "errors increase 60% against BeforeRollout"),
        ({"increase": "5%"}, BaselineType.CONTROL, "errors increase 5% against Control"),
        ({"decrease": "20%"}, BaselineType.CONTROL, "errors decrease 20% against Control"),
    ],
    ids=["against the past", "against control", "decrease"],
)
def test_a_relative_clause(clause: dict[str, Any], baseline: BaselineType, text: str) -> None:
    resolved = plan(put("matrix.rows.0.when", [{"metric": "errors", **clause, "baseline": {"type": str(baseline)}}]))
    guard = row(resolved, Severity.HIGH).clauses[0]
    assert (guard.baseline, guard.blocker, str(guard)) == (baseline, None, text)
    assert guard.sense is (Sense.ABOVE if "increase" in clause else Sense.BELOW)
    assert guard.limit.value == float(next(iter(clause.values())).removesuffix("%")) / 100
    assert resolved.notices == ()


def test_an_alert_cannot_be_judged_yet_stays_a_guard_and_says_so() -> None:
    resolved = plan(put("matrix.rows.0.when", [{"alert": "CheckoutBurning"}]))
    guard = row(resolved, Severity.HIGH).clauses[0]
    assert guard.blocker is not None
    assert "cannot be judged" in guard.blocker
    assert (row(resolved, Severity.HIGH), guard) in resolved.guards()
    assert resolved.notices == (Notice("spec.matrix.rows[0].when[0].alert", "the clause is not judged"),)


def test_a_rollback_script_is_not_run_and_the_flags_are_disabled() -> None:
    action = {"type": "RollBackDatabase", "script": SCRIPT, "sha256": "0" * 64, "acknowledgeDataLoss": True}
    resolved = plan(put("matrix.rows.0.action", action))
    assert row(resolved, Severity.HIGH).action == Action(ActionType.ROLL_BACK_DATABASE)
    assert resolved.notices == (
        Notice("spec.matrix.rows[0].action.script", "the flags are disabled, the script is not run"),
    )


def test_the_manifest_is_not_changed_by_resolving_it() -> None:
    obj = manifest("FeatureRollout")
    before = deepcopy(obj)
    resolve(FeatureRollout.parse(obj))
    assert obj == before
    assert is_ours(obj)
