"""Identity: what changes which hash.

| what | plan hash | spec hash | stage's digest | clause's key |
|---|---|---|---|---|
| the same, written in another way, or with its defaults | same | same | same | same |
| intervals, calendar, contacts, suspend, holdAt, onDelete, risk, deadline | same | same | same | same |
| preflight, which people confirm as they have read it | other | same | same | same |
| a stage | other | other | its own only | same |
| the inline matrix or template | other | other | same | that clause only |
| the shared matrix or template | other | same | same | that clause only |
| the store's table | other | same | same | same |
"""

import json
from typing import Any

import pytest

from feature_rollout.api.featurerollout import FeatureRollout
from feature_rollout.api.flagstore import FlagStore
from feature_rollout.api.metrictemplate import MetricTemplate
from feature_rollout.api.resolve import resolve
from feature_rollout.api.rollbackmatrix import RollbackMatrix
from feature_rollout.core.plan import Plan
from unit.api.cases import Change, both, drop, manifest, put

SHARED = both(
    drop("matrix"),
    put("matrixRef", {"name": "guards"}),
    drop("metrics.0.template"),
    put("metrics.0.templateRef", {"name": "errors"}),
)


def nothing(spec: dict[str, Any]) -> None:
    pass


def plan(
    change: Change = nothing, *, matrix: Change = nothing, template: Change = nothing, store: Change = nothing
) -> Plan:
    """`matrix`, `template` and `store` change the shared objects; those are used once the rollout is `SHARED`."""
    objects = {kind: manifest(kind) for kind in ("FeatureRollout", "RollbackMatrix", "MetricTemplate", "FlagStore")}
    change(objects["FeatureRollout"]["spec"])
    matrix(objects["RollbackMatrix"]["spec"])
    template(objects["MetricTemplate"]["spec"])
    store(objects["FlagStore"]["spec"])
    return resolve(
        FeatureRollout.parse(objects["FeatureRollout"]),
        matrix=RollbackMatrix.parse(objects["RollbackMatrix"]),
        templates={"errors": MetricTemplate.parse(objects["MetricTemplate"])},
        store=FlagStore.parse(objects["FlagStore"]),
    ).plan


def keys(plan: Plan) -> list[str]:
    return [clause.key for row in plan.rows for clause in row.clauses]


def digests(plan: Plan) -> list[str]:
    return [stage.digest for stage in plan.stages]


def identity(plan: Plan) -> tuple[str, str, list[str], list[str]]:
    return plan.plan_hash, plan.spec_hash, digests(plan), keys(plan)


SAME = {
    "a duration in other units": put("stages.0.bake", "24h"),
    "a percentage with a point": put("stages.0.flags.0.percentage", 5.0),
    "a limit with zeros": put("stages.0.gates.0.atMost", "0.10%"),
    "names in another order": put("stages.0.flags.0.names", ["new_search", "new_cart"]),
    "rows in another order": lambda spec: spec["matrix"]["rows"].reverse(),
    "metrics in another order": lambda spec: spec["metrics"].reverse(),
    "the default interval": put("metrics.1.interval", "30s"),
    "the default mode": put("metrics.1.mode", "Enforce"),
    "the default settle": put("matrix.rows.0.settle", "120s"),
    "the default budget": put("matrix.alphaBudget", "5.0%"),
    "the default of a clause": put("matrix.rows.0.when.0.optional", False),
    "the default bake": put("stages.1.bake", "0s"),
    "the default traffic": put("stages.1.onNoTraffic", "Wait"),
    "no gates": put("stages.1.gates", []),
    "no gates at all": put("stages.1.gates", None),
    "the default minimum": put("stages.0.gates.0", {"metric": "errors", "atMost": "0.1%", "minUnits": 1000}),
    "another interval": put("metrics.0.interval", "1m"),
    "a calendar": put("calendar", {"timeZone": "Europe/Berlin"}),
    "contacts": put("contacts", {"team": "shop"}),
    "suspend": put("suspend", True),
    "holdAt": put("holdAt", "canary"),
    "onDelete": put("onDelete", "Disable"),
    "after nobody": put("stages.0.after", []),
    "a risk": put("stages.0.risk", "High"),
    "a deadline": put("stages.0.deadline", "1w"),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_the_same_is_the_same(change: Change) -> None:
    assert identity(plan(change)) == identity(plan())


def test_the_order_of_keys_means_nothing() -> None:
    obj = manifest("FeatureRollout")

    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: turned(value[name]) for name in reversed(value)}
        return [turned(item) for item in value] if isinstance(value, list) else value

    assert json.dumps(turned(obj)) != json.dumps(obj)
    one, other = (resolve(FeatureRollout.parse(item)).plan for item in (obj, turned(obj)))
    assert identity(one) == identity(other)


OTHER = {
    "a percentage": put("stages.0.flags.0.percentage", 6),
    "everyone instead of no change": put("stages.0.flags.0.groups", []),
    "a bake": put("stages.0.bake", "2d"),
    "a gate": put("stages.0.gates.0.minUnits", 1001),
    "an approval": put("stages.0.approval", {}),
    "what it is after": put("stages.0.after", [{"rollout": "search", "stage": "all"}]),
    "a check": put("stages.0.checks", [{"name": "a", "sql": "SELECT true"}]),
}


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_a_changed_stage_is_another_plan_and_leaves_the_others_digest(change: Change) -> None:
    before, after = plan(), plan(change)
    assert before.plan_hash != after.plan_hash
    assert before.spec_hash != after.spec_hash
    assert [one == other for one, other in zip(digests(before), digests(after), strict=True)] == [False, True]
    assert keys(before) == keys(after)


BINDINGS = {
    "the inline matrix": (put("matrix.rows.0.when.0.above", "2%"), [False, True]),
    "a row's deadline": (put("matrix.rows.0.respondWithin", "20m"), [True, True]),
    "the budget": (put("matrix.alphaBudget", "1%"), [True, True]),
    "an inline template": (put("metrics.0.template.counts", "Users"), [False, True]),
    "the mode": (put("metrics.0.mode", "Observe"), [True, True]),
    "the store": (put("storeRef.name", "other"), [True, True]),
}


@pytest.mark.parametrize(("change", "kept"), BINDINGS.values(), ids=BINDINGS)
def test_the_rollouts_own_guards_and_bindings_are_in_both_hashes(change: Change, kept: list[bool]) -> None:
    before, after = plan(), plan(change)
    assert before.plan_hash != after.plan_hash
    assert before.spec_hash != after.spec_hash
    assert digests(before) == digests(after)
    assert [one == other for one, other in zip(keys(before), keys(after), strict=True)] == kept


def test_a_shared_matrix_is_in_the_plan_hash_only() -> None:
    before, after = plan(SHARED), plan(SHARED, matrix=put("rows.0.when.0.above", "2%"))
    assert before.plan_hash != after.plan_hash
    assert before.spec_hash == after.spec_hash
    assert keys(before) != keys(after)


def test_a_shared_template_is_in_the_plan_hash_only() -> None:
    before, after = plan(SHARED), plan(SHARED, template=put("delay", "1m"))
    assert before.plan_hash != after.plan_hash
    assert before.spec_hash == after.spec_hash
    assert keys(before) != keys(after)


def test_a_reference_to_another_matrix_is_another_spec() -> None:
    assert plan(SHARED).spec_hash != plan(both(SHARED, put("matrixRef", {"name": "others"}))).spec_hash


def test_an_unbound_template_is_in_no_hash() -> None:
    assert plan(template=put("delay", "1m")).plan_hash == plan().plan_hash


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (put("table", {"name": "other"}), False),
        (put("table", {"columns": {"groups": "who"}}), False),
        (put("table", {"schema": "public", "name": "feature_flags"}), True),
        (put("postgres.reader", {"secretKeyRef": {"name": "a", "key": "b"}}), True),
    ],
    ids=["another table", "another column", "the default table", "a reader"],
)
def test_the_mapping_is_in_the_plan_hash(change: Change, same: bool) -> None:
    assert (plan(store=change).plan_hash == plan().plan_hash) is same
    assert plan(store=change).spec_hash == plan().spec_hash


def test_a_clause_in_two_rows_has_two_keys() -> None:
    change = put("matrix.rows.1.when.0", {"metric": "errors", "above": "1%"})
    assert len(set(keys(plan(change)))) == 2


def test_hashes_are_pinned() -> None:
    """Approvals and latches are kept by them: a change here makes every rollout hold after an upgrade."""
    resolved = resolve(FeatureRollout.parse(manifest("FeatureRollout"))).plan
    assert resolved.plan_hash.startswith("v1:a99b0659")
    assert resolved.spec_hash.startswith("v1:829c9d97")
    assert resolved.stages[0].digest.startswith("v1:14ff0111")
    assert resolved.rows[0].clauses[0].key.startswith("v1:e928c0cd")
