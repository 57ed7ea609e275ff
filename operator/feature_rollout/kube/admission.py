"""Whether the API server checks who asks for a RolloutAction, as `api.policies` has it."""

from __future__ import annotations

from typing import Final

from feature_rollout.api.policies import CHECK
from feature_rollout.kube.client import Api
from feature_rollout.kube.errors import Gone, PermissionDenied

PATH: Final = "/apis/admissionregistration.k8s.io/v1"


async def missing_policy(api: Api) -> str:
    """The kind and the name of what is not there of the policy and its binding; "" also when one may not look.

    Raises ApiError.
    """
    for kind, plural in (("Policy", "policies"), ("PolicyBinding", "policybindings")):
        try:
            await api.request("GET", f"{PATH}/validatingadmission{plural}/{CHECK}")
        except Gone:
            return f"ValidatingAdmission{kind} {CHECK}"
        except PermissionDenied:
            return ""
    return ""
