"""Which faults were met in which phases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from simulation.faults import FAULTS, PHASES

Pairs = Counter[tuple[str, str]]
FINDING = "simulation"


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
