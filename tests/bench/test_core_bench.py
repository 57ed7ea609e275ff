"""`make bench-core` says what it measured. No figure is judged."""

import json

import pytest

from bench.core import main


def test_it_prints_one_object_of_what_it_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--stages", "3", "--metrics", "2", "--batches", "3", "--calls", "2"]) == 0
    figures = json.loads(capsys.readouterr().out)
    sizes = {name: figures[name] for name in ("stages", "metrics", "clauses", "decision", "batches", "callsOfABatch")}
    assert sizes == {
        "stages": 3,
        "metrics": 2,
        "clauses": 4,
        "decision": "Baking",
        "batches": 3,
        "callsOfABatch": 2,
    }
    for name in ("decideUs", "assessUs", "lookUs", "observedUs"):
        assert 0 < figures[name]["p50"] <= figures[name]["p99"]
    assert (figures["simulatedEnd"], figures["simulatedDays"]) == ("Completed", pytest.approx(3 / 24, abs=0.01))
    assert figures["simulatedLookUs"] > 0
    assert figures["simulatedDaysPerSecond"] > 0
