"""`featurerollout plan`: the guide's three weeks, and a small plan of every kind of line."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from feature_rollout.cli import main

EXAMPLES = Path(__file__).parents[3] / "examples"
START = "2026-01-05T09:00:00+01:00"


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, ["plan", *map(str, args)])


@pytest.fixture(scope="module")
def guide() -> dict[str, Any]:
    done = run(EXAMPLES / "notifications", "--start", START, "-o", "json")
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)
    return dict(found)


def test_the_guide_has_its_stages_in_order(guide: dict[str, Any]) -> None:
    assert [stage["index"] for stage in guide["stages"]] == list(range(1, 11))
    dates = {stage["name"]: stage["beginsAt"] for stage in guide["stages"]}
    assert dates["database-migration"] == dates["admins-and-agents"] == START
    assert dates["ten-percent"] == "2026-01-07T09:00:00+01:00"


def test_a_stage_has_its_exposure_and_its_statements(guide: dict[str, Any]) -> None:
    stage = next(stage for stage in guide["stages"] if stage["name"] == "ten-percent")
    rows = {row.pop("flag"): row for row in map(dict, stage["exposure"])}
    assert rows["notifications_enhanced_realtime"] == {"enabled": True, "percentage": 10, "groups": []}
    assert rows["notifications_quiet_hours"]["percentage"] == 100, "what an earlier stage gave stays"
    assert rows["notifications_new_bell_ui"]["enabled"] is False
    assert stage["sql"][0] == (
        'UPDATE "public"."feature_flags" SET "rollout_percentage" = 10, "user_groups" = \'{}\' '
        "WHERE \"name\" = 'notifications_enhanced_realtime'"
    )


def test_a_gate_tells_how_often_it_passes_at_its_edge(guide: dict[str, Any]) -> None:
    stage = next(stage for stage in guide["stages"] if stage["name"] == "ten-percent")
    (gate,) = stage["gates"]
    assert gate["passesAtTimesLimit"] == {
        "0.8": pytest.approx(0.785, abs=0.001),
        "1.2": pytest.approx(0.446, abs=0.001),
    }


def test_a_guard_tells_how_soon_it_finds_harm(guide: dict[str, Any]) -> None:
    (guard,) = (one for one in guide["guards"] if one["clause"] == "error-rate above 5%")
    assert guard["detects"][0] == {
        "times": 2,
        "looksAtStart": pytest.approx(10, rel=0.3),
        "looksMidStage": pytest.approx(19, rel=0.3),
    }


def test_what_waits_for_people_and_what_proves_nothing_is_a_warning(guide: dict[str, Any]) -> None:
    warnings = "\n".join(guide["warnings"])
    for words in (
        "stage performance-features waits for the approval of 1 person",
        "somebody must confirm rehearsed-on-staging",
        "stage safe-features has no bake",
        "the gate error-rate at most 0.1% of stage ten-percent passes by luck",
    ):
        assert words in warnings
    assert "error-rate at most 0.1% of stage everything" not in warnings, "50,000 units prove something"


def test_traffic_is_given_for_all_metrics_or_for_one() -> None:
    args = (EXAMPLES / "notifications", "-o", "json", "--units-per-look", "2000")
    (picture,) = json.loads(run(*args, "--units-per-look", "slow-deliveries=7").stdout)
    units = {guard["metric"]: guard.get("unitsPerLook") for guard in picture["guards"]}
    assert (units["error-rate"], units["slow-deliveries"]) == (2000, 7)


def test_the_table_says_the_same_in_words() -> None:
    done = run(EXAMPLES / "sql-quickstart.yaml", "--start", START)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == (
        "shop/new-checkout, from 2026-01-05T09:00:00+01:00 to 2026-01-11T09:00:00+01:00 if all is healthy"
    )
    assert "2. half: 2026-01-06T09:00:00+01:00, bakes 2d" in lines
    assert "   new_checkout: 5 % of everyone -> 50 % of everyone" in lines
    assert any(line.startswith("   High: error-rate above 1% (50 units every 30s): 2x ") for line in lines)


def test_what_a_stage_waits_for_is_told() -> None:
    done = run(EXAMPLES / "after.yaml", "--start", START)
    assert "warning: stage everyone waits until rollout search-index has passed its stage everyone" in done.stdout
    _, dependant = json.loads(run(EXAMPLES / "after.yaml", "-o", "json").stdout)
    assert [stage["after"] for stage in dependant["stages"]] == [["search-index/half"], ["search-index/everyone"]]


def test_a_bake_in_which_nothing_can_be_found_is_told(tmp_path: Path) -> None:
    text = (EXAMPLES / "sql-quickstart.yaml").read_text().replace("bake: 1d", "bake: 1m")
    (tmp_path / "plan.yaml").write_text(text)
    done = run(tmp_path, "--units-per-look", "1")
    assert "the bake of stage canary is too short to find even gross harm: error-rate above 1% needs " in done.stdout


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("--start", "2026-01-05"), 2, "is not a time with its offset"),
        (("--units-per-look", "many"), 2, '"many" is not a number of units'),
        (("--units-per-look", "nope=5"), 2, 'there is no metric "nope" in these files: name one of error-rate'),
        (("--units-per-look", "error-rate=0"), 2, '"error-rate=0" is not a number of units'),
    ],
)
def test_a_mistake_is_told(args: tuple[str, ...], code: int, words: str) -> None:
    done = run(EXAMPLES / "sql-quickstart.yaml", *args)
    assert (done.exit_code, words in done.stderr) == (code, True), done.stderr


def test_what_lint_refuses_is_not_planned(tmp_path: Path) -> None:
    text = (EXAMPLES / "sql-quickstart.yaml").read_text().replace("metric: error-rate", "metric: errors")
    (tmp_path / "plan.yaml").write_text(text)
    done = run(tmp_path)
    assert done.exit_code == 1
    assert ": error: " in done.stderr
    assert done.stdout == ""


def test_files_without_a_rollout_are_a_mistake() -> None:
    assert run(EXAMPLES / "notifications" / "flagstore.yaml").exit_code == 2
