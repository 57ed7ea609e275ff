"""The metrics of each rollout: what a scrape says, how much it may be, and when it is gone."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from feature_rollout.core.decision import View
from feature_rollout.core.plan import Severity
from feature_rollout.core.progress import Progress
from feature_rollout.core.state import Breach, Latch
from feature_rollout.runtime.figures import FAMILIES, RolloutFigures
from feature_rollout.runtime.telemetry import Telemetry
from support.fakes import KEY, T0, World, above, exposure, ledger_in, look, minutes, plan, ratio, row, seconds, stage

OF = {"rollout_namespace": "shop", "rollout": "bell"}
# What docs/observability.md promises of one rollout: 100 flags, 4 rows of 16 clauses, 32 metrics.
SERIES_MAX = 1162
PAGE = (Path(__file__).parents[3] / "docs" / "observability.md").read_text(encoding="utf-8")


def sampled(views: Iterable[View]) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Every sample of a scrape by its name, without the prefix."""
    telemetry = Telemetry()
    telemetry.of_each.views = lambda: views
    telemetry.of_each.phase = lambda namespace, name: f"phase of {namespace}/{name}"
    found: dict[str, list[tuple[dict[str, str], float]]] = {name: [] for name, *_ in FAMILIES}
    for family in text_string_to_metric_families(generate_latest(telemetry.registry).decode()):
        name = family.name.removeprefix("featurerollout_")
        if name in found:
            found[name] = [(sample.labels, sample.value) for sample in family.samples]
    return found


def view_of(of: Any, **changes: Any) -> View:
    ledger = replace(ledger_in(of, 0), **changes)
    now = datetime.now(UTC) - timedelta(seconds=60)
    return View(of, ledger, dict(ledger.written), Progress().entered(of, now, raised=True), (), now)


def test_a_scrape() -> None:
    breach = Breach(Severity.HIGH, "errors", "", "3%", "1%", 5.0, T0, minutes(15), "DisableFlags")
    of = plan()
    view = view_of(of, latch=Latch(breach, "ten", of.spec_hash, T0 + seconds(42)))
    found = sampled([replace(view, rows={"bell": exposure(10, enabled=False)})])
    assert found["rollout_info"] == [(OF | {"phase": "phase of shop/bell", "stage": "ten"}, 1.0)]
    assert found["rollout_stage"] == [(OF, 1.0)]
    assert found["rollout_stages"] == [(OF, 3.0)]
    assert found["rollout_age_seconds"][0][1] == pytest.approx(60.0, abs=30.0)
    exposed = {labels["exposure"]: value for labels, value in found["flag_percentage"]}
    assert exposed == {"desired": 10.0, "applied": 10.0, "observed": 0.0}
    assert {labels["exposure"]: value for labels, value in found["flag_enabled"]}["observed"] == 0.0
    guard = OF | {"severity": "High", "metric": "errors", "clause": "errors above 1%"}
    assert found["guard_limit"] == [(guard, 0.01)]
    assert [labels for labels, _ in found["guard_evidence"]] == [guard]
    assert found["guard_evidence_limit"] == [(guard, pytest.approx(20.0))]
    assert found["metric_value"] == [], "there was no look yet"
    assert found["rollout_revert_seconds"] == [(OF | {"severity": "High"}, 42.0)]
    assert found["rollout_respond_within_seconds"] == [(OF | {"severity": "High"}, 900.0)]


def test_a_rollout_has_no_more_series_than_promised() -> None:
    names = [f"metric-{number}" for number in range(32)]
    rows = [row(severity, *[above(names[n], f"{n + 1}%") for n in range(16)]) for severity in Severity]
    flags = [(f"flag-{number}", 10) for number in range(100)]
    breach = Breach(Severity.HIGH, "errors", "", "3%", "1%", 5.0, T0, minutes(15), "DisableFlags")
    of = plan(stage("ten", *flags), rows=rows, metrics=[ratio(name) for name in names])
    view = view_of(of, latch=Latch(breach, "ten", of.spec_hash, T0))
    looked = {name: replace(view.progress.of(name), latest=look(name, T0, events=1.0, units=100.0)) for name in names}
    view = replace(view, progress=replace(view.progress, metrics=looked))
    series = sum(len(samples) for samples in sampled([view]).values())
    assert f"{SERIES_MAX:,} at most" in PAGE
    # 16 of the 32 metrics have no clause, and so nothing to be blind on.
    assert series == SERIES_MAX - 16


def test_a_rollout_whose_metrics_cannot_be_made_keeps_no_other_from_having_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    view = view_of(plan())
    broken: Any = None
    other = replace(view, ledger=replace(view.ledger, key="cluster/shop/other"), plan=broken)
    assert sampled([other, view])["rollout_stage"] == [(OF, 1.0)]
    assert [(record.levelname, record.rollout) for record in caplog.records] == [("ERROR", "cluster/shop/other")]


async def test_they_follow_what_the_reconciler_looks_at_and_end_with_the_rollout() -> None:
    world = World(plan())
    figures = RolloutFigures(views=world.reconciler.views)

    def stages() -> list[float]:
        (family,) = [family for family in figures.collect() if family.name == "featurerollout_rollout_stage"]
        return [sample.value for sample in family.samples]

    assert stages() == []
    await world.run(minutes(1))
    assert stages() == [1.0]
    await world.run(minutes(8))
    assert stages() == [2.0]
    world.reconciler.forget(world.uid)
    assert stages() == []
    assert KEY in world.store.ledgers
