"""The benchmark measures what it says it does; how fast that is fails no test."""

import json

import pytest

from bench.bench_operator import main, percentiles


def test_it_prints_one_object_of_what_it_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rollouts", "3", "--healthy-looks", "20"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["rollouts"] == 3
    in_common = ("apply_to_row_ms", "common_cause_ms")
    for found, names in ((figures, (*in_common, "sample_to_revert_ms")), (figures["floor"], in_common)):
        assert all(0 < found[name]["p50"] <= found[name]["p99"] for name in names)
    assert len(figures["load"]) == 2
    assert figures["rss_mb"]["idle"] > 0
    assert figures["api_writes_per_healthy_look"] == 0
    assert figures["db_writes_per_healthy_look"] > 0, "a checkpoint at least"


def test_percentiles_are_measured_values() -> None:
    assert percentiles([3.0]) == {"p50": 3.0, "p99": 3.0}
    assert percentiles(range(1, 101)) == {"p50": 50, "p99": 99}
