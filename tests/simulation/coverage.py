"""Which faults were met in which phases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from simulation.faults import FAULTS, PHASES

Pairs = Counter[tuple[str, str]]
FINDING = "simulation"


# How often a deep run must have met each pair that can come about.
LEAST = 20
# Faults that need something that is not there in a phase, and why.
NEVER: dict[str, tuple[frozenset[str], str]] = {
    "Gone": (
        frozenset(FAULTS) - {"killed", "two leaders", "paused leader", "Lease lost", "clock forward", "clock back"},
        "there is no object: nobody reads, measures or decides",
    ),
    "Pending": (frozenset({"answer lost, made later"}), "it is over within a second"),
}


def missing(pairs: Pairs) -> list[str]:
    """The pairs that can come about and were met too seldom."""
    return [
        f"{fault} in {phase}: {pairs[fault, phase]} times, at least {LEAST} are wanted"
        for phase in PHASES
        for fault in FAULTS
        if pairs[fault, phase] < LEAST and fault not in NEVER.get(phase, (frozenset(), ""))[0]
    ]


def table(pairs: Pairs) -> list[str]:
    """A line for each fault, a column for each phase."""
    short = [phase[:9] for phase in PHASES]
    lines = [f"{'met':30}" + "".join(f"{name:>10}" for name in short)]
    for fault in FAULTS:
        counts = "".join(f"{pairs[fault, phase] or '-':>10}" for phase in PHASES)
        lines.append(f"{fault:30}{counts}")
    return lines


def of_reports(reports: Sequence[Any]) -> list[str]:
    """Lines for the end of a test run, from what its tests have recorded."""
    pairs: Pairs = Counter()
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if name == FINDING and report.when == "call":
                pairs.update({(fault, phase): count for fault, phase, count in value})
    return table(pairs) if pairs else []
