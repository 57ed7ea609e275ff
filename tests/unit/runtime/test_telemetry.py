"""What the operator's metrics say of rollouts, from their statuses; and that a first revert shows as an increase."""

from typing import Any

from feature_rollout.core.election import Role
from feature_rollout.runtime.engine import Counts
from feature_rollout.runtime.telemetry import Telemetry


def status(phase: str, *, on: bool, **conditions: str) -> dict[str, Any]:
    return {
        "phase": phase,
        "exposure": [{"flag": "a", "enabled": on, "percentage": 50}],
        "conditions": [{"type": type_, "status": value} for type_, value in conditions.items()],
    }


def value(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    return telemetry.registry.get_sample_value(f"featurerollout_{name}", labels)


def test_rollouts_are_counted_by_phase_condition_and_exposure() -> None:
    telemetry = Telemetry()
    telemetry.count(
        [
            status("Baking", on=True, GuardsHealthy="True", Completed="False"),
            status("Held", on=True, GuardsHealthy="False", Completed="False"),
            status("RolledBack", on=False, GuardsHealthy="True", Completed="False"),
            status("Completed", on=True, GuardsHealthy="True", Completed="True"),
            {},
        ]
    )
    assert value(telemetry, "rollouts", phase="Baking") == 1
    assert value(telemetry, "rollouts", phase="Pending") == 1
    assert value(telemetry, "rollout_conditions", type="GuardsHealthy", status="False") == 1
    assert value(telemetry, "rollout_conditions", type="GuardsHealthy", status="True") == 3
    assert value(telemetry, "rollouts_exposed") == 2
    telemetry.count([])
    assert value(telemetry, "rollouts", phase="Baking") is None
    assert value(telemetry, "rollout_conditions", type="GuardsHealthy", status="False") is None
    assert value(telemetry, "rollouts_exposed") == 0


def test_a_revert_is_counted_and_a_late_one_twice() -> None:
    telemetry = Telemetry()
    assert value(telemetry, "reverts_total", severity="High") == 0
    assert value(telemetry, "reverts_late_total", severity="High") == 0
    Counts(telemetry).reverted("High", 3.0, None, late=False)
    assert value(telemetry, "reverts_late_total", severity="High") == 0
    Counts(telemetry).reverted("High", 1000.0, 0.1, late=True)
    assert value(telemetry, "reverts_total", severity="High") == 2
    assert value(telemetry, "reverts_late_total", severity="High") == 1


def test_a_change_of_the_role_is_an_increase_also_the_first_time() -> None:
    telemetry = Telemetry()
    assert {role: value(telemetry, "role_changes_total", role=role) for role in Role} == dict.fromkeys(Role, 0)
