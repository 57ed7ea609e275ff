"""The resolved plan: exposure stage by stage, what was edited, numbers of the statistics, hashes, words.

| subject | cases |
|---|---|
| exposure_after | every index, flags in several stages, flags without a baseline, an index past the end |
| previous_flag_stage | flagless stages between, none before, stages that were removed |
| unchanged | nothing edited, an early edit, stages removed or appended |
| counts of statistics.md | C, S, D, Observe, Hold |
| digest, format_duration | canonical, canonical |
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_rollout.core.exposure import OFF, FlagChange
from feature_rollout.core.plan import (
    Action,
    ActionType,
    Limit,
    Mode,
    Notice,
    Severity,
    digest,
    format_duration,
)
from support.depth import properties
from support.fakes import above, exposure, gauge, minutes, percent, plan, ratio, row, stage

ADMINS = FlagChange(Decimal(100), frozenset({"admin"}))
EVERYONE = FlagChange(groups=frozenset())
THREE = plan(
    stage("admins", ("bell", ADMINS)),
    stage("soak"),
    stage("ten", ("bell", FlagChange(Decimal(10), frozenset())), ("menu", 100)),
    stage("all", ("bell", 100)),
)


@pytest.mark.parametrize(
    ("index", "bell", "menu"),
    [
        pytest.param(-1, exposure(0), exposure(5), id="before the first stage everything is at its baseline"),
        pytest.param(0, exposure(100, "admin"), exposure(5), id="a flag that the stage does not name stays"),
        pytest.param(1, exposure(100, "admin"), exposure(5), id="a stage without flags changes nothing"),
        pytest.param(2, exposure(10), exposure(100), id="a later stage may narrow one column and widen another"),
        pytest.param(3, exposure(100), exposure(100), id="groups that an entry does not name stay"),
        pytest.param(9, exposure(100), exposure(100), id="past the end it is the end"),
    ],
)
def test_exposure_after(index: int, bell: object, menu: object) -> None:
    after = THREE.exposure_after(index, {"bell": exposure(0), "menu": exposure(5)})
    assert after == {"bell": bell, "menu": menu}


def test_a_flag_without_a_baseline_is_given_to_nobody_by_what_the_stage_leaves_alone() -> None:
    after = plan(stage("open", ("bell", EVERYONE))).exposure_after(0, {})
    assert after["bell"].is_off
    assert OFF.is_off


@pytest.mark.parametrize(
    ("stage_index", "previous"),
    [
        pytest.param(-1, -1, id="nothing entered"),
        pytest.param(0, -1, id="the first stage has only the baseline before it"),
        pytest.param(1, -1, id="a stage without flags is not one to go back from"),
        pytest.param(2, 0, id="a stage without flags is not one to go back to"),
        pytest.param(3, 2, id="the one before"),
        pytest.param(7, 2, id="an index past the end, after stages were removed"),
    ],
)
def test_previous_flag_stage(stage_index: int, previous: int) -> None:
    assert THREE.previous_flag_stage(stage_index) == previous


DIGESTS = tuple(s.digest for s in THREE.stages)


@pytest.mark.parametrize(
    ("executed", "unchanged"),
    [
        pytest.param((), 0, id="nothing entered yet"),
        pytest.param(DIGESTS[:2], 2, id="nothing edited"),
        pytest.param(("other", *DIGESTS[1:3]), 0, id="the first was edited"),
        pytest.param((*DIGESTS[:2], "other"), 2, id="the third was edited"),
        pytest.param((*DIGESTS, "more"), 4, id="the last was removed"),
    ],
)
def test_unchanged(executed: tuple[str, ...], unchanged: int) -> None:
    assert THREE.unchanged(executed) == unchanged


def test_the_numbers_of_the_statistics_page() -> None:
    made = plan(
        stage("a", ("bell", 1), bake=minutes(1)),
        stage("b", bake=minutes(2)),
        stage("c", ("bell", 2), bake=minutes(4)),
        rows=[
            row(Severity.LOW, above(limit="1%"), action=Action(ActionType.HOLD)),
            row(Severity.HIGH, above(limit="2%"), above("seen", "2%")),
            row(Severity.CRITICAL, above(limit="3%"), above("unbound", "1%")),
        ],
        metrics=[ratio(), ratio("seen", mode=Mode.OBSERVE)],
    )
    assert (made.lowering_clauses, made.flag_stages, made.bakes) == (2, 2, minutes(7))
    assert [str(clause) for _, clause in made.guards()] == ["errors above 3%", "errors above 2%", "errors above 1%"]
    assert made.flags == ("bell",)


def test_a_plan_without_guards_and_flags_counts_as_one_of_each() -> None:
    made = plan(stage("soak"), rows=())
    assert (made.lowering_clauses, made.flag_stages, made.gated_metrics) == (1, 1, frozenset())


def test_words() -> None:
    assert ratio().format(0.0123456) == "1.235%"
    assert gauge().format(1.5) == "1.5s"
    assert str(Notice("spec.x", "ignored")) == "spec.x (ignored)"
    assert Limit(0.8, "80%").complement == 0.2
    assert percent("0.1%").value == pytest.approx(0.001)
    assert [str(s) for s in Severity] == ["Low", "Medium", "High", "Critical"]
    assert [Severity.parse(str(s)) for s in Severity] == list(Severity)


@pytest.mark.parametrize(
    ("value", "same"),
    [
        pytest.param({"a": 1, "b": 2}, {"b": 2, "a": 1}, id="the order of keys does not matter"),
        pytest.param(Decimal("10.0"), Decimal(10), id="trailing zeros do not matter"),
        pytest.param(frozenset({"x", "y"}), ["x", "y"], id="a set is its sorted members"),
    ],
)
def test_a_digest_is_of_the_meaning(value: object, same: object) -> None:
    assert digest(value) == digest(same)
    assert digest(value) != digest([value, 1])


def test_the_canonical_form_is_fixed_because_hashes_are_stored() -> None:
    value = {"d": "ü", "c": (1, 2), "b": {"y", "x"}, "a": Decimal("10.0"), "e": Decimal("0.25")}
    canonical = '{"a":"10","b":["x","y"],"c":[1,2],"d":"ü","e":"0.25"}'
    assert digest(value) == "v1:" + hashlib.sha256(canonical.encode()).hexdigest()
    assert digest(Decimal(10)) != digest(Decimal(50))


def test_what_has_no_canonical_form_has_no_digest() -> None:
    with pytest.raises(TypeError, match=r"^object has no canonical JSON form$"):
        digest(object())


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(0), "0s"),
        (timedelta(seconds=45), "45s"),
        (timedelta(milliseconds=500), "0.5s"),
        (timedelta(hours=1, minutes=30), "1h30m"),
        (timedelta(days=21), "21d"),
        (timedelta(days=1, hours=2, minutes=3, seconds=4.5), "1d2h3m4.5s"),
    ],
)
def test_durations_as_in_a_manifest(duration: timedelta, text: str) -> None:
    assert format_duration(duration) == text


@properties(40)
@given(st.integers(-1, 6), st.integers(-1, 6))
def test_a_later_stage_index_never_forgets_a_flag(a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert set(THREE.exposure_after(low, {})) <= set(THREE.exposure_after(high, {}))
