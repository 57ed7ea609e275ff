"""A small API server in the test's own event loop, which fails when it is told to: `FakeApi`.

It knows discovery, lists and watches of our six kinds, and remembers every request.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from feature_rollout.kube.connection import Connection
from feature_rollout.kube.resources import GROUP, GROUP_PATH, RESOURCES, ROLLOUTS, VERSION

VERBS = ["get", "list", "watch", "patch", "create", "delete"]


def rollout(name: str, version: int, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "FeatureRollout",
        "metadata": {
            "namespace": "shop",
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
            **metadata,
        },
    }


class FakeApi:
    """`objects` are the rollouts to list; `send` puts an event into every open watch.

    `faults` maps "list" or "watch" to statuses to answer, one a request, before going on
    as if nothing had been; `hidden` says for which of the next requests our resources
    are not there at all; `tokens` are those that are accepted.
    """

    def __init__(self, folder: Path) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str]] = []
        self.queries: list[dict[str, str]] = []
        self.tokens_seen: list[str] = []
        self.tokens = {"one"}
        self.faults: dict[str, list[int]] = {"list": [], "watch": []}
        self.hidden: list[bool] = []
        self.answer: web.Response | None = None
        self._kubeconfig = folder / "kubeconfig"
        self.url = ""
        self._watches: list[asyncio.Queue[dict[str, Any]]] = []

    @property
    def watches(self) -> int:
        """How many watches of rollouts are open."""
        return len(self._watches)

    def connection(self, token: str = "one") -> Connection:
        """What reaches this server; calling it again with another token changes the same file."""
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "fake", "user": {"token": token}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
            "current-context": "fake",
        }
        self._kubeconfig.write_text(yaml.safe_dump(content))
        return Connection(kubeconfig=str(self._kubeconfig))

    def send(self, event_type: str, obj: dict[str, Any]) -> None:
        for watch in self._watches:
            watch.put_nowait({"type": event_type, "object": obj})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeApi"]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        token = request.headers.get("Authorization", "").partition(" ")[2]
        self.requests.append((request.method, request.path))
        self.tokens_seen.append(token)
        if token not in self.tokens:
            return _status(401)
        if self.answer is not None:
            return self.answer
        if request.path == GROUP_PATH and self.hidden and self.hidden.pop(0):
            return _status(404)
        if (found := DISCOVERY.get(request.path)) is not None:
            return web.json_response(found)
        return await self._list_or_watch(request) if request.path.startswith(GROUP_PATH) else _status(404)

    async def _list_or_watch(self, request: web.Request) -> web.StreamResponse:
        is_rollouts = request.path.endswith(f"/{ROLLOUTS}")
        what = "watch" if request.query.get("watch") == "true" else "list"
        if is_rollouts:
            self.queries.append(dict(request.query))
            if self.faults[what]:
                return _status(self.faults[what].pop(0))
        if what == "watch":
            return await self._watch(request, is_rollouts=is_rollouts)
        items = list(self.objects.values()) if is_rollouts else []
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": items})

    async def _watch(self, request: web.Request, *, is_rollouts: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        if is_rollouts:
            self._watches.append(events)
        try:
            event: dict[str, Any] = {}
            # As the API server does, which ends a watch with the error that it sends.
            while event.get("type") != "ERROR":
                event = await events.get()
                await response.write(json.dumps(event).encode() + b"\n")
            return response
        finally:
            if is_rollouts:
                self._watches.remove(events)


def _status(code: int) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "s3cr3t"}
    return web.json_response(body, status=code)


def _resources(*found: tuple[str, str, bool]) -> dict[str, Any]:
    return {
        "resources": [
            {"name": plural, "singularName": kind.lower(), "kind": kind, "namespaced": namespaced, "verbs": VERBS}
            for plural, kind, namespaced in found
        ]
    }


def _group(name: str, version: str) -> dict[str, Any]:
    only = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [only], "preferredVersion": only}


DISCOVERY: dict[str, dict[str, Any]] = {
    "/api": {"versions": ["v1"]},
    "/apis": {"groups": [_group("apiextensions.k8s.io", "v1"), _group(GROUP, VERSION)]},
    "/api/v1": _resources(("namespaces", "Namespace", False)),
    "/apis/apiextensions.k8s.io/v1": _resources(("customresourcedefinitions", "CustomResourceDefinition", False)),
    GROUP_PATH: _resources(*((found.plural, found.kind, found.namespaced) for found in RESOURCES.values())),
}
