"""The manifest is broken while the operator is away: what is raised is still guarded, and nothing more is raised."""

from collections.abc import Callable

import pytest

from support.manifests import (
    ERRORS,
    A,
    disable,
    manifest,
    rollout,
    stage,
    store,
    template,
)
from support.operatorprocess import Operator
from support.world import World

TEN = (True, 10, frozenset())
OFF = (False, 10, frozenset())
REFERRING = rollout(
    # Healthy enough for the second stage soon after the start, were it not for the trouble.
    stages=[stage("ten", 10, "10s"), stage("half", 50)],
    matrixRef={"name": "shared"},
    metrics=[{"name": "error-rate", "templateRef": {"name": "shared"}, "interval": "1s"}],
)
MATRIX = manifest("RollbackMatrix", "shared", {"rows": [disable()]})
TEMPLATE = manifest("MetricTemplate", "shared", template(ERRORS))


def without_matrix(world: World) -> None:
    world.delete("RollbackMatrix", "shared")


def without_template(world: World) -> None:
    world.delete("MetricTemplate", "shared")


def invalid_plan(world: World) -> None:
    """A valid object, which the API server takes, and no valid plan: the matrix guards what it does not measure."""
    world.edit_spec(metrics=[{**REFERRING["spec"]["metrics"][0], "name": "other"}])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (without_matrix, "MatrixNotFound"),
        (without_template, "TemplateNotFound"),
        (invalid_plan, "MetricUnbound"),
    ],
    ids=["matrix", "template", "plan"],
)
def test_a_manifest_broken_while_the_operator_was_down_is_guarded_by_the_last_good_plan(
    world: World, operator: Operator, damage: Callable[[World], None], reason: str
) -> None:
    world.apply(store(), MATRIX, TEMPLATE, REFERRING)
    world.wait_row(A, TEN)
    operator.wait_looks(2, verdict="Pass")
    operator.kill()
    damage(world)
    operator.start()
    world.wait_condition("Stalled", "True", reason)
    # Longer than the bake: not one of these looks counts.
    operator.wait_looks(12, verdict="Pass")
    assert world.row(A) == TEN
    world.traffic.failed = 0.3
    world.wait_row(A, OFF, 60.0)
    world.soon(lambda: world.conditions()["RolledBack"][0] == "True", 10.0)
    assert [entry["kind"] for entry in world.audit(A)] == ["Raise", "Lower"]
