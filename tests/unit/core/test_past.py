"""Which past an attempt is compared with, and when its looks are worth reading."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from feature_rollout.core.looks import Look
from feature_rollout.core.measured import MetricProgress
from feature_rollout.core.past import begun, inherited, of_blocks, without_blocks
from feature_rollout.core.progress import Progress
from feature_rollout.core.reference import Block, Reference, of_gauge, of_ratio, windows_before
from feature_rollout.core.state import Ledger
from support.fakes import T0, gauge, ledger, look, minutes, ratio

DAY = minutes(24 * 60)
NOW = T0 + DAY
FOUND = {"errors": Reference("k", blocks=(Block(T0, 1.0, 2.0),))}
KNOWN = Progress(reference_until=T0, references=FOUND)
MEASURED = {"errors": MetricProgress(units=1.0)}


@pytest.mark.parametrize(
    ("progress", "row", "until"),
    [
        pytest.param(Progress(), ledger(), NOW, id="a new rollout: what comes before now"),
        pytest.param(Progress(watching=True), ledger(), None, id="one that has raised already has none"),
        pytest.param(Progress(metrics=MEASURED), ledger(), NOW, id="one that was looked at and has not raised"),
        pytest.param(Progress(watching=True), ledger(attempt=2), NOW, id="the next attempt, before its first look"),
        pytest.param(
            Progress(watching=True, metrics=MEASURED), ledger(attempt=2), None, id="the next attempt, after it"
        ),
        pytest.param(KNOWN, ledger(), T0, id="it stays, of a day ago"),
        pytest.param(replace(KNOWN, reference_until=T0 - minutes(1)), ledger(), NOW, id="it is older than a day"),
        pytest.param(
            replace(KNOWN, reference_until=T0 - minutes(1), watching=True),
            ledger(),
            T0 - minutes(1),
            id="it stays once something was raised",
        ),
        pytest.param(
            replace(KNOWN, reference_until=T0 - minutes(1)),
            ledger(attempt=2),
            T0 - minutes(1),
            id="it stays in another attempt",
        ),
    ],
)
def test_the_end_of_the_past(progress: Progress, row: Ledger, until: Any) -> None:
    fixed = begun(progress, row, NOW)
    assert fixed.reference_until == until
    assert fixed.references == (progress.references if until != NOW else {})


@pytest.mark.parametrize(
    ("progress", "earlier", "is_taken"),
    [
        pytest.param(Progress(), None, False, id="the first attempt"),
        pytest.param(Progress(), replace(KNOWN, watching=True), True, id="the attempt before has raised"),
        pytest.param(Progress(), KNOWN, False, id="the attempt before has not"),
        pytest.param(
            Progress(reference_until=NOW), replace(KNOWN, watching=True), False, id="this one has its own already"
        ),
        pytest.param(Progress(reference_until=NOW), KNOWN, False, id="neither"),
    ],
)
def test_the_past_of_the_attempt_before(progress: Progress, earlier: Progress | None, is_taken: bool) -> None:
    settled = {"errors": Reference("k")}
    expected = Progress(reference_until=T0, references=settled) if is_taken else progress
    assert inherited(progress, earlier) == expected


NOTHING = Reference("k", note="it has no data in the seven days before")
TOO_FEW = Reference("k", note="the seven days before have fewer than 30 blocks with 10 events on average")
EMPTY: dict[str, Any] = {}
ENOUGH = {"events": 300.0, "units": 9000.0}


@pytest.mark.parametrize(
    ("whole", "early", "needed", "expected"),
    [
        pytest.param(ENOUGH, ENOUGH, False, None, id="30 blocks of 10 events"),
        pytest.param({"events": 299.0, "units": 9000.0}, ENOUGH, False, TOO_FEW, id="one event less"),
        pytest.param(
            {"events": 200.0, "units": 9.0, "control_events": 100.0, "control_units": 9.0},
            ENOUGH,
            False,
            None,
            id="both arms together",
        ),
        pytest.param(
            {"control_events": 299.0, "control_units": 9.0}, ENOUGH, False, TOO_FEW, id="the control arm alone, too few"
        ),
        pytest.param(ENOUGH, EMPTY, False, TOO_FEW, id="all of them in the newest hours"),
        pytest.param(ENOUGH, {"control_events": 0.0, "control_units": 1.0}, False, None, id="early units in one arm"),
        pytest.param(
            ENOUGH, {"units": 5.0, "control_events": 0.0, "control_units": 5.0}, False, None, id="early units in both"
        ),
        pytest.param(EMPTY, EMPTY, False, TOO_FEW, id="nothing at all"),
        pytest.param({"events": 1.0, "units": 2.0}, EMPTY, True, None, id="few, but a clause needs them"),
        pytest.param(EMPTY, EMPTY, True, NOTHING, id="nothing at all, and a clause needs it"),
        pytest.param(
            {"control_events": 1.0, "control_units": 2.0}, EMPTY, True, None, id="the control arm has what is needed"
        ),
    ],
)
def test_whether_half_hours_are_worth_reading(
    whole: dict[str, Any], early: dict[str, Any], needed: bool, expected: Reference | None
) -> None:
    looks = [look("errors", T0, **numbers) for numbers in (whole, early)]
    assert without_blocks(ratio(key="k"), *looks, needed=needed) == expected


def test_half_hours_of_a_ratio_and_of_a_gauge() -> None:
    windows = windows_before(T0)
    counts = [Look("errors", window, 20.0, 1000.0) for window in windows]
    values = [Look("latency", window, value=2.0) for window in windows]
    assert of_blocks(ratio(key="k"), counts) == of_ratio("k", counts)
    assert of_blocks(gauge(key="k"), values) == of_gauge("k", values)
    assert of_blocks(gauge(key="k"), values).key == "k"
    assert of_blocks(gauge(key="k"), []) == NOTHING
    assert of_blocks(ratio(key="k"), []) == NOTHING
