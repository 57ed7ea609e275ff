"""Checks that are Jobs: created once, and looked at until they are over.

What a Job has to say is kept by the Job itself. Its name is made from all that the answer
belongs to: the rollout's UID, the attempt, the check, the plan and the manifest. So a
restart, or a second replica, goes on with the same Job, and a failed one is run again only
when one of those is another, or when it was deleted.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from feature_rollout.api.jobs import API_VERSION, InvalidJob, JobManifest, parse
from feature_rollout.api.values import KeyReference
from feature_rollout.kube.client import FIELD_MANAGER, REASON, Api
from feature_rollout.kube.errors import ApiError, ApiUnavailable, Gone, PermissionDenied, Refused, Stale
from feature_rollout.kube.resources import API_VERSION as OUR_API_VERSION
from feature_rollout.kube.resources import GROUP, RESOURCES, ROLLOUTS

# A week: long enough for people to read the logs, and for an answer to be old after it.
TTL_S: Final = 7 * 24 * 3600
# A Job's name is a label of its Pods, which has at most 63 characters.
NAME_CHARACTERS_MAX: Final = 63
DIGEST_CHARACTERS: Final = 12

ROLLOUT_LABEL: Final = f"{GROUP}/rollout"
CHECK_ANNOTATION: Final = f"{GROUP}/check"
ATTEMPT_ANNOTATION: Final = f"{GROUP}/attempt"
PLAN_ANNOTATION: Final = f"{GROUP}/plan-hash"
MANIFEST_ANNOTATION: Final = f"{GROUP}/manifest-sha256"


@dataclass(frozen=True, slots=True)
class JobAnswer:
    """`passed` is None while the Job is `running`, and when nothing could be found out."""

    passed: bool | None
    message: str
    running: bool = False


class _Unanswered(Exception):
    """The check cannot be asked; the message says what to do."""


@dataclass(frozen=True, slots=True)
class JobChecks:
    """The checks of one rollout that Jobs answer; `manifests` says where their manifests are, by full name."""

    api: Api
    rollout: Mapping[str, Any]
    plan_hash: str
    manifests: Mapping[str, KeyReference]

    async def ask(self, check: str, attempt: int) -> JobAnswer:
        """What the check's Job says in this attempt; it is created when it is not there. Raises only when cancelled."""
        try:
            return await self._ask(check, attempt)
        except _Unanswered as why:
            return JobAnswer(None, str(why))
        except ApiUnavailable:
            return JobAnswer(None, "the API server does not answer")
        except ApiError as error:
            return JobAnswer(None, f"the API server said {error.code or 'nothing'}")

    @property
    def _namespace(self) -> str:
        return str(self.rollout["metadata"]["namespace"])

    async def _ask(self, check: str, attempt: int) -> JobAnswer:
        text = await self._text(self.manifests[check])
        try:
            # In a thread, because reading 64 KiB of YAML takes the time of many looks.
            manifest = await asyncio.to_thread(parse, text, self._namespace)
        except InvalidJob as error:
            raise _Unanswered(f"{_place(self.manifests[check])}: {error}") from None
        wanted = job(manifest, text, check=check, attempt=attempt, rollout=self.rollout, plan_hash=self.plan_hash)
        found = await self._get(wanted["metadata"]["name"]) or await self._create(wanted, self.manifests[check])
        return self._answer(wanted, found)

    async def _text(self, reference: KeyReference) -> str:
        what = f"ConfigMap {reference.name} in namespace {self._namespace}"
        try:
            values = await self.api.config_map(self._namespace, reference.name)
        except PermissionDenied:
            raise _Unanswered(f"the operator may not read {what}: grant it get on configmaps by that name") from None
        if values is None:
            raise _Unanswered(f"there is no {what}: create it or correct the name")
        if not values.get(reference.key):
            raise _Unanswered(f"{what} has no text under the key {reference.key}: add it or correct the key")
        return values[reference.key]

    async def _get(self, name: str) -> Mapping[str, Any] | None:
        try:
            found: dict[str, Any] = await self.api.request("GET", f"{self._path}/{quote(name, safe='')}")
        except Gone:
            return None
        except PermissionDenied:
            raise self._lacks("get", "RBAC says no") from None
        return found

    async def _create(self, wanted: dict[str, Any], reference: KeyReference) -> Mapping[str, Any]:
        """The Job as it was created, or as another has created it meanwhile."""
        name = wanted["metadata"]["name"]
        try:
            created: dict[str, Any] = await self.api.request(
                "POST", self._path, query={"fieldValidation": "Strict", "fieldManager": FIELD_MANAGER}, body=wanted
            )
        except Stale:
            found = await self._get(name)
            if found is None:
                raise _Unanswered(f"Job {name} was there and is gone again") from None
            return found
        except PermissionDenied:
            raise self._lacks("create", "RBAC, a quota or an admission policy says no") from None
        except Refused as error:
            why = f" ({error.reason})" if error.reason else ""
            raise _Unanswered(
                f"{_place(reference)}: the API server refuses the Job{why}: kubectl create --dry-run=server -f says why"
            ) from None
        return created

    def _lacks(self, verb: str, why: str) -> _Unanswered:
        return _Unanswered(
            f"the operator may not {verb} Jobs in namespace {self._namespace} ({why}): "
            "grant it create and get on jobs of the group batch"
        )

    def _answer(self, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> JobAnswer:
        metadata = found["metadata"]
        name = metadata["name"]
        if not any(
            owner.get("uid") == self.rollout["metadata"]["uid"] for owner in metadata.get("ownerReferences", ())
        ):
            return JobAnswer(None, f"Job {name} is there and is not this rollout's: delete it")
        if metadata.get("deletionTimestamp"):
            return JobAnswer(None, f"Job {name} is being deleted, and runs again when it is gone", running=True)
        sha256 = wanted["metadata"]["annotations"][MANIFEST_ANNOTATION]
        what = f"Job {name} (manifest sha256 {sha256[:DIGEST_CHARACTERS]})"
        met = {
            condition.get("type"): condition.get("reason") or ""
            for condition in (found.get("status") or {}).get("conditions") or ()
            if condition.get("status") == "True"
        }
        if "Complete" in met:
            return JobAnswer(True, f"{what} has completed")
        if "Failed" in met:
            why = f" ({met['Failed']})" if REASON.fullmatch(met["Failed"]) else ""
            again = f"to run it again: kubectl delete job {name} -n {self._namespace}, or change its manifest"
            return JobAnswer(False, f"{what} has failed{why}; {again}")
        return JobAnswer(None, f"{what} runs", running=True)

    @property
    def _path(self) -> str:
        return f"/apis/{API_VERSION}/namespaces/{quote(self._namespace, safe='')}/jobs"


def job(
    manifest: JobManifest, text: str, *, check: str, attempt: int, rollout: Mapping[str, Any], plan_hash: str
) -> dict[str, Any]:
    """The Job of a check, the same whenever it is made; `text` is what the manifest was read from."""
    owner = rollout["metadata"]
    sha256 = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    identity = json.dumps([owner["uid"], attempt, check, plan_hash, sha256])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:DIGEST_CHARACTERS]
    prefix = (manifest.name or check.rpartition("/")[2])[: NAME_CHARACTERS_MAX - 1 - DIGEST_CHARACTERS].rstrip("-")
    # A label has at most 63 characters, the name of a rollout may have more.
    label = {ROLLOUT_LABEL: owner["name"]} if len(owner["name"]) <= NAME_CHARACTERS_MAX else {}
    return {
        "apiVersion": API_VERSION,
        "kind": "Job",
        "metadata": {
            "name": f"{prefix}-{digest}",
            "namespace": owner["namespace"],
            "labels": {**manifest.labels, "app.kubernetes.io/managed-by": FIELD_MANAGER, **label},
            "annotations": {
                **manifest.annotations,
                CHECK_ANNOTATION: check,
                ATTEMPT_ANNOTATION: str(attempt),
                PLAN_ANNOTATION: plan_hash,
                MANIFEST_ANNOTATION: sha256,
            },
            # Without blockOwnerDeletion, which would need a right on the rollout's finalizers.
            "ownerReferences": [
                {
                    "apiVersion": OUR_API_VERSION,
                    "kind": RESOURCES[ROLLOUTS].kind,
                    "name": owner["name"],
                    "uid": owner["uid"],
                    "controller": True,
                }
            ],
        },
        "spec": {**manifest.spec, "ttlSecondsAfterFinished": manifest.spec.get("ttlSecondsAfterFinished") or TTL_S},
    }


def _place(reference: KeyReference) -> str:
    return f"ConfigMap {reference.name} {reference.key}"
