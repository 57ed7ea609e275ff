"""The harness itself: what it makes of decorators, what it counts, what it tries again, and that it can fail."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import libcst as cst
import pytest

from mutation.score import KILLED, SURVIVED, TIMED_OUT, UNTRIED, Results, Undecorated, score, table

DECORATED = '''
class Row:
    @property
    def is_off(self) -> bool:
        """Why."""
        return not self.enabled

    @classmethod
    def off(cls) -> Row:
        return cls()

@first
@lru_cache(maxsize=2)
def slow(x: int) -> int:
    return x + 1
'''
PLAIN = '''
class Row:
    def is_off(self) -> bool:
        """Why."""
        return not self.enabled
    is_off = property(is_off)

    @classmethod
    def off(cls) -> Row:
        return cls()

def slow(x: int) -> int:
    return x + 1
slow = first(lru_cache(maxsize=2)(slow))
'''


def test_decorators_become_calls() -> None:
    assert cst.parse_module(DECORATED).visit(Undecorated()).code == PLAIN


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        pytest.param({KILLED: 17, SURVIVED: 3}, 85.0, id="killed of all"),
        pytest.param({KILLED: 8, TIMED_OUT: 9, SURVIVED: 3}, 85.0, id="what does not end is noticed"),
        pytest.param({KILLED: 17, UNTRIED: 3}, 85.0, id="what was not tried is not killed"),
        pytest.param({}, 0.0, id="nothing"),
    ],
)
def test_the_score(counts: dict[str, int], expected: float) -> None:
    assert score(Counter(counts)) == pytest.approx(expected)


def test_the_table_has_a_line_for_each_file() -> None:
    outcomes = {
        "feature_rollout.core.exposure.x_a__mutmut_1": KILLED,
        "feature_rollout.core.state.x_b__mutmut_1": SURVIVED,
    }
    lines = [line.split() for line in table(outcomes).splitlines()]
    assert ["exposure", "1", "1", "0", "0", "0", "100.0%"] in lines
    assert ["state", "1", "0", "0", "1", "0", "0.0%"] in lines
    assert ["total", "2", "1", "0", "1", "0", "50.0%"] in lines


def test_results_are_read_back_and_survivors_tried_again(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json", "v1", {"state": "d"})
    results.tell("a", KILLED)
    results.tell("b", SURVIVED)
    results.save()
    again = Results.read(tmp_path / "results.json")
    assert (again.fingerprint, again.sources, again.outcomes) == ("v1", {"state": "d"}, {"a": KILLED, "b": SURVIVED})
    again.forget({SURVIVED})
    assert again.outcomes == {"a": KILLED, "b": UNTRIED}
