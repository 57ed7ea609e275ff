"""`featurerollout lint -o json` and `-o sarif`: findings with the file and line that they are about."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from feature_rollout import __version__
from feature_rollout.api.lint import DESCRIPTIONS, Check
from feature_rollout.cli import main

ROOT = Path(__file__).parents[3]
PLAN = (ROOT / "examples" / "simulate" / "plan.yaml").read_text()
LEVELS = {"none", "note", "warning", "error"}


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, ["lint", *map(str, args)])


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Two documents: a stray one, then a plan with a stage whose percentage is none, and no FlagStore."""
    file = tmp_path / "with space.yaml"
    wrong = PLAN.replace("percentage: 100", "percentage: 101")
    file.write_text(f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: x}}\n---\n{wrong}")
    return file


def line_of(file: Path, text: str) -> int:
    return next(number for number, line in enumerate(file.read_text().splitlines(), 1) if text in line)


def results(done: Result) -> list[dict[str, Any]]:
    return list(json.loads(done.stdout)["runs"][0]["results"])


def check_sarif(log: dict[str, Any]) -> None:
    """What SARIF 2.1.0 asks of a log, so far as this one has it: its sections 3.13, 3.14, 3.19, 3.27 to 3.30, 3.49."""
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-2.1.0.json")
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert (driver["name"], driver["version"]) == ("featurerollout lint", __version__)
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(ids) == len(set(ids))
    assert all(rule["shortDescription"]["text"] for rule in driver["rules"])
    for result in run["results"]:
        assert set(result) == {"ruleId", "ruleIndex", "level", "message", "locations"}
        assert ids[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in LEVELS
        assert result["message"]["text"]
        (location,) = result["locations"]
        uri = location["physicalLocation"]["artifactLocation"]["uri"]
        assert uri
        assert " " not in uri
        assert location["physicalLocation"]["region"]["startLine"] >= 1
        assert location["logicalLocations"][0]["fullyQualifiedName"]


def test_a_log_of_errors_is_sarif_and_points_at_the_line(broken: Path) -> None:
    done = run(broken, "-o", "sarif")
    assert done.exit_code == 1
    check_sarif(json.loads(done.stdout))
    (result,) = results(done)
    assert (result["ruleId"], result["level"]) == ("invalid-object", "error")
    place = result["locations"][0]["physicalLocation"]
    assert place["region"]["startLine"] == line_of(broken, "percentage: 101")
    assert place["artifactLocation"]["uri"] == broken.as_uri()


def test_the_same_is_there_as_json(broken: Path) -> None:
    done = run(broken, "-o", "json")
    (found,) = json.loads(done.stdout)
    assert done.exit_code == 1
    assert set(found) == {"level", "check", "where", "file", "line", "text"}
    assert (found["file"], found["line"]) == (str(broken), line_of(broken, "percentage: 101"))
    assert found["where"] == f"{broken}:2/FeatureRollout/new-checkout"
    assert found["text"].startswith("spec.stages[1].flags[0].percentage: ")


def test_what_a_rollout_finds_in_its_matrix_is_shown_there() -> None:
    done = run(ROOT / "examples" / "notifications", "-o", "sarif")
    check_sarif(json.loads(done.stdout))
    assert done.exit_code == 0
    files = {
        result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].rpartition("/")[2]
        for result in results(done)
        if result["message"]["text"].startswith("RollbackMatrix/")
    }
    assert files == {"rollbackmatrix.yaml"}
    assert {result["level"] for result in results(done)} == {"note"}


def test_without_findings_there_is_a_log_without_results() -> None:
    done = run(ROOT / "examples" / "sql-quickstart.yaml", "-o", "sarif")
    check_sarif(json.loads(done.stdout))
    assert results(done) == []
    assert run(ROOT / "examples" / "sql-quickstart.yaml", "-o", "json").stdout.strip() == "[]"


def test_a_relative_path_stays_one(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(broken.parent)
    (result,) = results(run(broken.name, "-o", "sarif"))
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "with%20space.yaml"


def test_an_item_of_a_list_has_its_own_line(tmp_path: Path) -> None:
    file = tmp_path / "list.yaml"
    group = "featurerollout.dev/v1alpha1"
    items = "".join(f"- {{apiVersion: {group}, kind: Nothing, metadata: {{name: {name}}}}}\n" for name in "ab")
    file.write_text(f"apiVersion: v1\nkind: List\nitems:\n{items}")
    assert [found["line"] for found in json.loads(run(file, "-o", "json").stdout)] == [4, 5]


def test_every_check_is_described() -> None:
    assert set(DESCRIPTIONS) == set(Check)
