"""Bad input and bad times, one row each: a condition that a person can act on, no change in the flag table, and
the first stage by itself when the cause is gone."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from feature_rollout.sandbox.postgres import PostgresServer
from support.manifests import (
    ERRORS,
    ROLLOUT,
    SECRET,
    STORE,
    A,
    B,
    Object,
    disable,
    manifest,
    metric,
    rollout,
    row,
    stage,
    store,
    template,
)
from support.operatorprocess import Operator
from support.waiting import wait_for
from support.world import World

TEN = (True, 10, frozenset())
STAGES = [stage("ten", 10, "60s")]
# Stores are looked after every ten seconds, rollouts every two.
HEAL_S = 30.0

Step = Callable[[World], object]


@dataclass(frozen=True)
class Case:
    """`setup` makes the cause and applies everything, `mend` takes the cause away; `words` are in the message."""

    name: str
    reason: str
    words: tuple[str, ...]
    setup: Step
    mend: Step


def sql(*statements: str) -> Step:
    """Run as the superuser, with the names of the roles in braces."""

    def run(world: World) -> None:
        names = {"writer": world.writer, "reader": world.reader, "owner": world.owner}
        for statement in statements:
            world.database.execute(statement.format(**names, database=world.database.name))

    return run


def apply(*objects: Object) -> Step:
    return lambda world: world.apply(*objects)


def then(*steps: Step) -> Step:
    def run(world: World) -> None:
        for step in steps:
            step(world)

    return run


PLAIN = then(apply(store()), apply(rollout(stages=STAGES)))
REFERRING = rollout(
    stages=STAGES,
    matrixRef={"name": "shared"},
    metrics=[{"name": "error-rate", "templateRef": {"name": "shared"}, "interval": "1s"}],
)
MATRIX = manifest("RollbackMatrix", "shared", {"rows": [disable()]})
TEMPLATE = manifest("MetricTemplate", "shared", template(ERRORS))


def other_secret(world: World) -> None:
    """A Secret that the operator may not read."""
    world.secret("another", world.uris())
    world.apply(store("other", secret="another"), rollout(stages=STAGES, storeRef={"name": "other"}))


def allow_secret(world: World) -> None:
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{world.namespace}/roles/feature-rollout-operator"
    _, role = world.cluster.request("GET", path)
    secrets = next(rule for rule in role["rules"] if rule["resources"] == ["secrets"])
    secrets["resourceNames"].append("another")
    status, answer = world.cluster.request("PUT", path, role)
    assert status == 200, answer


def with_uri(key: str, change: Callable[[World], str]) -> Step:
    return lambda world: world.secret(SECRET, {**world.uris(), key: change(world)})


def wrong_password(role: str) -> Step:
    return with_uri(f"{role}-uri", lambda world: world.database.uri(getattr(world, role), "not-the-password"))


def right_secret(world: World) -> None:
    world.secret(SECRET, world.uris())


def without_key(world: World) -> None:
    def drop(secret: Object) -> None:
        del secret["data"]["writer-uri"]

    world.edit("Secret", SECRET, drop)


FOREIGN_DATABASE = with_uri(
    "writer-uri", lambda world: world.uris()["writer-uri"].replace(world.database.name, "nowhere")
)
NOT_AN_ADDRESS = with_uri("writer-uri", lambda world: "postgresql://" + world.writer + ":hunter2@/tmp?host=/tmp")
RENAME_TABLE = "ALTER TABLE feature_flags RENAME TO mislaid"
RENAMED_BACK = "ALTER TABLE mislaid RENAME TO feature_flags"
DELETE_ROW = (
    f"CREATE TABLE kept AS SELECT * FROM feature_flags WHERE name = '{A}'; DELETE FROM feature_flags WHERE name = '{A}'"
)
INSERT_ROW = "INSERT INTO feature_flags SELECT * FROM kept; DROP TABLE kept"

CASES = [
    Case("no-store", "StoreNotFound", (STORE, "spec.storeRef"), apply(rollout(stages=STAGES)), apply(store())),
    Case(
        "no-secret",
        "SecretNotFound",
        (SECRET, "create it"),
        then(lambda world: world.delete("Secret", SECRET), PLAIN),
        right_secret,
    ),
    Case("no-key-in-the-secret", "SecretNotFound", (SECRET, "writer-uri"), then(without_key, PLAIN), right_secret),
    Case("a-secret-that-is-forbidden", "ApiServerForbidden", ("another", "grant"), other_secret, allow_secret),
    Case("no-connection-string", "ConnectionInvalid", ("writer", "host"), then(NOT_AN_ADDRESS, PLAIN), right_secret),
    Case(
        "a-wrong-password",
        "AuthenticationFailed",
        ("refused the login", "password"),
        then(wrong_password("writer"), PLAIN),
        right_secret,
    ),
    Case("no-database", "DatabaseMissing", ("does not exist",), then(FOREIGN_DATABASE, PLAIN), right_secret),
    Case("no-table", "TableMissing", ("feature_flags",), then(sql(RENAME_TABLE), PLAIN), sql(RENAMED_BACK)),
    Case("no-row", "FlagMissing", (A, "create it"), then(sql(DELETE_ROW), PLAIN), sql(INSERT_ROW)),
    Case(
        "no-column",
        "ColumnMissing",
        ("user_groups", "text[]"),
        then(sql("ALTER TABLE feature_flags RENAME user_groups TO cohorts"), PLAIN),
        sql("ALTER TABLE feature_flags RENAME cohorts TO user_groups"),
    ),
    Case(
        "no-privilege",
        "PermissionDenied",
        ("GRANT", "feature_flags"),
        then(sql("REVOKE UPDATE (enabled) ON feature_flags FROM {writer}"), PLAIN),
        sql("GRANT UPDATE (enabled) ON feature_flags TO {writer}"),
    ),
    Case(
        "no-bookkeeping",
        "PermissionDenied",
        ("CREATE", "feature_rollout"),
        then(sql('REVOKE CREATE ON DATABASE "{database}" FROM {owner}'), PLAIN),
        sql('GRANT CREATE ON DATABASE "{database}" TO {owner}'),
    ),
    Case(
        "no-matrix", "MatrixNotFound", ("spec.matrixRef", "shared"), apply(store(), TEMPLATE, REFERRING), apply(MATRIX)
    ),
    Case(
        "no-template",
        "TemplateNotFound",
        ("spec.metrics[0].templateRef", "shared"),
        apply(store(), MATRIX, REFERRING),
        apply(TEMPLATE),
    ),
    Case(
        "a-clause-on-an-unbound-metric",
        "MetricUnbound",
        ("latency", "spec.metrics"),
        apply(
            store(),
            TEMPLATE,
            manifest(
                "RollbackMatrix",
                "shared",
                {"rows": [row("High", {"type": "DisableFlags"}, clause={"metric": "latency", "above": "1%"})]},
            ),
            REFERRING,
        ),
        apply(MATRIX),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_bad_input(world: World, operator: Operator, case: Case) -> None:
    case.setup(world)
    condition = world.wait_condition("Ready", "False", case.reason)
    for word in case.words:
        assert word in condition["message"]
    world.soon(lambda: world.conditions()["Stalled"] == ("True", case.reason))
    world.soon(lambda: case.reason in world.reasons())
    assert world.status()["observedGeneration"] == 1
    assert world.audit() == []
    case.mend(world)
    world.wait_row(A, TEN, HEAL_S)
    world.wait_condition("Ready", "True", "Baking")
    assert world.conditions()["Stalled"][0] == "False"


def test_the_database_is_down_from_the_start(
    own_world: World, own_postgres: PostgresServer, operator: Operator
) -> None:
    world = own_world
    world.database.disconnect()
    own_postgres.stop()
    PLAIN(world)
    condition = world.wait_condition("Ready", "False", "StoreUnreachable")
    assert "does not answer" in condition["message"]
    world.soon(lambda: "StoreUnreachable" in world.reasons())
    world.wait_condition("Ready", "False", "StoreUnreachable", name=STORE, kind="FlagStore")
    own_postgres.start()
    world.wait_row(A, TEN, HEAL_S)
    world.wait_condition("Ready", "True", "StoreUsable", name=STORE, kind="FlagStore")


# A metric's query that is of no use, and what is said of it.
QUERIES = [
    ("a-syntax-error", "SELEKT 1 AS events, 1 AS units", "SQLSTATE 42601"),
    ("no-such-table", "SELECT 1 AS events, count(*) AS units FROM nowhere", "a table in the query does not exist"),
    ("a-division-by-zero", "SELECT 1/0 AS events, 1 AS units", "division by zero"),
    ("text", "SELECT 'many' AS events, 1 AS units", "events"),
    ("nan", "SELECT 'NaN'::float8 AS events, 1 AS units", "NaN"),
    ("infinity", "SELECT 'Infinity'::float8 AS events, 1 AS units", "infinite"),
    ("two-rows", "SELECT g AS events, 1 AS units FROM generate_series(0, 1) g", "more than one row"),
    ("a-missing-column", "SELECT 1 AS events", "units"),
    ("a-write", "UPDATE feature_flags SET enabled = true RETURNING 0 AS events, 100 AS units", "SQLSTATE"),
    ("two-statements", "SELECT 0 AS events, 100 AS units; SELECT 1", "SQLSTATE"),
]
# Nothing that can be judged, and no error either.
NO_DATA = [
    ("null", "SELECT NULL::int AS events, NULL::int AS units"),
    ("no-row", "SELECT 0 AS events, 1 AS units WHERE false"),
    ("no-units", "SELECT 0 AS events, 0 AS units"),
]


FLAGS = [A, B, *(f"notifications_{name}" for name in ("optimistic_updates", "advanced_caching", "virtual_scrolling"))]
FLAGS += [f"notifications_{name}" for name in ("granular_preferences", "quiet_hours", "data_retention")]
FLAGS += [f"notifications_{name}" for name in ("new_bell_ui", "advanced_filtering", "preview_mode")]


def holding(name: str, flag: str, query: str) -> Object:
    """A rollout on this flag that would be in its second stage in a moment, if the query were any good."""
    stages = [
        {"name": f"to-{share}", "flags": [{"names": [flag], "percentage": share}], "bake": "1s"} for share in (10, 50)
    ]
    return rollout(name, stages=stages, metrics=[metric("error-rate", query)])


def mend_all(world: World, names: list[str]) -> None:
    """With a query that can be used, each goes on by itself."""
    for name in names:
        world.edit_spec(name, metrics=[metric()])
    for name, flag in zip(names, FLAGS, strict=False):
        world.wait_row(flag, (True, 50, frozenset()))
        wait_for(lambda name=name: world.condition("GuardsHealthy", name)["status"] == "True")


def test_queries_that_cannot_be_used(world: World, operator: Operator) -> None:
    """Side by side: none of them disturbs another."""
    before = world.table()
    world.apply(store())
    for flag, (name, query, _) in zip(FLAGS, QUERIES, strict=False):
        world.apply(holding(name, flag, query))
    for name, _, said in QUERIES:
        condition = world.wait_condition("GuardsHealthy", "False", "GuardsBlind", name=name)
        assert condition["message"].startswith("error-rate: "), name
        assert said in condition["message"], name
        world.soon(lambda name=name: "GuardsBlind" in world.reasons(name))
    operator.wait_looks(3 * len(QUERIES), verdict="Error")
    assert world.table() == before
    mend_all(world, [name for name, _, _ in QUERIES])


def test_queries_without_data(world: World, operator: Operator) -> None:
    world.apply(store())
    for flag, (name, query) in zip(FLAGS, NO_DATA, strict=False):
        world.apply(holding(name, flag, query))
    for name, _ in NO_DATA:
        world.wait_condition("GuardsHealthy", "Unknown", "NoTraffic", name=name)
    operator.wait_looks(3 * len(NO_DATA), verdict="NoData")
    # The first stage may be entered before there is anything to see, no other.
    assert {world.row(flag) for flag in FLAGS} <= {(False, 0, frozenset()), TEN}
    mend_all(world, [name for name, _ in NO_DATA])


def test_a_wrong_password_of_the_reader_is_a_metrics_outage(world: World, operator: Operator) -> None:
    wrong_password("reader")(world)
    world.apply(store(), rollout(stages=[stage("ten", 10), stage("half", 50)]))
    condition = world.wait_condition("GuardsHealthy", "False", "GuardsBlind")
    assert "AuthenticationFailed" in condition["message"]
    assert world.row(A) in {(False, 0, frozenset()), TEN}
    right_secret(world)
    world.wait_row(A, (True, 50, frozenset()), HEAL_S)


def test_a_password_is_changed_in_mid_stage(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "60s")]))
    world.wait_row(A, TEN)
    for role in (world.writer, world.reader):
        world.database.execute(f"ALTER ROLE {role} PASSWORD 'changed-and-secret'")
        world.database.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", role)
        world.database._passwords[role] = "changed-and-secret"
    world.wait_condition("Ready", "False", "AuthenticationFailed")
    right_secret(world)
    world.wait_condition("Ready", "True", "Baking")
    world.traffic.failed = 0.3
    world.wait_row(A, (False, 10, frozenset()))


def test_a_manifest_that_breaks_in_mid_stage_keeps_its_guards(world: World, operator: Operator) -> None:
    """An edit that makes the plan invalid must not switch off what watches the flags that are on."""
    world.apply(store(), MATRIX, TEMPLATE, REFERRING)
    world.wait_row(A, TEN)
    world.delete("RollbackMatrix", "shared")
    world.wait_condition("Stalled", "True", "MatrixNotFound", name=ROLLOUT)
    world.traffic.failed = 0.3
    world.wait_row(A, (False, 10, frozenset()))
