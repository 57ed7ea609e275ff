"""The ledger's values: what survives the database, what counts as raised, when a rollout is over."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from feature_rollout.core.decide import decide
from feature_rollout.core.decision import View
from feature_rollout.core.exposure import Exposure
from feature_rollout.core.plan import Severity
from feature_rollout.core.progress import Progress
from feature_rollout.core.state import Breach, Latch
from feature_rollout.core.steps import next_stage_entered
from support.fakes import OFF, T0, exposure, ledger, ledger_in, minutes, plan


@pytest.mark.parametrize("log_evidence", [None, 5.25])
def test_a_latch_is_read_back_as_it_was_written(log_evidence: float | None) -> None:
    breach = Breach(
        Severity.CRITICAL, "errors", "errors above 1%", "2%", "1%", log_evidence, T0, minutes(5), "DisableFlags"
    )
    latch = Latch(breach, "ten", "v1:abc", T0 + minutes(1))
    assert Latch.from_json(json.loads(json.dumps(latch.to_json(), allow_nan=False))) == latch


@pytest.mark.parametrize(
    ("baseline", "written", "raised"),
    [
        pytest.param({"bell": OFF}, {"bell": exposure(10)}, ("bell",), id="more than before"),
        pytest.param({"bell": exposure(50)}, {"bell": exposure(10)}, (), id="a stage that lowered it"),
        pytest.param({"bell": exposure(5)}, {"bell": exposure(5)}, (), id="taken back to its baseline"),
        pytest.param({"bell": exposure(5)}, {"bell": exposure(50, enabled=False)}, (), id="switched off"),
        pytest.param({"bell": exposure(100, "admin")}, {"bell": exposure(50)}, ("bell",), id="fewer of more people"),
        pytest.param({}, {"bell": exposure(10)}, ("bell",), id="of which nothing was known"),
    ],
)
def test_raised(baseline: dict[str, Exposure], written: dict[str, Exposure], raised: tuple[str, ...]) -> None:
    assert ledger(baseline=baseline, written=written).raised == raised


def test_a_rollout_is_over_only_for_the_plan_that_it_has_completed() -> None:
    done = ledger(stage=2, completed_at=T0)
    assert done.is_over(3)
    assert done.is_over(2), "stages that were removed since do not make it begin again"
    assert not done.is_over(4)
    assert not replace(done, completed_at=None).is_over(3)


def test_there_is_no_stage_after_the_last() -> None:
    of = plan()
    last = View(of, ledger_in(of, 2), {"bell": exposure(100)}, Progress(), (), T0)
    with pytest.raises(ValueError, match="no next stage"):
        next_stage_entered(last)
    assert decide(last).reason == "Baking"
