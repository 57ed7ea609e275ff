"""The metrics cannot be read: not knowing is neither failing nor passing."""

from datetime import datetime

import pytest

from support.manifests import A, disable, rollout, stage, store
from support.operatorprocess import Operator
from support.world import World

TEN = (True, 10, frozenset())
OUTAGES = [
    pytest.param("REVOKE SELECT ON notifications FROM {reader}", "GRANT SELECT ON notifications TO {reader}", "42501"),
    pytest.param("ALTER TABLE notifications RENAME TO gone", "ALTER TABLE gone RENAME TO notifications", "42P01"),
    pytest.param("ALTER ROLE {reader} NOLOGIN", "ALTER ROLE {reader} LOGIN", "AuthenticationFailed"),
]


@pytest.mark.parametrize(("broken", "mended", "said"), OUTAGES, ids=["privilege", "table", "login"])
def test_an_outage_of_metrics_neither_reverts_nor_advances(
    world: World, operator: Operator, broken: str, mended: str, said: str
) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "4s"), stage("half", 50)]))
    world.wait_row(A, TEN)
    operator.wait_looks(1, verdict="Pass")
    world.database.execute(broken.format(reader=world.reader))
    world.database.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", world.reader)
    operator.wait_looks(1, verdict="Error")
    world.soon(lambda: world.conditions()["GuardsHealthy"] == ("False", "GuardsBlind"))
    message = world.condition("GuardsHealthy")["message"]
    assert message.startswith("error-rate: ")
    assert said in message
    assert world.conditions()["Ready"] == ("False", "GuardsBlind")
    # Longer than the rest of the bake.
    operator.wait_looks(6, verdict="Error")
    assert world.row(A) == TEN
    world.database.execute(mended.format(reader=world.reader))
    world.wait_row(A, (True, 50, frozenset()))
    world.wait_condition("GuardsHealthy", "True", "GuardsWatching")
    assert not [entry for entry in world.audit() if entry["kind"] == "Lower"]


def test_no_traffic_is_no_proof(world: World, operator: Operator) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "3s"), stage("half", 50)]))
    world.wait_row(A, TEN)
    world.traffic.flowing = False
    world.soon(lambda: world.conditions()["GuardsHealthy"] == ("Unknown", "NoTraffic"), 30.0)
    operator.wait_looks(5, verdict="NoData")
    assert world.row(A) == TEN
    world.traffic.flowing = True
    world.wait_row(A, (True, 50, frozenset()))


@pytest.mark.parametrize("on_blind", ["Revert", "Hold"])
def test_guards_that_stay_blind_revert_only_where_that_is_wanted(
    world: World, operator: Operator, on_blind: str
) -> None:
    within = {**disable(), "respondWithin": "12s"}
    world.apply(store(), rollout(stages=[stage("ten", 10, "1h")], rows=[within], onBlind=on_blind))
    world.wait_row(A, TEN)
    operator.wait_looks(1, verdict="Pass")
    world.database.execute(f"REVOKE SELECT ON notifications FROM {world.reader}")
    if on_blind == "Hold":
        # Twice as long as the other may take.
        operator.wait_looks(25, verdict="Error")
        assert world.row(A) == TEN
        assert world.conditions()["Ready"] == ("False", "GuardsBlind")
        return
    world.wait_row(A, (False, 10, frozenset()), 60.0)
    lowered = world.audit(A)[-1]
    assert (lowered["kind"], lowered["reason"], lowered["actor"]) == ("Lower", "FlagsDisabled", "operator")
    assert lowered["message"].startswith("error-rate could not be measured (error-rate: ")
    assert "onBlind is Revert, as for a High breach." in lowered["message"]
    assert lowered["evidence"]["value"] == "not measured"
    # Not before it had failed for as long as the row may take.
    assert (lowered["at"] - datetime.fromisoformat(lowered["evidence"]["onsetAt"])).total_seconds() >= 12.0
    world.soon(lambda: world.status()["phase"] == "RolledBack", 10.0)
    assert world.status()["rollback"]["value"] == "not measured"
