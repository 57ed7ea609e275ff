"""A plan that cannot be."""

from __future__ import annotations


class InvalidPlan(Exception):
    """`reason` is one of `reasons`; `message` names the field, the value and what would be right."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
