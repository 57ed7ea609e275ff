"""The admission policies that go with the CRDs: who asks for a RolloutAction, and whether they may.

The API server alone knows who sends a request. It writes the name into the action (the
mutating policy), refuses an action that bears another one, and asks its authorizer for a
verb on the rollout that the action names (the validating policy). The operator then
believes `requestedBy`, since nobody but the API server can have written it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from feature_rollout.api.base import GROUP
from feature_rollout.api.featurerollout import FeatureRollout
from feature_rollout.api.rolloutaction import RolloutAction
from feature_rollout.api.rolloutaction import RolloutActionType as Type

# What a person must be allowed to do with the FeatureRollout itself to command it. No request has these verbs; a
# Role names them like any other. Confirm is consent, as Approve is; Adopt starts what had ended, as Retry does.
VERBS: Mapping[Type, str] = {
    Type.APPROVE: "approve",
    Type.CONFIRM: "approve",
    Type.PROMOTE: "promote",
    Type.PAUSE: "pause",
    Type.RESUME: "pause",
    Type.ROLL_BACK: "rollback",
    Type.RETRY: "retry",
    Type.ADOPT: "retry",
}
STAMP: Final = f"requested-by.{GROUP}"
CHECK: Final = f"may-request.{GROUP}"

_ADMISSION = "admissionregistration.k8s.io/v1"
_STAMPED = "object.spec.requestedBy == request.userInfo.username"


def stamp() -> list[dict[str, Any]]:
    """The MutatingAdmissionPolicy that writes requestedBy, and its binding. From Kubernetes 1.37 on (v1)."""
    spec = {
        "failurePolicy": "Fail",
        # Again after another policy or webhook that changed the action.
        "reinvocationPolicy": "IfNeeded",
        "matchConstraints": _new_actions(),
        # The schema refuses an action without a spec in words; a patch of nothing would fail in none.
        "matchConditions": [{"name": "has-spec", "expression": "has(object.spec)"}],
        "mutations": [
            {
                "patchType": "JSONPatch",
                "jsonPatch": {
                    "expression": '[JSONPatch{op: "add", path: "/spec/requestedBy", value: request.userInfo.username}]'
                },
            }
        ],
    }
    return [_policy("MutatingAdmissionPolicy", STAMP, spec), _binding("MutatingAdmissionPolicy", STAMP, {})]


def check() -> list[dict[str, Any]]:
    """The ValidatingAdmissionPolicy that demands the true requestedBy and the verb, and its binding."""
    verbs = ", ".join(f"'{kind}': '{verb}'" for kind, verb in VERBS.items())
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": _new_actions(),
        "variables": [
            {"name": "verb", "expression": f"{{{verbs}}}[object.spec.type]"},
            {"name": "rollout", "expression": "object.spec.rolloutRef.name"},
        ],
        "validations": [
            {
                "expression": f"has(object.spec.requestedBy) && {_STAMPED}",
                "messageExpression": (
                    "'spec.requestedBy: \"' + (has(object.spec.requestedBy) ? object.spec.requestedBy : '') + "
                    "'\" is not who asks: leave it out, or write \"' + request.userInfo.username + '\"'"
                ),
                "reason": "Forbidden",
            },
            {
                "expression": (
                    f"authorizer.group('{GROUP}').resource('{FeatureRollout.plural}')"
                    ".namespace(request.namespace).name(variables.rollout).check(variables.verb).allowed()"
                ),
                "messageExpression": (
                    "object.spec.type + ' needs the verb \"' + variables.verb + '\" on the FeatureRollout ' + "
                    "variables.rollout + ' of namespace ' + request.namespace + ', which ' + "
                    "request.userInfo.username + ' has not: ask for a Role that has it'"
                ),
                "reason": "Forbidden",
            },
        ],
    }
    actions = {"validationActions": ["Deny"]}
    return [_policy("ValidatingAdmissionPolicy", CHECK, spec), _binding("ValidatingAdmissionPolicy", CHECK, actions)]


def _new_actions() -> dict[str, Any]:
    rule = {
        "apiGroups": [GROUP],
        "apiVersions": ["*"],
        # An action cannot be changed, so its creation is all there is to guard.
        "operations": ["CREATE"],
        "resources": [RolloutAction.plural],
    }
    return {"resourceRules": [rule]}


def _policy(kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": _ADMISSION, "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}


def _binding(kind: str, name: str, more: Mapping[str, Any]) -> dict[str, Any]:
    return _policy(f"{kind}Binding", name, {"policyName": name, **more})
