"""`make bench-core`: what the pure core costs. One process, no I/O; one JSON object goes to standard output.

| figure | what is timed |
|---|---|
| decideUs | `decide` on a view of a healthy plan in mid-stage, its guards assessed |
| assessUs | what every guard says, which each view needs |
| lookUs | one look through the evidence of one clause |
| observedUs | one look through all that is measured: evidence, bake and gates |
| simulatedLookUs | a look in `simulate`, with the decision after it and its line of output, at 30 s a look |
| simulatedDaysPerSecond | of the same run: days of such a plan in a second |

All of it is CPU time. Each of the first four is of one call, as the mean of a batch; p50 and p99 are over the batches.
Nothing is judged here.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from feature_rollout.core.decide import decide
from feature_rollout.core.decision import View
from feature_rollout.core.evidence import Evidence
from feature_rollout.core.guards import assess
from feature_rollout.core.plan import Gate, OnNoTraffic, Plan, Severity
from feature_rollout.core.progress import Progress
from feature_rollout.core.simulate import Scenario, simulate
from support.fakes import INTERVAL, KEY, T0, above, ledger_in, look, minutes, percent, plan, ratio, row, stage

UNITS = 2000.0
LOOKS = 40  # so that everything that is kept of the last looks is there


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", type=int, default=10)
    parser.add_argument("--metrics", type=int, default=6)
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--calls", type=int, default=100, help="calls of a batch")
    sys.stdout.write(json.dumps(measured(parser.parse_args(argv)), indent=2) + "\n")
    return 0


def measured(sizes: argparse.Namespace) -> dict[str, Any]:
    of = planned(sizes.stages, sizes.metrics)
    view = view_of(of)
    guarded, clause = of.guards()[0]
    test, progress = view.progress.test_of(of, guarded, clause), view.progress
    evidence = progress.evidence[clause.key]
    newest = progress.of(clause.metric).looked_until or T0
    following = look(clause.metric, newest, events=3.0, units=UNITS)

    def observed() -> Progress:
        return progress.observed(of, following, counting=True, on_no_traffic=OnNoTraffic.WAIT)

    def looked() -> Evidence:
        return evidence.looked(test, 3.0, UNITS, newest)

    figures = {
        "decideUs": lambda: decide(view),
        "assessUs": lambda: assess(of, progress, view.now),
        "lookUs": looked,
        "observedUs": observed,
    }
    return {
        "stages": sizes.stages,
        "metrics": sizes.metrics,
        "clauses": len(of.guards()),
        "decision": decide(view).reason,
        "batches": sizes.batches,
        "callsOfABatch": sizes.calls,
        "python": platform.python_version(),
        **{name: timed(call, sizes.batches, sizes.calls) for name, call in figures.items()},
        **simulated(of),
    }


def planned(stages: int, metrics: int) -> Plan:
    """Two flags a stage, a gate on each, and each metric in two rows."""
    names = [f"metric-{number}" for number in range(metrics)]
    made = [
        stage(
            f"stage-{number}",
            ("bell", 100 * (number + 1) / stages),
            ("inbox", 50 * (number + 1) / stages),
            bake=minutes(60),
            gates=(Gate(names[number % metrics], at_most=percent("1%"), min_units=1000),),
        )
        for number in range(stages)
    ]
    rows = [
        row(Severity.CRITICAL, *[above(name, "5%") for name in names], settle=minutes(2)),
        row(Severity.HIGH, *[above(name, "1%") for name in names], settle=minutes(2)),
    ]
    return plan(*made, rows=rows, metrics=[ratio(name) for name in names])


def view_of(of: Plan) -> View:
    """In the middle of the plan, healthy, and still baking."""
    known = ledger_in(of, len(of.stages) // 2)
    progress = Progress().entered(of, T0, raised=True)
    for index, name in itertools.product(range(LOOKS), of.metrics):
        one = look(name, T0 + index * INTERVAL, events=float(index % 4), units=UNITS)
        progress = progress.observed(of, one, counting=True, on_no_traffic=OnNoTraffic.WAIT)
    now = T0 + LOOKS * INTERVAL
    return View(of, known, dict(known.written), progress, assess(of, progress, now), now)


def simulated(of: Plan) -> dict[str, Any]:
    """The whole plan in virtual time, over healthy looks."""
    windows = math.ceil((of.bakes + minutes(5) * len(of.stages)) / INTERVAL)
    looks = [
        look(name, T0 + index * INTERVAL, events=float(index % 4), units=UNITS)
        for index, name in itertools.product(range(windows), of.metrics)
    ]
    scenario = Scenario(of, T0, KEY, tuple(looks))
    started = time.process_time()
    lines = [json.dumps(line) for line in simulate(scenario)]
    took_s = time.process_time() - started
    end = json.loads(lines[-1])
    days = (datetime.fromisoformat(end["at"]) - T0) / timedelta(days=1)
    return {
        "simulatedEnd": end["reason"],
        "simulatedDays": round(days, 3),
        "simulatedLookUs": round(took_s / len(lines) * 1e6, 2),
        "simulatedDaysPerSecond": round(days / took_s, 3),
    }


def timed(call: Callable[[], object], batches: int, calls: int) -> dict[str, float]:
    """Microseconds of a call. The collector is off: it would bill one batch for what all have left."""
    for _ in range(calls):
        call()
    times_us = []
    gc.disable()
    try:
        for _ in range(batches):
            started = time.process_time()
            for _ in range(calls):
                call()
            times_us.append((time.process_time() - started) / calls * 1e6)
            gc.collect(0)
    finally:
        gc.enable()
    times_us.sort()
    return {f"p{part}": round(times_us[max(math.ceil(part / 100 * batches) - 1, 0)], 2) for part in (50, 99)}


if __name__ == "__main__":
    sys.exit(main())
