"""`featurerollout simulate`: the guide's three weeks, the page's example, and input that cannot be read."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from feature_rollout.cli import main

ROOT = Path(__file__).parents[3]
SMALL = ROOT / "examples" / "simulate"
GUIDE = ROOT / "examples" / "notifications"
START = "2026-01-05T09:00:00+01:00"
HOUR = timedelta(hours=1)
# Half of what the guide's limits allow, or better.
HEALTHY = {
    "error-rate": {"events": 2, "units": 5000},
    "slow-deliveries": {"events": 50, "units": 5000},
    "websocket-drop-rate": {"events": 10, "units": 5000},
    "cache-hit-rate": {"events": 4750, "units": 5000},
    "bell-adoption": {"events": 4000, "units": 5000},
    "p95-latency": {"value": 0.4},
}


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, ["simulate", *map(str, args)])


def small(*args: str | Path, looks: Path = SMALL / "looks.jsonl") -> Result:
    return run(SMALL / "plan.yaml", "--looks", looks, "--start", START, *args)


def decisions(done: Result) -> list[dict[str, Any]]:
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [line for line in lines if line["kind"] == "decision"]


def acts(done: Result) -> list[dict[str, Any]]:
    return [line for line in decisions(done) if line["action"] not in ("Wait", "Hold")]


def written(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def hourly(first: datetime, count: int, harm: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """A look at each metric each hour; with `harm` the error rate is that from the fifteenth day on."""
    for index in range(count):
        begin = first + index * HOUR
        window = {"window_start": begin.isoformat(), "window_end": (begin + HOUR).isoformat()}
        for metric, numbers in HEALTHY.items():
            is_harmed = harm and metric == "error-rate" and begin >= datetime.fromisoformat(START) + 15 * 24 * HOUR
            yield {"metric": metric, **window, **(harm if harm and is_harmed else numbers)}


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guide's manifests, looked at by the hour and without delay, its looks, and what people do."""
    folder = tmp_path_factory.mktemp("guide")
    for file in GUIDE.glob("*.yaml"):
        lines = file.read_text().splitlines()
        kept = [line for line in lines if not line.strip().startswith("delay:")]
        text = "\n".join(kept)
        for interval in ("30s", "1m", "5m"):
            text = text.replace(f"interval: {interval}", "interval: 1h")
        (folder / file.name).write_text(text)
    start = datetime.fromisoformat(START)
    written(folder / "looks.jsonl", list(hourly(start - timedelta(days=7), 24 * 45)))
    people = [{"at": START, "type": "Confirm", "check": c} for c in ("rehearsed-on-staging", "on-call-available")]
    people += [
        {"at": "2026-01-26T08:00:00+01:00", "type": "Approve", "stage": "performance-features"},
        {"at": "2026-01-29T08:00:00+01:00", "type": "Approve", "stage": "everything"},
    ]
    written(folder / "actions.jsonl", [{**one, "by": "ann@example.com"} for one in people])
    return folder


def of_guide(guide: Path, looks: str = "looks.jsonl", *args: str) -> Result:
    files = sorted(guide.glob("*.yaml"))
    return run(*files, "--looks", guide / looks, "--start", START, *args)


def test_the_guides_three_weeks_end_on_the_days_that_plan_says(guide: Path) -> None:
    began = time.perf_counter()
    done = of_guide(guide, "looks.jsonl", "--actions", str(guide / "actions.jsonl"))
    took = time.perf_counter() - began
    # How long it took is for people to read (`pytest -rP`); a busy machine is no failure.
    print(f"the guide's rollout, {len(done.stdout.splitlines())} lines: {took:.2f} s")  # noqa: T201
    acted = acts(done)
    entered = {line["stage"]: line["at"][:10] for line in acted if line["action"] == "Advance"}
    forecast = CliRunner().invoke(main, ["plan", str(GUIDE), "--start", START, "-o", "json"])
    (planned,) = json.loads(forecast.stdout)
    assert entered == {stage["name"]: stage["beginsAt"][:10] for stage in planned["stages"]}
    assert acted[-1]["action"] == "Complete"
    assert acted[-1]["at"][:10] == planned["endsAt"][:10]
    assert acted[-1]["exposure"] == planned["stages"][-1]["exposure"]


def test_what_nobody_does_in_a_simulation_is_said(guide: Path) -> None:
    done = of_guide(guide, "looks.jsonl", "--until", START)
    assert done.stderr.splitlines() == [
        "note: spec.stages[0].migrations (database-migration) are taken as done",
        "note: spec.preflight[0] (backup-is-recent) is taken as passed",
        "note: spec.stages[0].checks[0] (validate) is taken as passed",
        "note: spec.stages[1].checks[0] (off-by-default) is taken as passed",
    ]


def test_other_rollouts_are_taken_as_passed(tmp_path: Path) -> None:
    example = GUIDE.parent / "simulate"
    plan = (example / "plan.yaml").read_text()
    after = plan.replace("  - name: everybody\n", "  - name: everybody\n    after: [{rollout: search, stage: all}]\n")
    (tmp_path / "plan.yaml").write_text(after)
    args = ("--looks", example / "looks.jsonl", "--start", "2026-01-05T09:00:00Z")
    done, without = run(tmp_path / "plan.yaml", *args), run(example / "plan.yaml", *args)
    assert done.stderr.splitlines() == ["note: spec.stages[1].after[0] (search, all) is taken as passed"]
    assert (done.exit_code, len(acts(done))) == (0, len(acts(without)))


def test_without_people_the_guide_waits_for_its_confirmations(guide: Path) -> None:
    assert [line["action"] for line in decisions(of_guide(guide))] == ["AwaitConfirmation"]


def test_a_breach_in_the_guide_is_answered_by_its_most_severe_row(guide: Path) -> None:
    start = datetime.fromisoformat(START)
    harmed = list(hourly(start - timedelta(days=7), 24 * 23, {"events": 500, "units": 5000}))
    written(guide / "harmed.jsonl", harmed)
    last = acts(of_guide(guide, "harmed.jsonl", "--actions", str(guide / "actions.jsonl")))[-1]
    assert (last["action"], last["severity"]) == ("RollBackDatabase", "Critical")
    assert not any(row["enabled"] for row in last["exposure"])


def test_the_example_of_the_page_prints_what_the_page_shows() -> None:
    page = (ROOT / "docs" / "simulate.md").read_text()
    blocks = page.split("```")
    command = blocks[1].removeprefix("sh\n").replace("\\\n", " ").split()
    arguments = [str(ROOT / word) if word.startswith("examples/") else word for word in command[2:]]
    done = run(*arguments)
    lines = [line for line in done.stdout.splitlines() if json.loads(line).get("action") in ("Advance", "DisableFlags")]
    assert command[:2] == ["featurerollout", "simulate"]
    assert lines == blocks[3].strip().splitlines()


def test_the_output_does_not_depend_on_the_hash_seed(guide: Path) -> None:
    arguments = [sys.executable, "-m", "feature_rollout.cli", "simulate", *map(str, sorted(guide.glob("*.yaml")))]
    arguments += ["--looks", str(guide / "looks.jsonl"), "--actions", str(guide / "actions.jsonl"), "--start", START]
    arguments += ["--until", "2026-01-08T00:00:00+01:00"]
    outputs = {
        subprocess.run(arguments, check=True, capture_output=True, env={**os.environ, "PYTHONHASHSEED": seed}).stdout
        for seed in ("0", "1", "4711")
    }
    assert len(outputs) == 1
    assert next(iter(outputs)).count(b"\n") > 100


def test_the_rows_before_may_be_given(tmp_path: Path) -> None:
    before = {"flag": "new_checkout", "enabled": True, "percentage": 2.5, "groups": ["b", "a"]}
    other = {"flag": "of_somebody_else"}
    done = small("--flags", written(tmp_path / "flags.jsonl", [before, other]))
    assert decisions(done)[0]["exposure"] == [{**before, "groups": ["a", "b"]}]


LOOK = {
    "metric": "error-rate",
    "window_start": "2026-01-05T09:00:00+01:00",
    "window_end": "2026-01-05T09:00:30+01:00",
    "events": 0,
    "units": 10,
}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", ":2: this is not JSON: "),
        ("1" * 5000, ":2: this is too deep, or a number in it too long"),
        ("[]", ":2: this is a list, where a JSON object should be"),
        ({**LOOK, "metric": "errors"}, ':2: metric: the rollout has no metric "errors": name one of error-rate'),
        ({**LOOK, "metric": None}, ":2: metric: a text is needed, and there is null"),
        ({**LOOK, "window_end": "2026-01-05T09:00:30"}, ':2: window_end: "2026-01-05T09:00:30" is not a time with'),
        ({**LOOK, "window_end": LOOK["window_start"]}, ":2: window_end: 2026-01-05T09:00:00+01:00 is not after"),
        ({**LOOK, "events": "3"}, ':2: events: "3" is not a number'),
        ({**LOOK, "units": True}, ":2: units: true is not a number"),
        ({**LOOK, "value": 1}, ":2: value: a look at error-rate, which is a Ratio has no such field"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_look_that_cannot_be_read_is_named(tmp_path: Path, line: Any, message: str) -> None:
    path = tmp_path / "looks.jsonl"
    path.write_text(json.dumps(LOOK) + "\n" + (line if isinstance(line, str) else json.dumps(line)) + "\n")
    done = small(looks=path)
    assert done.exit_code == 1
    assert f"Error: {path}{message}" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ({"type": "Advance"}, 'type: "Advance" is none of Approve, '),
        ({"type": "Approve"}, "stage: Approve needs it: name the stage that may begin"),
        ({"type": "Approve", "stage": "all"}, 'stage: the plan has no stage "all": name one of some, everybody'),
        ({"type": "Confirm"}, "check: Confirm names the check that is confirmed"),
        ({"type": "Pause", "to": "Off"}, "to: only RollBack has it; this is Pause"),
        ({"type": "Pause", "who": "ann"}, "who: an action has no such field"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_action_that_cannot_be_read_is_named(tmp_path: Path, action: dict[str, Any], message: str) -> None:
    path = written(tmp_path / "actions.jsonl", [{"at": START, **action}])
    done = small("--actions", path)
    assert done.exit_code == 1
    assert f"{path}:1: {message}" in done.stderr


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ({"percentage": 101}, "percentage: 101 is not from 0 to 100"),
        ({"percentage": float("nan")}, "percentage: NaN is not from 0 to 100"),
        ({"enabled": "yes"}, 'enabled: "yes" is neither true nor false'),
        ({"groups": "admin"}, 'groups: "admin" is not a list of names'),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_flag_that_cannot_be_read_is_named(tmp_path: Path, flag: dict[str, Any], message: str) -> None:
    done = small("--flags", written(tmp_path / "flags.jsonl", [{"flag": "new_checkout", **flag}]))
    assert done.exit_code == 1
    assert f"flags.jsonl:1: {message}" in done.stderr


def test_a_wrong_plan_is_an_error_and_a_wrong_command_line_another(tmp_path: Path) -> None:
    broken = tmp_path / "plan.yaml"
    broken.write_text((SMALL / "plan.yaml").read_text().replace("metric: error-rate", "metric: errors"))
    done = run(broken, "--looks", SMALL / "looks.jsonl", "--start", START)
    assert done.exit_code == 1
    assert 'a clause on "errors", which spec.metrics does not bind' in done.stderr
    assert small("--until", "tomorrow").exit_code == 2
    twice = tmp_path / "twice.yaml"
    text = (SMALL / "plan.yaml").read_text()
    twice.write_text(text + "\n---\n" + text.replace("name: new-checkout", "name: other"))
    done = run(twice, "--looks", SMALL / "looks.jsonl", "--start", START)
    assert done.exit_code == 2
    assert "these files have 2: new-checkout, other" in done.stderr
