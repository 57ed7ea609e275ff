"""What must hold at the end of every test of the whole, whatever it was about."""

import sys

import pytest

from support.audit import violations
from support.operatorprocess import Operator
from support.world import World

LOG_LINES = 60
# Set by the conftest once the test itself has run; missing when it did not come so far.
FAILED = pytest.StashKey[bool]()


def end(operator: Operator, world: World, request: pytest.FixtureRequest) -> None:
    """Kill the operator. Its log is shown when the test failed, and looked through when it did not."""
    violated = operator.count("featurerollout_invariant_violations_total") if operator.running else 0
    operator.kill()
    if request.node.stash.get(FAILED, True):
        sys.stderr.write("\n".join(operator.log_text.splitlines()[-LOG_LINES:]) + "\n")
        return
    assert violated == 0
    assert "Traceback" not in operator.log_text
    for password in world.passwords():
        assert password not in operator.log_text


def check(world: World, request: pytest.FixtureRequest) -> None:
    """The audit replays to the table and breaks no invariant; no password was said (S17)."""
    if request.node.stash.get(FAILED, True):
        return
    assert violations(world.audit(), world.baseline, world.rows(), world.changed_by_hand, world.actions()) == []
    said = world.everything_said()
    for password in world.passwords():
        assert password not in said
