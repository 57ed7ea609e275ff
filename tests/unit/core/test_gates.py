"""Gates: read when the bake is over, on what the stage has counted. They hold; they never revert."""

from __future__ import annotations

from typing import Any

import pytest

from feature_rollout.core.gates import unmet
from feature_rollout.core.plan import Gate, Limit, OnNoTraffic
from feature_rollout.core.progress import Progress
from support.fakes import INTERVAL, T0, gauge, look, percent, plan, ratio, stage

ERRORS = Gate("errors", at_most=percent("1%"), min_units=100)
ADOPTION = Gate("errors", at_least=percent("60%"))
LATENCY = Gate("latency", at_most=Limit(2.0, "2s"), min_units=3)


@pytest.mark.parametrize(
    ("gate", "looks", "waiting"),
    [
        pytest.param(ERRORS, [{"events": 1.0, "units": 100.0}], (), id="at the limit is passed"),
        pytest.param(
            ERRORS, [{"events": 2.0, "units": 100.0}], ("errors must be at most 1%",), id="over it is not passed"
        ),
        pytest.param(
            ERRORS,
            [{"events": 2.0, "units": 100.0}, {"events": 0.0, "units": 900.0}],
            (),
            id="the stage's counts are added up",
        ),
        pytest.param(ERRORS, [{"events": 0.0, "units": 99.0}], ("errors needs 100 units",), id="too few units"),
        pytest.param(ADOPTION, [{"events": 59.0, "units": 100.0}], ("errors must be at least 60%",), id="at least"),
        pytest.param(
            ADOPTION, [{"events": 1.0, "units": 1.0}], (), id="one unit is enough where no more are asked for"
        ),
        pytest.param(ADOPTION, [], ("errors needs 1 units",), id="no look at all is never a pass"),
        pytest.param(ADOPTION, [{"events": 0.0, "units": 0.0}], ("errors needs 1 units",), id="nor one without units"),
        pytest.param(ADOPTION, [{"error": "timeout"}], ("errors needs 1 units",), id="nor an error"),
        pytest.param(LATENCY, [{"value": v} for v in (1.0, 1.5, 9.0)], (), id="a gauge's median, whatever the peak"),
        pytest.param(
            LATENCY, [{"value": v} for v in (1.0, 2.5, 9.0)], ("latency must be at most 2s",), id="its median is over"
        ),
        pytest.param(LATENCY, [{"value": 1.0}] * 2, ("latency needs 3 looks",), id="too few looks of a gauge"),
        pytest.param(LATENCY, [{"value": float("nan")}] * 4, ("latency needs 3 looks",), id="NaN is never a pass"),
        pytest.param(Gate("unbound"), [], ("unbound is not bound",), id="a metric that the plan does not have"),
    ],
)
def test_a_gate(gate: Gate, looks: list[dict[str, Any]], waiting: tuple[str, ...]) -> None:
    of = plan(stage("a", ("bell", 1), gates=(gate,)), metrics=[ratio(), gauge()])
    progress = Progress().entered(of, T0, raised=True)
    for index, numbers in enumerate(looks):
        name = "latency" if "value" in numbers else "errors"
        seen = look(name, T0 + index * INTERVAL, **numbers)
        progress = progress.observed(of, seen, counting=True, on_no_traffic=OnNoTraffic.WAIT)
    assert unmet(gate, of, progress) == waiting


def test_a_metric_that_cannot_be_measured_passes_no_gate() -> None:
    of = plan(metrics=[ratio(blocker="Datadog is not in effect")])
    assert unmet(ERRORS, of, Progress()) == ("Datadog is not in effect",)
