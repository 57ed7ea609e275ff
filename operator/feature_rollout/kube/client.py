"""The calls that we make to the API server, over `kubernetes.aio`.

Bodies are plain dicts: the generated models know nothing of custom objects. The
library gives us what is hard to get right: kubeconfig files with their exec plugins,
rotating service-account tokens, TLS and proxies.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode

import aiohttp

from feature_rollout.kube.connection import Connection
from feature_rollout.kube.errors import ApiError, ApiUnavailable, Gone, PermissionDenied, Refused, Stale
from feature_rollout.kube.resources import API_VERSION, GROUP_PATH, RESOURCES, path_of

FIELD_MANAGER = "feature-rollout-operator"
TIMEOUT_S = 10.0
PAGE_SIZE = 500
# A list of more than this is a mistake somewhere, and would fill the memory.
PAGES_MAX = 200

JSON = "application/json"
APPLY = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
METADATA_LIST = f"{JSON};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

# The API server's reasons are single words. Anything else could be text that somebody chose, and is not repeated.
REASON = re.compile(r"[A-Za-z]{1,40}")
DETAIL_MAX = 4096

Objects = list[dict[str, Any]]
RequestHook = Callable[[str, str, float], None]


class SecretValues(dict[str, str]):
    """A Secret's values, which do not show when the object is printed or logged."""

    def __repr__(self) -> str:
        return f"<{len(self)} secret values>"

    __str__ = __repr__


class Api:
    """One connection to the API server; an async context manager, or `open()` and `close()`.

    `on_request(verb, code, seconds)` is called after each call; code is "error" when no answer
    came. Every method raises an ApiError: ApiUnavailable, PermissionDenied, Refused, or
    what its own description says.
    """

    def __init__(self, connection: Connection, *, on_request: RequestHook | None = None) -> None:
        self._connection = connection
        self._on_request = on_request or (lambda _verb, _code, _seconds: None)
        # Any: the client library ships no types.
        self._client: Any = None
        # What a call raises when it comes to no answer.
        self._broken: tuple[type[Exception], ...] = (aiohttp.ClientError, OSError, TimeoutError)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Read the connection's files; makes no call yet. Raises NoConnection."""
        # The client library takes half a second to import, which `featurerollout --help` need not wait for.
        from kubernetes.aio.client import ApiClient  # noqa: PLC0415
        from kubernetes.aio.config import ConfigException  # noqa: PLC0415

        if self._client is None:
            self._broken = (*self._broken, ConfigException)
            configuration = await self._connection.load()
            # Otherwise aiohttp looks for a proxy and a netrc file at each request, each in another thread. The proxy is
            # known, and what a netrc file says is not for us.
            configuration.client_session_kwargs = {"trust_env": False}
            self._client = ApiClient(configuration)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = JSON,
        accept: str = JSON,
        timeout_s: float = TIMEOUT_S,
    ) -> Any:
        """Make one call and return the parsed answer.

        404 raises Gone, 409 Stale, 403 PermissionDenied, 429, 5xx and no answer
        ApiUnavailable, everything else Refused. It is tried once, and once more after a
        401 with the credentials read anew, because they may have expired.
        """
        what = f"{method} {path}"
        headers = {"Accept": accept, "Content-Type": content_type, "User-Agent": FIELD_MANAGER}
        asked = urlencode(query or {})
        status, answer = await self._send(method, path, asked, headers, body, timeout_s=timeout_s)
        if status == 401:
            await self._read_credentials()
            status, answer = await self._send(method, path, asked, headers, body, timeout_s=timeout_s)
        if 200 <= status < 300:
            return _parsed(what, answer)
        raise _error(what, status, answer)

    async def create(
        self, plural: str, namespace: str, obj: Mapping[str, Any], *, dry_run: bool = False
    ) -> dict[str, Any]:
        """Create one of our objects and return it; `dry_run` only asks whether it would be created."""
        query = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        return _mapping(await self.request("POST", path_of(plural, namespace), query=query, body=obj))

    async def user(self) -> str:
        """Who we are to the API server (SelfSubjectReview, since Kubernetes 1.28)."""
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = _mapping(await self.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body=review))
        return str(answer["status"]["userInfo"]["username"])

    async def get(
        self, plural: str, namespace: str | None, name: str, *, timeout_s: float = TIMEOUT_S
    ) -> dict[str, Any] | None:
        """One of our objects as it is now, or None."""
        try:
            return _mapping(await self.request("GET", path_of(plural, namespace, name), timeout_s=timeout_s))
        except Gone:
            return None

    async def list(self, plural: str, namespace: str | None = None) -> tuple[Objects, str]:
        """All objects of a kind, in one namespace or in all, and the resourceVersion that this was true at."""
        return await self._list(path_of(plural, namespace), JSON)

    async def list_metadata(self, plural: str, namespace: str | None = None) -> tuple[Objects, str]:
        """As `list`, but of each object only its metadata, which is what a sweep needs."""
        return await self._list(path_of(plural, namespace), METADATA_LIST)

    async def served(self) -> frozenset[str]:
        """The plurals of our API version that the API server serves; empty when the CRDs are not there."""
        try:
            answer = _mapping(await self.request("GET", GROUP_PATH))
        except Gone:
            return frozenset()
        return frozenset(str(resource["name"]) for resource in answer.get("resources") or ())

    async def apply_status(
        self, plural: str, obj: Mapping[str, Any], status: Mapping[str, Any], *, timeout_s: float = TIMEOUT_S
    ) -> dict[str, Any]:
        """Make this the whole status of the object that was decided on; return the object as it is then.

        Raises Stale when the object has changed since, Gone when it is not there any more.
        A status that is the same already leaves the object's resourceVersion as it is.
        """
        metadata = obj["metadata"]
        body = {
            "apiVersion": API_VERSION,
            "kind": RESOURCES[plural].kind,
            "metadata": {
                "name": metadata["name"],
                "uid": metadata["uid"],
                # Without it an apply would be blind to what happened since the decision.
                "resourceVersion": metadata["resourceVersion"],
            },
            "status": status,
        }
        answer = await self.request(
            "PATCH",
            f"{path_of(plural, metadata.get('namespace'), metadata['name'])}/status",
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
            body=body,
            content_type=APPLY,
            timeout_s=timeout_s,
        )
        return _mapping(answer)

    async def json_patch(self, plural: str, obj: Mapping[str, Any], ops: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Patch the object that was decided on. Raises Stale when it has changed since, Gone when it is not there."""
        metadata = obj["metadata"]
        namespace, name, version = metadata.get("namespace"), metadata["name"], metadata["resourceVersion"]
        unchanged = {"op": "test", "path": "/metadata/resourceVersion", "value": version}
        path = path_of(plural, namespace, name)
        try:
            answer = await self.request(
                "PATCH",
                path,
                query={"fieldManager": FIELD_MANAGER},
                body=[unchanged, *ops],
                content_type=JSON_PATCH,
            )
        except Refused as error:
            if error.code != 422:
                raise
            # A failed test and an invalid object are both 422; the object's version tells which one it was.
            now = await self.get(plural, namespace, name)
            if now is None:
                raise Gone(f"PATCH {path}", 404) from error
            if now["metadata"]["resourceVersion"] != version:
                raise Stale(f"PATCH {path}", 422) from error
            raise
        return _mapping(answer)

    async def delete(self, plural: str, obj: Mapping[str, Any]) -> None:
        """Delete exactly this object, by its UID. Fine when it is gone; raises Stale when another has its name."""
        metadata = obj["metadata"]
        try:
            await self.request(
                "DELETE",
                path_of(plural, metadata.get("namespace"), metadata["name"]),
                body={"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": metadata["uid"]}},
            )
        except Gone:
            return

    async def secret(self, namespace: str, name: str) -> Mapping[str, str] | None:
        """A Secret's values, decoded, or None. Values that are not text are left out."""
        try:
            answer = _mapping(await self.request("GET", _core_path(namespace, "secrets", name)))
        except Gone:
            return None
        values = SecretValues()
        for key, encoded in (answer.get("data") or {}).items():
            try:
                values[key] = base64.b64decode(encoded).decode()
            except (binascii.Error, UnicodeDecodeError):
                continue
        return values

    async def config_map(self, namespace: str, name: str) -> Mapping[str, str] | None:
        """A ConfigMap's text values, or None."""
        try:
            answer = _mapping(await self.request("GET", _core_path(namespace, "configmaps", name)))
        except Gone:
            return None
        return dict(answer.get("data") or {})

    async def namespace(self, name: str) -> dict[str, Any] | None:
        """A namespace, or None; the UID of `kube-system` names the cluster."""
        try:
            return _mapping(await self.request("GET", f"/api/v1/namespaces/{quote(name, safe='')}"))
        except Gone:
            return None

    async def create_event(self, event: Mapping[str, Any]) -> None:
        """Create an `events.k8s.io/v1` Event. Raises Stale when one of its name is there already."""
        await self.request("POST", _event_path(event["metadata"]["namespace"]), body=event)

    async def patch_event(self, namespace: str, name: str, patch: Mapping[str, Any]) -> None:
        """Merge this into an Event. Raises Gone when it has expired."""
        path = f"{_event_path(namespace)}/{quote(name, safe='')}"
        await self.request("PATCH", path, body=patch, content_type=MERGE_PATCH)

    async def _list(self, path: str, accept: str) -> tuple[Objects, str]:
        items: Objects = []
        token = ""
        for _ in range(PAGES_MAX):
            query = {"limit": str(PAGE_SIZE)} | ({"continue": token} if token else {})
            page = _mapping(await self.request("GET", path, query=query, accept=accept, timeout_s=3 * TIMEOUT_S))
            items += page.get("items") or []
            metadata = page.get("metadata") or {}
            token = metadata.get("continue") or ""
            if not token:
                return items, str(metadata.get("resourceVersion") or "")
        raise Refused(f"GET {path}", 413, f"MoreThan{PAGES_MAX * PAGE_SIZE}Objects")

    async def _read_credentials(self) -> None:
        fresh = await self._connection.load()
        self._client.configuration.api_key = fresh.api_key
        self._client.configuration.refresh_api_key_hook = fresh.refresh_api_key_hook

    async def _send(
        self, method: str, path: str, query: str, headers: Mapping[str, str], body: object, *, timeout_s: float
    ) -> tuple[int, bytes]:
        if self._client is None:
            raise ApiUnavailable(f"{method} {path}: not connected")
        code, clock = "error", asyncio.get_running_loop().time
        begun_s = clock()
        try:
            # Around the library's own deadline, because that one does not cover reading or renewing the credentials.
            async with asyncio.timeout(timeout_s):
                # Not the library's `param_serialize`, which copies each body member by member: ours are JSON already.
                sent = dict(headers)
                await self._client.update_params_for_auth(sent, [], ["BearerToken"], path, method, body)
                url = f"{self._client.configuration.host}{path}{'?' if query else ''}{query}"
                deadline = aiohttp.ClientTimeout(total=timeout_s)
                response = await self._client.call_api(method, url, sent, body, _request_timeout=deadline)
                answer = await response.read()
                code = str(response.status)
                return response.status, answer
        except self._broken as error:
            # The type's name only: the text of some errors repeats the address with its credentials.
            raise ApiUnavailable(f"{method} {path}: {type(error).__name__}") from error
        finally:
            self._on_request(method, code, clock() - begun_s)


def _core_path(namespace: str, plural: str, name: str) -> str:
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/{plural}/{quote(name, safe='')}"


def _event_path(namespace: str) -> str:
    return f"/apis/events.k8s.io/v1/namespaces/{quote(namespace, safe='')}/events"


def _parsed(what: str, answer: bytes) -> Any:
    try:
        return json.loads(answer)
    except ValueError as error:
        # A proxy that answers 200 with a page of its own; the page may hold anything, so it is not repeated.
        raise ApiUnavailable(f"{what}: an answer that is not JSON") from error


def _mapping(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise ApiUnavailable("an answer that is not an object")
    return answer


def _error(what: str, status: int, answer: bytes) -> ApiError:
    try:
        parsed = json.loads(answer)
    except (ValueError, RecursionError):
        parsed = None
    told = parsed if isinstance(parsed, dict) else {}
    error = _error_of(what, status, told.get("reason"))
    if isinstance(told.get("message"), str):
        error.detail = told["message"][:DETAIL_MAX]
    return error


def _error_of(what: str, status: int, reason: object) -> ApiError:
    if status == 404:
        return Gone(what, status)
    if status == 409:
        return Stale(what, status)
    if status == 403:
        return PermissionDenied(what, status)
    if status == 429 or status >= 500 or status < 400:
        return ApiUnavailable(what, status)
    return Refused(what, status, reason if isinstance(reason, str) and REASON.fullmatch(reason) else "")
