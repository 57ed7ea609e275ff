"""`featurerollout doctor --cluster`: is the cluster set up as the operator needs it? Only asks, writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import yaml

from feature_rollout.api.crd import crd
from feature_rollout.demo import stage
from feature_rollout.kube import admission
from feature_rollout.kube.client import Api
from feature_rollout.kube.errors import ApiError, Gone, PermissionDenied
from feature_rollout.kube.resources import ACTIONS, GROUP, RESOURCES, ROLLOUTS, STORES
from feature_rollout.kube.schemas import unknown_fields
from feature_rollout.store.findings import Finding, Result

_POLICIES = ("validatingadmission", "mutatingadmission")
_AUTHORIZATION = "/apis/authorization.k8s.io/v1"
_INSTALL = "helm upgrade, or featurerollout crds | kubectl apply --server-side -f -"


class _Right(NamedTuple):
    namespace: str
    group: str
    resource: str
    name: str
    verb: str

    def __str__(self) -> str:
        what = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{what}/{self.name}" if self.name else what


async def examine(
    api: Api, namespace: str, operator: str | None, *, named: bool = False, leases: Sequence[str] = ()
) -> list[Finding]:
    """All findings of one namespace. `operator` is the user whose rights are asked for, by default one's own.

    `named`: the operator is told its cluster's name, and need not read a namespace for it. `leases`: those that its
    replicas share, in the namespace of its account.

    Raises ApiError when the API server gives no answer.
    """
    findings = [await _crds(api)]
    if findings[0].result is not Result.ERROR:
        stores, _ = await api.list(STORES, namespace)
        rollouts, _ = await api.list(ROLLOUTS, namespace)
        manifests = {found for rollout in rollouts for found in _job_manifests(rollout)}
        references = sorted({found for store in stores for found in _references(store)} | manifests)
        findings += [await _exists(api, namespace, *reference) for reference in references]
        findings += [_looked_at("flagstores", store) for store in stores]
        # What only some rollouts need is asked for where it is needed.
        without = ["secrets", "configmaps"] if manifests else ["secrets", "configmaps", "jobs"]
        if named:
            without.append("namespaces")
        wanted = _wanted(namespace, _account_namespace(operator) or namespace, leases, without)
        wanted += [_Right(namespace, "", resource, name, "get") for resource, name, _ in references]
        findings += [await _rights(api, namespace, operator, wanted)]
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
            return await _served_schemas(api, check)
        if found["spec"]["versions"][0]["schema"] != crd(resource.kind)["spec"]["versions"][0]["schema"]:
            other.append(resource.plural)
    if other:
        return Finding(check, Result.WARNING, f"{', '.join(other)} are of another version than this: {_INSTALL}")
    return Finding(check, Result.OK, "served, and of this version")


async def _served_schemas(api: Api, check: str) -> Finding:
    """For somebody who may not read CRDs: what anybody may ask."""
    fields = await unknown_fields(api)
    if fields:
        return Finding(
            check, Result.WARNING, f"they are older than this, and do not know {', '.join(fields)}: {_INSTALL}"
        )
    return Finding(check, Result.OK, "served, and know every field; you may not read whether they are of this version")


def _looked_at(plural: str, obj: dict[str, Any]) -> Finding:
    """What the operator says of an object that it must be able to use."""
    check = f"cluster: {plural}/{obj['metadata']['name']}"
    conditions = (obj.get("status") or {}).get("conditions") or ()
    ready = next((found for found in conditions if found["type"] == "Ready"), None)
    if ready is None:
        return Finding(
            check, Result.WARNING, "no operator has looked at it: it does not run, or not for this namespace"
        )
    if ready["status"] != "True":
        return Finding(check, Result.ERROR, f"{ready['reason']}: {ready['message']}")
    return Finding(check, Result.OK, "the operator can use it")


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


def _wanted(namespace: str, operator_namespace: str, leases: Sequence[str], without: list[str]) -> list[_Right]:
    """What the operator's rules grant; `without` are resources to leave out."""
    left_out = {*without, *(() if leases else ("leases",))}
    wanted = []
    for manifest in yaml.safe_load_all(stage.rbac(namespace, operator_namespace, "")):
        where = manifest["metadata"].get("namespace", "")
        for rule in manifest.get("rules") or ():
            if rule["resources"][0] not in left_out:
                names = rule.get("resourceNames") or [""]
                if rule["resources"] == ["leases"] and "resourceNames" in rule:
                    names = [*leases]
                wanted += [
                    _Right(where, group, resource, name, verb)
                    for group in rule["apiGroups"]
                    for resource in rule["resources"]
                    for name in names
                    for verb in rule["verbs"]
                ]
    return wanted


async def _rights(api: Api, namespace: str, operator: str | None, wanted: list[_Right]) -> Finding:
    """Each right, asked for one by one of who the operator runs as."""
    whose = operator or "you"
    check = f"cluster: rights of {whose}"
    lacking: dict[str, list[str]] = {}
    try:
        for right in sorted(set(wanted)):
            if not await _allowed(api, operator, right):
                where = f" in namespace {right.namespace}" if right.namespace not in ("", namespace) else ""
                lacking.setdefault(f"{right}{where}", []).append(right.verb)
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
    namespace = _account_namespace(user)
    accounts = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"] if namespace else []
    return [*accounts, "system:authenticated"]


def _account_namespace(user: str | None) -> str | None:
    """The namespace of a service account; None for anybody else."""
    parts = (user or "").split(":")
    return parts[2] if parts[:2] == ["system", "serviceaccount"] and len(parts) == 4 else None


async def _policies(api: Api) -> Finding:
    """Whether policies guard who creates RolloutActions, and are in effect."""
    check = "cluster: admission"
    found, bound = [], set()
    for kind in _POLICIES:
        try:
            policies = await api.request("GET", f"{admission.PATH}/{kind}policies")
            bindings = await api.request("GET", f"{admission.PATH}/{kind}policybindings")
        except Gone:
            continue
        except PermissionDenied:
            return Finding(check, Result.SKIPPED, f"you may not list {kind}policies and their bindings")
        found += [policy["metadata"]["name"] for policy in policies["items"] if _guards_actions(policy)]
        bound |= {binding["spec"]["policyName"] for binding in bindings["items"]}
    if not found:
        message = f"no admission policy guards {ACTIONS}: they may claim to be requested by anybody: {_INSTALL}"
        return Finding(check, Result.WARNING, message)
    idle = sorted(set(found) - bound)
    if idle:
        return Finding(check, Result.WARNING, f"no binding puts {', '.join(idle)} into effect: {_INSTALL}")
    return Finding(check, Result.OK, f"policies on {ACTIONS}: {', '.join(sorted(found))}")


def _guards_actions(policy: dict[str, Any]) -> bool:
    rules = (policy["spec"].get("matchConstraints") or {}).get("resourceRules") or ()
    return any(
        GROUP in (rule.get("apiGroups") or ()) and {ACTIONS, "*"} & set(rule.get("resources") or ()) for rule in rules
    )


def unreachable(error: ApiError) -> Finding:
    return Finding("cluster: connection", Result.ERROR, f"the API server gave no answer: {error}")
