"""What the checks remember of the committed history. It is kept with the tables: lost commits take it along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from simulation.order import Row

Rows = Mapping[str, Row]


@dataclass(frozen=True, slots=True)
class Past:
    """Of one ledger key, since it was opened. `left` are the rows as the operator last left them, or took them over.

    `latch` is the spec hash under which a revert was made, `entered_s` when the present stage was entered by the true
    time (None when that says nothing), `unsure` are flags of which the audit owes something.
    """

    uid: str = ""
    baseline: Rows = field(default_factory=dict)
    left: Rows = field(default_factory=dict)
    ceilings: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)
    latch: str | None = None
    entered: frozenset[tuple[int, int]] = frozenset()
    entered_s: float | None = None
    audited: Rows = field(default_factory=dict)
    unsure: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Memory:
    """`epochs` are of the last raise of each flag, `latches` the spec hash of each flag's last revert."""

    keys: Mapping[str, Past] = field(default_factory=dict)
    epochs: Mapping[str, int] = field(default_factory=dict)
    latches: Mapping[str, str] = field(default_factory=dict)

    def of(self, key: str) -> Past:
        return self.keys.get(key, Past())
