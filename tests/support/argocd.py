"""Argo CD with the scripts of gitops/argocd, as they stand in the patch of its ConfigMap."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from support import lua

FOLDER = Path(__file__).parents[2] / "gitops" / "argocd"
CONFIG = yaml.safe_load((FOLDER / "argocd-cm.yaml").read_text())["data"]
# Who asks when somebody clicks.
ACCOUNT = "system:serviceaccount:argocd:argocd-server"
_GROUP = "featurerollout.dev"


def health_script(kind: str) -> str:
    return str(CONFIG[f"resource.customizations.health.{_GROUP}_{kind}"])


@cache
def action_scripts() -> dict[str, str]:
    """By the name of the action, and `discovery`."""
    actions = yaml.safe_load(CONFIG[f"resource.customizations.actions.{_GROUP}_FeatureRollout"])
    found = {one["name"]: one["action.lua"] for one in actions["definitions"]}
    return {**found, "discovery": actions["discovery.lua"]}


def health(obj: Mapping[str, Any]) -> tuple[str, str]:
    """The status and the message that are shown of an object."""
    said = lua.run(health_script(obj["kind"]), obj)
    return said["status"], said["message"]


def offered(rollout: Mapping[str, Any]) -> set[str]:
    """The actions that may be clicked."""
    return {name for name, action in lua.run(action_scripts()["discovery"], rollout).items() if not action["disabled"]}


def created(action: str, rollout: Mapping[str, Any]) -> Any:
    """The object that a click makes."""
    (made,) = lua.run(action_scripts()[action], rollout)
    assert made["operation"] == "create"
    return made["resource"]
