"""Conditions and the part of a status that every kind has."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from feature_rollout.api.base import StatusModel


class ConditionStatus(StrEnum):
    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(StatusModel):
    """An aspect of the object's state, as in all of Kubernetes (metav1.Condition)."""

    type: Annotated[str, Field(min_length=1, max_length=316)]
    """What the condition is about."""
    status: ConditionStatus
    """Whether it holds."""
    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """The generation of the spec that it was decided on."""
    last_transition_time: datetime
    """When the status last changed."""
    reason: Annotated[str, Field(min_length=1, max_length=1024)]
    """A documented constant in CamelCase."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """The same for people."""


Conditions = Annotated[
    tuple[Condition, ...],
    Field(
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]


class ObjectStatus(StatusModel):
    """What the operator found out about the object."""

    observed_generation: int = -1
    """The generation of the spec that this status was decided on; -1 until the operator has seen the object."""
    conditions: Conditions = ()
    """The state in the form that Helm, Flux and Argo CD read: Ready, Reconciling, Stalled, and others."""
