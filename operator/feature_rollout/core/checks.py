"""Checks: what must be so before the first stage (preflight), or before a stage changes flags.

A check is known by its full name, `preflight/backup-is-recent` or
`stages/ten-percent/on-call`, which is unique in a plan; people name it by the last part.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

# An answer counts for so long: what was true last night is no proof of now.
VALID_FOR = timedelta(seconds=60)
# A check that has passed is asked again before its answer is too old, one that has not is asked more often.
ASK_AGAIN_AFTER = timedelta(seconds=30)
ASK_FAILED_AGAIN_AFTER = timedelta(seconds=10)

PREFLIGHT = "preflight"
# What a person acknowledges by a Confirm that names it, although no plan has it as a check.
GUARDS_QUIET = "guards-quiet"
SAMPLE_RATIO = "sample-ratio"
ACKNOWLEDGED = (GUARDS_QUIET, SAMPLE_RATIO)


@dataclass(frozen=True, slots=True)
class Check:
    """`confirm` is what a person has to confirm; None for a check that the database or a Job answers."""

    key: str
    confirm: str | None = None

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class CheckAnswer:
    """What a check said; `passed` is None when it could not be asked. `name` is the full name.

    `running` says that its Job is at it: not known yet, and nothing is wrong.
    """

    name: str
    passed: bool | None
    message: str
    at: datetime
    running: bool = False

    def counts(self, now: datetime) -> bool:
        return timedelta(0) <= now - self.at < VALID_FOR

    def again_at(self) -> datetime:
        """When to ask again."""
        return self.at + (ASK_AGAIN_AFTER if self.passed else ASK_FAILED_AGAIN_AFTER)


def preflight_key(check: str) -> str:
    return f"{PREFLIGHT}/{check}"


def stage_key(stage: str, check: str) -> str:
    return f"stages/{stage}/{check}"
