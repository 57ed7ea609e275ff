"""What a recipient is, and what goes wrong with one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from feature_rollout.ports import Transition


class Undelivered(Exception):
    """A recipient could not be told; the text says why, in our words and without a secret.

    `refused`: it will not have this transition, others perhaps. Otherwise the recipient itself is in
    trouble, and is left alone for `retry_after_s` where it has asked for that.
    """

    def __init__(self, text: str, *, refused: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.refused = refused
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Sent:
    """What the recipient keeps of the rollout from now on. Not `whole`: keep it, then send again."""

    memory: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = True


class Recipient(Protocol):
    """Somebody who is told of every transition: in the order of a rollout, at least once."""

    @property
    def name(self) -> str:
        """Its name in metrics, logs and the database."""

    async def send(self, transition: Transition, memory: Mapping[str, Any]) -> Sent:
        """Tell it. Raises Undelivered.

        Whatever must not be done twice comes last, so that a crash repeats as little as possible.
        """
