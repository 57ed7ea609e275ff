"""What a plan is made of: the objects as the API server has them, and as they can be stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from feature_rollout.api.featurerollout import FeatureRollout
from feature_rollout.api.flagstore import FlagStore
from feature_rollout.api.metricprovider import MetricProvider
from feature_rollout.api.metrictemplate import MetricTemplate
from feature_rollout.api.resolve import Resolved, resolve
from feature_rollout.api.rollbackmatrix import RollbackMatrix

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parts:
    """A rollout and the objects that it names, so far as there are any; templates and providers by name."""

    rollout: Object
    matrix: Object | None = None
    store: Object | None = None
    templates: Mapping[str, Object] = field(default_factory=dict)
    providers: Mapping[str, Object] = field(default_factory=dict)

    def resolve(self) -> Resolved:
        """Their plan. Raises InvalidPlan and InvalidObject."""
        return resolve(
            FeatureRollout.parse(self.rollout),
            matrix=RollbackMatrix.parse(self.matrix) if self.matrix is not None else None,
            templates={name: MetricTemplate.parse(obj) for name, obj in self.templates.items()},
            store=FlagStore.parse(self.store) if self.store is not None else None,
            providers={name: MetricProvider.parse(obj) for name, obj in self.providers.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """What `resolve` needs of them. Specs name Secrets and never hold what is in one."""
        return {
            "rollout": _bare(self.rollout),
            "matrix": _bare(self.matrix) if self.matrix is not None else None,
            "store": _bare(self.store) if self.store is not None else None,
            "templates": {name: _bare(obj) for name, obj in self.templates.items()},
            "providers": {name: _bare(obj) for name, obj in self.providers.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Parts:
        return cls(data["rollout"], data["matrix"], data["store"], data["templates"], data["providers"])


def _bare(obj: Object) -> dict[str, Any]:
    metadata = {key: obj["metadata"][key] for key in ("name", "namespace") if key in obj["metadata"]}
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": metadata, "spec": obj["spec"]}
