"""The CustomResourceDefinitions, made from the models, and the files in which they are installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from feature_rollout.api import policies
from feature_rollout.api.base import GROUP, VERSION, Resource
from feature_rollout.api.kinds import KINDS
from feature_rollout.api.schema import structural

CATEGORY = "featurerollout"
HEADER = "# Generated from feature_rollout.api by `featurerollout crds`; edit the models instead.\n"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`; a wide one is shown with `-o wide` only."""

    name: str
    path: str
    type: str = "string"
    wide: bool = False
    description: str = ""

    def to_crd(self) -> dict[str, Any]:
        column: dict[str, Any] = {"name": self.name, "type": self.type, "jsonPath": self.path}
        if self.description:
            column["description"] = self.description
        if self.wide:
            column["priority"] = 1
        return column


def _condition(field: str) -> str:
    return f'.status.conditions[?(@.type=="Ready")].{field}'


_AGE = Column("Age", ".metadata.creationTimestamp", "date")
_READY = Column("Ready", _condition("status"), description="Whether what the object demands is so now.")
_WHY = (Column("Reason", _condition("reason"), wide=True), Column("Message", _condition("message"), wide=True))

COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "FeatureRollout": (
        Column("Stage", ".status.summary.stage", description="The newest stage entered, of how many."),
        Column("Exposure", ".status.summary.exposure", description="Who has the flags of that stage."),
        Column("Health", ".status.summary.health", description="What the guards say."),
        _READY,
        Column("Next", ".status.summary.next", description="What comes next."),
        _AGE,
        *_WHY,
    ),
    "RollbackMatrix": (Column("Budget", ".spec.alphaBudget"), _AGE),
    "MetricTemplate": (Column("Type", ".spec.type"), Column("Counts", ".spec.counts"), _AGE),
    "MetricProvider": (Column("Address", ".spec.prometheus.address"), _READY, _AGE, *_WHY),
    "FlagStore": (
        Column("Schema", ".spec.table.schema"),
        Column("Table", ".spec.table.name"),
        _READY,
        _AGE,
        *_WHY,
    ),
    "RolloutAction": (
        Column("Rollout", ".spec.rolloutRef.name"),
        Column("Type", ".spec.type"),
        Column("By", ".spec.requestedBy"),
        Column("Phase", ".status.phase"),
        _AGE,
        Column("Reason", ".status.reason", wide=True),
        Column("Message", ".status.message", wide=True),
    ),
}

# What `kubectl get --field-selector` can ask for; at most eight a kind.
SELECTABLE: Mapping[str, tuple[str, ...]] = {
    "FeatureRollout": (
        ".spec.storeRef.name",
        ".spec.matrixRef.name",
        ".spec.suspend",
        ".status.phase",
        ".status.stage.name",
    ),
    "RolloutAction": (".spec.rolloutRef.name", ".spec.type", ".status.phase"),
}


def crd(kind: str) -> dict[str, Any]:
    """One CustomResourceDefinition."""
    model = KINDS[kind]
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _schema(model)},
        **({"subresources": {"status": {}}} if _has_status(model) else {}),
        "additionalPrinterColumns": [column.to_crd() for column in COLUMNS[kind]],
    }
    if kind in SELECTABLE:
        version["selectableFields"] = [{"jsonPath": path} for path in SELECTABLE[kind]]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{model.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": model.plural,
                "singular": kind.lower(),
                "shortNames": list(model.short_names),
                "categories": [CATEGORY],
            },
            "scope": model.scope,
            "versions": [version],
        },
    }


# For clusters that do not have this kind of policy, it is left out.
STAMP_FILE = f"{GROUP}_policy-requested-by.yaml"


def files() -> dict[str, str]:
    """Every CustomResourceDefinition and policy as YAML, by the name of its file; the same bytes each time."""
    documents = {f"{GROUP}_{KINDS[kind].plural}.yaml": [crd(kind)] for kind in KINDS}
    documents[f"{GROUP}_policy-may-request.yaml"] = policies.check()
    documents[STAMP_FILE] = policies.stamp()
    return {name: HEADER + "---\n".join(map(_yaml, parts)) for name, parts in documents.items()}


def _schema(model: type[Resource]) -> dict[str, Any]:
    schema = structural(model)
    # The API server defines and checks these three itself.
    schema["properties"]["metadata"] = {"type": "object"}
    schema["properties"]["apiVersion"] = {"type": "string"}
    schema["properties"]["kind"] = {"type": "string"}
    schema["required"] = ["spec"]
    if _has_status(model):
        # Until somebody has looked at the object, tools that wait for a status must not take none for a good one.
        schema["properties"]["status"]["default"] = {"observedGeneration": -1}
    return schema


def _has_status(model: type[Resource]) -> bool:
    """Whether the operator says something of objects of this kind; of others tools would wait for it for ever."""
    return "status" in model.model_fields


class _Dumper(yaml.SafeDumper):
    """Repeats what is equal instead of pointing to it: readers are no parsers."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the base's
        return True


def _yaml(document: Mapping[str, Any]) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
