"""Which faults were met in which phases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from simulation.faults import FAULTS, PHASES, TRAPS

Pairs = Counter[tuple[str, str]]
FINDING = "simulation"


# How often a deep run must have met each pair that can come about.
LEAST = 20
_CALLED_IN_VAIN = frozenset(TRAPS)
# What cannot come about, or by chance alone, and why.
NEVER: dict[str, tuple[frozenset[str], str]] = {
    "Completed": (
        frozenset({"stale get"}),
        "nothing is left to raise unless its plan grows, and only a raise asks for the object",
    ),
    "Terminating": (frozenset({"deleted"}), "it is deleted already"),
    "Gone": (
        _CALLED_IN_VAIN | {"deleted", "cluster rebuilt", "status forged"},
        "there is no object: nothing is called for it, and nothing of it can be deleted or written",
    ),
}
POSSIBLE = tuple(
    (fault, phase) for phase in PHASES for fault in FAULTS if fault not in NEVER.get(phase, (frozenset(), ""))[0]
)


def missing(pairs: Pairs) -> list[str]:
    """The pairs that can come about and were met too seldom."""
    return [
        f"{fault} in {phase}: {pairs[fault, phase]} times, at least {LEAST} are wanted"
        for fault, phase in POSSIBLE
        if pairs[fault, phase] < LEAST
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
