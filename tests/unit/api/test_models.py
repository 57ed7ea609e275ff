"""The models: what they accept, and how they tell what is wrong.

| what | then |
|---|---|
| the examples | accepted |
| a rule | broken by at least one of `unit.api.cases` |
| a status of a newer version | read, without what is not known |
| a null | as if it were not there, as for the API server |
| several errors | all of them, each with its path |
"""

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from feature_rollout.api.base import InvalidObject
from feature_rollout.api.featurerollout import FeatureRollout
from feature_rollout.api.kinds import KINDS, is_ours, parse
from feature_rollout.api.rules import Rule
from feature_rollout.api.schema import structural
from feature_rollout.api.status import FeatureRolloutStatus
from feature_rollout.api.values import Duration, LimitText
from unit.api.cases import REFUSALS, manifest, put

EXAMPLES = Path(__file__).parents[3] / "examples"


def example_objects() -> Iterator[dict[str, Any]]:
    for file in sorted(EXAMPLES.rglob("*.yaml")):
        yield from (item for item in yaml.safe_load_all(file.read_text()) if is_ours(item))


def test_every_kind_has_an_example() -> None:
    assert {parse(item).__class__.__name__ for item in example_objects()} == set(KINDS)


def rules_of(schema: Any) -> Iterator[dict[str, str]]:
    if isinstance(schema, dict):
        yield from schema.get("x-kubernetes-validations", ())
        for value in schema.values():
            yield from rules_of(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from rules_of(value)


def test_every_rule_is_broken_by_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """And so each is tried in both of its languages."""
    broken: set[str] = set()
    problem = Rule.problem

    def recorded(rule: Rule[Any], value: Any) -> str | None:
        found = problem(rule, value)
        if found is not None:
            broken.add(rule.cel)
        return found

    monkeypatch.setattr(Rule, "problem", recorded)
    for case in REFUSALS:
        with pytest.raises(InvalidObject):
            parse(case.manifest())
    rules = {rule["rule"] for kind in KINDS.values() for rule in rules_of(structural(kind))}
    assert rules - broken == {"self == oldSelf"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("30s", 30),
        ("1h30m", 5400),
        ("2d", 172_800),
        ("1w", 604_800),
        ("1.5h", 5400),
        ("500ms", 0.5),
        ("1w2d3h4m", 788_640),
    ],
)
def test_a_duration_is_what_it_says(text: str, seconds: float) -> None:
    assert Duration(text).delta == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("text", "number", "value"),
    [
        ("0.1%", Decimal("0.001"), 0.001),
        ("100%", Decimal(1), 1.0),
        ("5%", Decimal("0.05"), 0.05),
        ("0.8", Decimal("0.8"), 0.8),
        ("-12.5", Decimal("-12.5"), -12.5),
    ],
)
def test_a_limit_is_exact(text: str, number: Decimal, value: float) -> None:
    assert LimitText(text).number == number
    assert LimitText(text).to_core().value == value
    assert str(LimitText(text).to_core()) == text


def test_all_errors_are_told_each_with_its_path() -> None:
    obj = manifest("FeatureRollout")
    put("stages.0.flags.0.percentage", 101)(obj["spec"])
    put("stages.1.bake", "soon")(obj["spec"])
    put("stages.1.gate", [])(obj["spec"])
    with pytest.raises(InvalidObject) as error:
        FeatureRollout.parse(obj)
    assert [path for path, _ in error.value.problems] == [
        "spec.stages[0].flags[0].percentage",
        "spec.stages[1].bake",
        "spec.stages[1].gate",
    ]


def test_an_error_says_which_object_it_is_about() -> None:
    obj = manifest("RollbackMatrix")
    put("rows", None)(obj["spec"])
    with pytest.raises(InvalidObject, match=r"^RollbackMatrix/guards spec.rows: is required$"):
        parse(obj)


def test_a_list_with_a_wrong_entry_is_not_called_empty() -> None:
    obj = manifest("FeatureRollout")
    put("stages.0.flags.0.names", ["new "])(obj["spec"])
    with pytest.raises(InvalidObject) as error:
        FeatureRollout.parse(obj)
    assert [path for path, _ in error.value.problems] == ["spec.stages[0].flags[0].names[0]"]


def test_a_null_is_as_if_it_were_not_there() -> None:
    obj = manifest("FeatureRollout")
    put("stages.0.gates", None)(obj["spec"])
    put("calendar", None)(obj["spec"])
    assert FeatureRollout.parse(obj).spec.stages[0].gates == ()


def test_a_status_is_never_an_input() -> None:
    obj = {**manifest("FeatureRollout"), "status": {"observedGeneration": "nonsense"}}
    assert FeatureRollout.parse(obj).status is None


def test_a_status_of_a_newer_version_is_read() -> None:
    status = FeatureRolloutStatus.model_validate({"observedGeneration": 3, "phase": "Baking", "weather": "fine"})
    assert status.to_json() == {
        "observedGeneration": 3,
        "phase": "Baking",
        "conditions": [],
        "exposure": [],
        "metrics": [],
        "history": [],
    }


@pytest.mark.parametrize(
    "obj", [{}, {"kind": "Pod"}, {"kind": ["FeatureRollout"]}, {"kind": "FeatureRollout", "spec": 5}]
)
def test_nonsense_is_refused_and_nothing_else_happens(obj: dict[str, Any]) -> None:
    with pytest.raises(InvalidObject):
        parse(obj)
