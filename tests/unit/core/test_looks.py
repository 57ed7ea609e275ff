"""Looks: what survives the database, windows on the grid, and until when a metric counts as seen."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from feature_rollout.core.looks import Look, Window, known_at, next_window, stale_after
from support.fakes import T0, ratio, seconds

WINDOW = Window(T0, T0 + seconds(30))
WHOLE = Look("errors", WINDOW, 1.0, 2.0, 0.5, "timeout", 3.0, 4.0, 0.75)


def test_a_look_is_read_back_as_it_was_written() -> None:
    assert WHOLE.to_json() == {
        "metric": "errors",
        "start": "2026-01-05T09:00:00+00:00",
        "end": "2026-01-05T09:00:30+00:00",
        "events": 1.0,
        "units": 2.0,
        "value": 0.5,
        "error": "timeout",
        "controlEvents": 3.0,
        "controlUnits": 4.0,
        "controlValue": 0.75,
    }
    assert Look.from_json(json.loads(json.dumps(WHOLE.to_json()))) == WHOLE


def test_a_look_of_an_earlier_version_has_no_control_arm() -> None:
    stored = {name: value for name, value in WHOLE.to_json().items() if not name.startswith("control")}
    assert Look.from_json(stored) == replace(WHOLE, control_events=None, control_units=None, control_value=None)


@pytest.mark.parametrize(
    ("look", "number", "control"),
    [
        pytest.param(Look("m", WINDOW, 1.0, 4.0), 0.25, None, id="a Ratio"),
        pytest.param(Look("m", WINDOW, 1.0, 0.0), None, None, id="a Ratio without units"),
        pytest.param(Look("m", WINDOW, value=0.0), 0.0, None, id="a Gauge"),
        pytest.param(Look("m", WINDOW, units=5.0, value=2.0), 2.0, None, id="a Gauge that counts units"),
        pytest.param(
            Look("m", WINDOW, 1.0, 4.0, control_events=1.0, control_units=2.0), 0.25, 0.5, id="two arms of a Ratio"
        ),
        pytest.param(
            Look("m", WINDOW, 1.0, 4.0, control_events=0.0, control_units=0.0), 0.25, None, id="an empty control arm"
        ),
        pytest.param(Look("m", WINDOW, value=1.0, control_value=3.0), 1.0, 3.0, id="two arms of a Gauge"),
        pytest.param(Look("m", WINDOW), None, None, id="no data"),
    ],
)
def test_what_a_look_says(look: Look, number: float | None, control: float | None) -> None:
    assert (look.number, look.control_number) == (number, control)
    assert look.is_measured is (number is not None)
    assert not replace(look, error="timeout").is_measured
    assert look.has_control is (look.control_units is not None or look.control_value is not None)


@pytest.mark.parametrize(
    ("look", "error"),
    [
        (Look("m", WINDOW, 1.0, 4.0), None),
        (Look("m", WINDOW, 0.0, 0.0, control_events=0.0, control_units=0.0), None),
        (Look("m", WINDOW, value=-1.0), None),
        (Look("m", WINDOW, value=1.0, control_units=0.0), None),
        (Look("m", WINDOW, value=float("nan")), "the source gave a number that is not finite"),
        (Look("m", WINDOW, value=1.0, control_value=float("inf")), "the source gave a number that is not finite"),
        (Look("m", WINDOW, float("inf"), 4.0), "the source gave a number that is not finite"),
        (Look("m", WINDOW, float("-inf"), 4.0), "the source gave a number that is not finite"),
        (Look("m", WINDOW, -1.0, 4.0), "the source gave a negative count"),
        (Look("m", WINDOW, 1.0, -4.0), "the source gave a negative count"),
        (
            Look("m", WINDOW, 1.0, 4.0, control_events=1.0),
            "the source gave one of the control arm's two counts without the other",
        ),
        (
            Look("m", WINDOW, 1.0, 4.0, control_units=1.0),
            "the source gave one of the control arm's two counts without the other",
        ),
    ],
)
def test_numbers_that_could_not_be_judged(look: Look, error: str | None) -> None:
    assert look.checked() == (look if error is None else Look("m", WINDOW, error=error))


@pytest.mark.parametrize(
    ("after_s", "start_s"), [(0.0, 0), (0.001, 30), (29.999, 30), (30.0, 30), (-0.001, 0), (-30.0, -30)]
)
def test_the_first_window_that_starts_then_or_later(after_s: float, start_s: float) -> None:
    start = T0 + seconds(start_s)
    assert next_window(ratio(), T0 + seconds(after_s)) == Window(start, start + seconds(30))


def test_when_a_window_is_settled_and_until_when_a_metric_is_seen() -> None:
    slow = ratio(delay=timedelta(minutes=2))
    assert known_at(slow, WINDOW) == T0 + seconds(150)
    assert stale_after(slow) == seconds(3 * 30 + 120 + 10)
