"""`featurerollout doctor --cluster`: is the cluster set up as the operator needs it? Only asks, writes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import yaml

from feature_rollout.api.crd import crd
from feature_rollout.demo import stage
from feature_rollout.kube.client import Api
from feature_rollout.kube.errors import ApiError, Gone, PermissionDenied
from feature_rollout.kube.resources import GROUP, RESOURCES, ROLLOUTS, STORES
from feature_rollout.store.doctor import Finding, Result

_ADMISSION = "/apis/admissionregistration.k8s.io/v1"
_POLICIES = ("validatingadmissionpolicies", "mutatingadmissionpolicies")
_AUTHORIZATION = "/apis/authorization.k8s.io/v1"
_INSTALL = "featurerollout crds | kubectl apply --server-side -f -"


class _Right(NamedTuple):
    namespace: str
    group: str
    resource: str
    name: str
    verb: str

    def __str__(self) -> str:
        what = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{what}/{self.name}" if self.name else what


async def examine(api: Api, namespace: str, operator: str | None) -> list[Finding]:
    """All findings of one namespace. `operator` is the user whose rights are asked for, by default one's own.

    Raises ApiError when the API server gives no answer.
    """
    findings = [await _crds(api)]
    if findings[0].result is not Result.ERROR:
        stores, _ = await api.list(STORES, namespace)
        rollouts, _ = await api.list(ROLLOUTS, namespace)
        manifests = {found for rollout in rollouts for found in _job_manifests(rollout)}
        references = sorted({found for store in stores for found in _references(store)} | manifests)
        findings += [await _exists(api, namespace, *reference) for reference in references]
        # What only some rollouts need is asked for where it is needed.
        without = ["secrets", "configmaps"] if manifests else ["secrets", "configmaps", "jobs"]
        findings += [await _rights(api, namespace, operator, references, without)]
    return [*findings, await _policies(api)]


async def _crds(api: Api) -> Finding:
    check = "cluster: CRDs"
    missing = sorted(set(RESOURCES) - await api.served())
    if missing:
        return Finding(check, Result.ERROR, f"{', '.join(missing)} are not served: {_INSTALL}")
    other = []
    for resource in RESOURCES.values():
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{resource.plural}.{GROUP}"
        try:
            found = await api.request("GET", path)
        except PermissionDenied:
            return Finding(check, Result.SKIPPED, "served; whether they are of this version may not be read")
        if found["spec"]["versions"][0]["schema"] != crd(resource.kind)["spec"]["versions"][0]["schema"]:
            other.append(resource.plural)
    if other:
        return Finding(check, Result.WARNING, f"{', '.join(other)} are of another version than this: {_INSTALL}")
    return Finding(check, Result.OK, "served, and of this version")


def _references(store: dict[str, Any]) -> Iterable[tuple[str, str, str]]:
    """Resource, name and key of everything that a FlagStore is made from."""
    postgres = store["spec"]["postgres"]
    for field in ("writer", "reader", "owner", "caCertificate"):
        for reference, resource in (("secretKeyRef", "secrets"), ("configMapKeyRef", "configmaps")):
            found = (postgres.get(field) or {}).get(reference)
            if found is not None:
                yield resource, found["name"], found["key"]


def _job_manifests(rollout: dict[str, Any]) -> Iterable[tuple[str, str, str]]:
    """Resource, name and key of every Job's manifest that a FeatureRollout names."""
    spec = rollout["spec"]
    in_stages = (check for one in spec["stages"] for check in one.get("checks", ()))
    for check in (*spec.get("preflight", ()), *in_stages):
        if "job" in check:
            reference = check["job"]["configMapKeyRef"]
            yield "configmaps", reference["name"], reference["key"]


async def _exists(api: Api, namespace: str, resource: str, name: str, key: str) -> Finding:
    check = f"cluster: {resource}/{name} {key}"
    try:
        found = await (api.secret if resource == "secrets" else api.config_map)(namespace, name)
    except PermissionDenied:
        return Finding(check, Result.SKIPPED, "you may not read it")
    if found is None:
        return Finding(check, Result.ERROR, f"does not exist in namespace {namespace}: create it")
    if not found.get(key):
        return Finding(check, Result.ERROR, f"has no text under key {key}: add it")
    return Finding(check, Result.OK, "is there")


async def _rights(
    api: Api, namespace: str, operator: str | None, references: list[tuple[str, str, str]], without: list[str]
) -> Finding:
    """What the operator's rules grant, asked one by one of who it runs as; `without` are resources to leave out."""
    whose = operator or "you"
    check = f"cluster: rights of {whose}"
    wanted = [_Right(namespace, "", resource, name, "get") for resource, name, _ in references]
    for manifest in yaml.safe_load_all(stage.rbac(namespace, namespace, "")):
        where = namespace if manifest["kind"] == "Role" else ""
        for rule in manifest.get("rules") or ():
            if rule["resources"][0] not in without:
                names = rule.get("resourceNames") or [""]
                wanted += [
                    _Right(where, group, resource, name, verb)
                    for group in rule["apiGroups"]
                    for resource in rule["resources"]
                    for name in names
                    for verb in rule["verbs"]
                ]
    lacking: dict[str, list[str]] = {}
    try:
        for right in sorted(set(wanted)):
            if not await _allowed(api, operator, right):
                lacking.setdefault(str(right), []).append(right.verb)
    except PermissionDenied:
        return Finding(check, Result.SKIPPED, f"you may not ask for the rights of {whose}")
    if lacking:
        text = "; ".join(f"{' and '.join(verbs)} on {what}" for what, verbs in lacking.items())
        return Finding(check, Result.ERROR, f"lacks {text}: grant it in namespace {namespace}")
    return Finding(check, Result.OK, "all that the operator needs")


async def _allowed(api: Api, operator: str | None, right: _Right) -> bool:
    attributes = right._asdict()
    attributes["resource"], _, attributes["subresource"] = right.resource.partition("/")
    spec: dict[str, Any] = {"resourceAttributes": attributes}
    if operator is None:
        review = "selfsubjectaccessreviews"
    else:
        review = "subjectaccessreviews"
        spec |= {"user": operator, "groups": _groups(operator)}
    answer = await api.request("POST", f"{_AUTHORIZATION}/{review}", body={"spec": spec})
    return bool(answer["status"].get("allowed"))


def _groups(user: str) -> list[str]:
    """Those that the API server gives a service account; others' are not known here."""
    parts = user.split(":")
    if parts[:2] != ["system", "serviceaccount"] or len(parts) != 4:
        return ["system:authenticated"]
    return ["system:serviceaccounts", f"system:serviceaccounts:{parts[2]}", "system:authenticated"]


async def _policies(api: Api) -> Finding:
    check = "cluster: admission"
    found = []
    for plural in _POLICIES:
        try:
            listed = await api.request("GET", f"{_ADMISSION}/{plural}")
        except Gone:
            continue
        except PermissionDenied:
            return Finding(check, Result.SKIPPED, f"you may not list {plural}")
        found += [policy["metadata"]["name"] for policy in listed["items"] if _is_ours(policy)]
    if not found:
        message = f"no admission policy looks at {GROUP}: RolloutActions may claim to be requested by anybody"
        return Finding(check, Result.WARNING, message)
    return Finding(check, Result.OK, f"policies on {GROUP}: {', '.join(sorted(found))}")


def _is_ours(policy: dict[str, Any]) -> bool:
    rules = (policy["spec"].get("matchConstraints") or {}).get("resourceRules") or ()
    return any(GROUP in (rule.get("apiGroups") or ()) for rule in rules)


def unreachable(error: ApiError) -> Finding:
    return Finding("cluster: connection", Result.ERROR, f"the API server gave no answer: {error}")
