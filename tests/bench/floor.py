"""What the same costs on the same API server and database without any operator: the least that there is to pay.

| figure | from | to the answer to its row's COMMIT, |
|---|---|---|
| apply_to_row_ms | the answer to the create of a rollout, all at once | behind a PATCH that adds the finalizer |
| common_cause_ms | the moment at which all are to be reverted | |

Each transaction is one UPDATE of one row, on as many connections as the operator has for it. The client's own time is
in it: a thread for each rollout, with its connection to the API server open before anything is measured.
"""

import http.client
import json
import queue
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg

from feature_rollout.kube.client import JSON, JSON_PATCH
from feature_rollout.kube.rollouts import FINALIZER
from feature_rollout.sandbox.cluster import ADMIN, Cluster
from support.world import World, fresh_namespace

TIMEOUT_S = 60.0
# As many as the operator has (`store.PostgresFlagStore`).
RAISING = 2
LOWERING = 4
UPDATE = b"UPDATE feature_flags SET enabled = %s, rollout_percentage = 10 WHERE name = %s"

Body = dict[str, Any] | list[dict[str, Any]]


class Line:
    """A connection to the API server that is open: its handshake is nobody's latency."""

    def __init__(self, cluster: Cluster, context: ssl.SSLContext) -> None:
        parts = urlsplit(cluster.url)
        self._headers = {"Authorization": f"Bearer {cluster.tokens[ADMIN]}"}
        self._connection = http.client.HTTPSConnection(
            str(parts.hostname), parts.port, context=context, timeout=TIMEOUT_S
        )
        self._connection.connect()

    def request(self, method: str, path: str, body: Body, content_type: str = JSON) -> tuple[int, Any]:
        self._connection.request(method, path, json.dumps(body), {**self._headers, "Content-Type": content_type})
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def close(self) -> None:
        self._connection.close()


@contextmanager
def lines(cluster: Cluster, count: int) -> Iterator[list[Line]]:
    context = ssl.create_default_context(cafile=str(cluster.ca_file))
    opened = [Line(cluster, context) for _ in range(count)]
    try:
        yield opened
    finally:
        for line in opened:
            line.close()


def all_at_once(work: Callable[[int], float], count: int) -> list[float]:
    """What `work` returns for each number, all begun in the same moment, each in a thread of its own."""
    together = threading.Barrier(count)

    def one(number: int) -> float:
        together.wait()
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count)))


def floor(bench: World, rollout_of: Callable[[str], dict[str, Any]], flags: Sequence[str]) -> dict[str, list[float]]:
    """Milliseconds of each flag, by figure. The rollouts are left behind in a namespace that nobody watches."""
    path = bench.path("FeatureRollout").replace(bench.namespace, fresh_namespace(bench.cluster))
    with lines(bench.cluster, len(flags)) as opened, Pool(bench, RAISING) as raising, Pool(bench, LOWERING) as lowering:

        def raised(number: int) -> float:
            line, rollout = opened[number], rollout_of(flags[number])
            status, made = line.request("POST", path, rollout)
            answered_s = time.perf_counter()
            assert status == HTTPStatus.CREATED, made
            unchanged = {
                "op": "test",
                "path": "/metadata/resourceVersion",
                "value": made["metadata"]["resourceVersion"],
            }
            added = {"op": "add", "path": "/metadata/finalizers", "value": [FINALIZER]}
            name = made["metadata"]["name"]
            status, patched = line.request("PATCH", f"{path}/{name}", [unchanged, added], JSON_PATCH)
            assert status == HTTPStatus.OK, patched
            raising.write(flags[number], enabled=True)
            return 1000 * (time.perf_counter() - answered_s)

        created = all_at_once(raised, len(flags))
        begun_s = time.perf_counter()

        def lowered(number: int) -> float:
            lowering.write(flags[number], enabled=False)
            return 1000 * (time.perf_counter() - begun_s)

        return {"apply_to_row_ms": created, "common_cause_ms": all_at_once(lowered, len(flags))}


class Pool:
    """So many connections to the database, and a transaction on the next that is free."""

    def __init__(self, bench: World, size: int) -> None:
        self._idle: queue.Queue[psycopg.Connection[Any]] = queue.Queue()
        for _ in range(size):
            self._idle.put(psycopg.connect(bench.database.uri()))
        self._size = size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for _ in range(self._size):
            self._idle.get(timeout=TIMEOUT_S).close()

    def write(self, flag: str, *, enabled: bool) -> None:
        connection = self._idle.get(timeout=TIMEOUT_S)
        try:
            connection.execute(UPDATE, (enabled, flag))
            connection.commit()
        finally:
            self._idle.put(connection)
