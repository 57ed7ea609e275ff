"""The simulation finds bugs: `make planted` tries all of them, here are some that it finds soon."""

from pathlib import Path

import pytest

from simulation.bugs import BUGS, Bug
from simulation.planted import planted, search

ROOT = Path(__file__).parents[2]
SOON = (
    "the meet takes the greater percentage",
    "two stages are caught up in one step",
    "a latch goes with any reconcile",
    "a stage waits for no other rollout",
    "one approval is enough",
    "the audit is written outside of the transaction, and lost with a crash",
)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_each_can_be_planted(bug: Bug) -> None:
    folder = "operator" if bug.module.startswith("feature_rollout") else "tests"
    path = ROOT / folder / f"{bug.module.replace('.', '/')}.py"
    changed = planted(bug, path.read_text(encoding="utf-8"))
    compile(changed, str(path), "exec")


@pytest.mark.parametrize("name", SOON)
def test_it_is_found(name: str) -> None:
    (bug,) = [bug for bug in BUGS if bug.name == name]
    (found,) = search([bug], seeds=50)
    assert found.seed is not None


def test_a_bug_that_is_nowhere_cannot_be_planted() -> None:
    with pytest.raises(ValueError, match="0 times"):
        planted(Bug("a bug", "module", "what is not there", "x"), "text")
