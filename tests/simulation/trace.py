"""Everything that happens in a run, in order: for a person to read, and as a hash to compare runs by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

Seconds = float


@dataclass(frozen=True, slots=True)
class Event:
    """`who` is a replica, a person, the database, a fault; `what` is one line."""

    at_s: Seconds
    who: str
    what: str

    def __str__(self) -> str:
        return f"{self.at_s:11.3f}  {self.who:9} {self.what}"


class Trace:
    """`note` is called for every event; `time_s` gives the virtual time."""

    def __init__(self, time_s: Callable[[], Seconds]) -> None:
        self._time_s = time_s
        self.events: list[Event] = []

    def note(self, who: str, what: str) -> None:
        self.events.append(Event(self._time_s(), who, what))

    @property
    def digest(self) -> str:
        """SHA-256 over all events, in hexadecimal."""
        hashed = hashlib.sha256()
        for event in self.events:
            hashed.update(f"{event.at_s!r} {event.who} {event.what}\n".encode())
        return hashed.hexdigest()

    def text(self) -> str:
        return "\n".join(map(str, self.events))
