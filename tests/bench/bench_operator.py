"""`make bench`: the operator as users run it, on a real API server and a real PostgreSQL, in figures.

Prints one JSON object; progress goes to stderr. All of it is measured in this run:

| figure | from | to |
|---|---|---|
| apply_to_row_ms | the answer to the create of a rollout, all created at once | the commit of its first row |
| sample_to_revert_ms | the answer of the look that decided, one rollout after the other | the answer to the COMMIT |
| common_cause_ms | likewise, of as many rollouts again that the same answer breaches at once | |
| rss_mb | resident memory of the operator's process: without rollouts, and with all of them baking | |
| api_writes_per_healthy_look | writing calls to the API server while all are healthy | per look |
| db_writes_per_healthy_look | transactions that wrote, by the server's count of transaction ids, likewise | per look |

The deliveries are in the table before anything starts, for the minutes to come: nobody but the operator writes then,
and who does harm. Beside them `floor` has what raises, and reverts for a common cause, cost without the operator
(`floor.py`), and `load` how many programs wanted a CPU in the minute before the start and before the end: on a busy
machine none of the figures says much.
"""

import argparse
import json
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

from bench.floor import all_at_once, floor, lines
from feature_rollout.demo import stage
from feature_rollout.sandbox.controlplane import ControlPlane
from feature_rollout.sandbox.postgres import PostgresServer
from feature_rollout.sandbox.progress import Progress
from support import manifests
from support.databases import Database
from support.operatorprocess import Operator
from support.waiting import wait_for
from support.world import World, crds_folder, fresh_namespace

INTERVAL = timedelta(seconds=2)
UNITS_A_SECOND = 100
MINUTES_AHEAD = 15
# From one rollout's harm to the next one's, so that they begin anywhere in an interval.
HARM_APART_S = 0.17
# Its own share of the deliveries' failures, which no other rollout asks for.
OWN_ERRORS = (
    "SELECT count(*) FILTER (WHERE EXISTS (SELECT FROM harmed WHERE flag = %(flag)s)) "
    f"AS events, count(*) AS units FROM notifications WHERE {manifests.WINDOW}"
)
SETTINGS = {"track_commit_timestamp": "on", "max_connections": "100", "fsync": "on"}
COMMITTED_AFTER = re.compile(r"revert was committed ([0-9.]+) ms after its look")
WRITES = ("POST", "PUT", "PATCH", "DELETE")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=100)
    parser.add_argument("--healthy-looks", type=int, default=3000, help="how many looks to count writes over")
    options = parser.parse_args(argv)
    progress = Progress("bench", f"{options.rollouts} rollouts on a control plane and a PostgreSQL of its own")
    with world() as bench:
        figures = measured(bench, options.rollouts, options.healthy_looks, progress)
    progress.done("done")
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


@contextmanager
def world() -> Iterator[World]:
    with ControlPlane() as cluster, PostgresServer(settings=SETTINGS) as server, Database.fresh(server) as database:
        cluster.install_crds(crds_folder())
        made = World(cluster, fresh_namespace(cluster), database, traffic=None)  # type: ignore[arg-type]
        yield made


def measured(bench: World, rollouts: int, healthy_looks: int, progress: Progress) -> dict[str, object]:
    load = [os.getloadavg()[0]]
    flags, others, bare_flags = ([f"{kind}_{n}" for n in range(rollouts)] for kind in ("one", "other", "bare"))
    for flag in (*flags, *others, *bare_flags):
        bench.database.execute("INSERT INTO feature_flags (name) VALUES (%s)", flag)
    progress.update("what it costs without the operator")
    bare = floor(bench, rollout_of, bare_flags)
    deliveries(bench)
    bench.apply(manifests.store())
    with tempfile.TemporaryDirectory() as folder:
        operator = Operator(bench.cluster, bench.namespace, stage.SERVICE_ACCOUNT, Path(folder))
        operator.start(drift_poll_seconds="5")
        try:
            bench.wait_condition("Ready", "True", "StoreUsable", name=manifests.STORE, kind="FlagStore")
            idle_mb = rss_mb(operator)
            progress.update("creating all rollouts at once")
            created = create_all(bench, [rollout_of(flag) for flag in flags])
            progress.update("waiting for their first stage")
            entered = commits(bench.database, flags, "Raise")
            progress.update("counting writes while all are healthy")
            api, rows = writes_per_look(bench, operator, healthy_looks)
            loaded_mb = rss_mb(operator)
            progress.update("harming all at once")
            harm(bench.database)
            at_once = reverted(operator, rollouts)
            progress.update("creating as many again, each with a metric of its own, and harming one after the other")
            harm_each(bench, operator, others)
            one_by_one = reverted(operator, 2 * rollouts)[rollouts:]
        finally:
            operator.stop()
    return {
        "rollouts": rollouts,
        "interval_s": INTERVAL.total_seconds(),
        "apply_to_row_ms": percentiles(
            [(entered[flag] - at_s) * 1000 for flag, at_s in zip(flags, created, strict=True)]
        ),
        "sample_to_revert_ms": percentiles(one_by_one),
        "common_cause_ms": percentiles(at_once),
        "rss_mb": {"idle": idle_mb, "loaded": loaded_mb},
        "healthy_looks": healthy_looks,
        "api_writes_per_healthy_look": api,
        "db_writes_per_healthy_look": rows,
        "floor": {figure: percentiles(took_ms) for figure, took_ms in bare.items()},
        "load": [round(one, 1) for one in (*load, os.getloadavg()[0])],
    }


def deliveries(bench: World) -> None:
    """Healthy ones, of the last minutes and of those to come; and nobody's harm yet."""
    database = bench.database
    database.execute("CREATE TABLE harmed (flag text PRIMARY KEY)")
    database.execute(f"GRANT SELECT ON harmed TO {bench.reader}")
    start = datetime.now(UTC) - timedelta(minutes=2)
    database.execute(
        "INSERT INTO notifications (user_id, delivery_status, created_at, updated_at) "
        "SELECT 'user-' || n, 'delivered', at, at FROM generate_series(0, %s) n, "
        "LATERAL (SELECT %s::timestamptz + n * interval '1 second' / %s AS at) t",
        MINUTES_AHEAD * 60 * UNITS_A_SECOND,
        start,
        UNITS_A_SECOND,
    )
    database.execute("ANALYZE notifications")


def harm(database: Database) -> None:
    """From now on every delivery fails, for those who ask for all of them."""
    database.execute("UPDATE notifications SET delivery_status = 'failed' WHERE created_at > clock_timestamp()")


def harm_each(bench: World, operator: Operator, flags: Sequence[str]) -> None:
    """Create a rollout for each flag, and when all are exposed and healthy, harm one after the other."""
    create_all(bench, [of_its_own(flag) for flag in flags])
    commits(bench.database, flags, "Raise")
    operator.wait_looks(3 * len(flags))
    for flag in flags:
        bench.database.execute("INSERT INTO harmed VALUES (%s)", flag)
        time.sleep(HARM_APART_S)


def rollout_of(flag: str) -> dict[str, Any]:
    plan = [
        {"name": "ten", "flags": [{"names": [flag], "percentage": 10}], "bake": "1h"},
        {"name": "all", "flags": [{"names": [flag], "percentage": 100}], "bake": "1h"},
    ]
    metric = {**manifests.metric(), "interval": f"{INTERVAL.total_seconds():g}s"}
    return manifests.rollout(flag.replace("_", "-"), stages=plan, metrics=[metric])


def of_its_own(flag: str) -> dict[str, Any]:
    """As `rollout_of`, with a metric that no other rollout shares."""
    rollout = rollout_of(flag)
    (metric,) = rollout["spec"]["metrics"]
    metric["template"] = manifests.template(OWN_ERRORS, args=[{"name": "flag"}])
    metric["args"] = {"flag": flag}
    return rollout


def create_all(bench: World, rollouts: Sequence[dict[str, Any]]) -> list[float]:
    """Create them, all at once; when the API server has answered each, in seconds."""
    path = bench.path("FeatureRollout")
    with lines(bench.cluster, len(rollouts)) as opened:

        def create(number: int) -> float:
            status, answer = opened[number].request("POST", path, rollouts[number])
            answered_s = datetime.now(UTC).timestamp()
            assert status == HTTPStatus.CREATED, answer
            return answered_s

        return all_at_once(create, len(rollouts))


def reverted(operator: Operator, count: int) -> list[float]:
    """How long each of so many reverts took, in the order of their commits, once all are committed."""
    wait_for(lambda: len(COMMITTED_AFTER.findall(operator.log_text)) >= count, 120.0, f"{count} reverts")
    return [float(text) for text in COMMITTED_AFTER.findall(operator.log_text)]


def commits(database: Database, flags: Sequence[str], kind: str) -> dict[str, float]:
    """When the first change of this kind of each flag was committed, once all are, in seconds."""
    statement = (
        "SELECT flag, extract(epoch FROM min(pg_xact_commit_timestamp(xmin)))::float8 AS at "
        "FROM feature_rollout.audit WHERE kind = %s GROUP BY flag"
    )
    seen: dict[str, float] = {}

    def all_there() -> bool:
        seen.update({row["flag"]: row["at"] for row in database.query(statement, kind)})
        return seen.keys() >= set(flags)

    wait_for(all_there, 120.0, f"a committed {kind} of every flag")
    return seen


def writes_per_look(bench: World, operator: Operator, looks: int) -> tuple[float, float]:
    """Writing calls to the API server, and writing transactions, for each look: once what is new has been said."""
    said = -1.0
    while said != (said := counts(bench, operator)[1]):
        operator.wait_looks(looks // 10)
    begun = counts(bench, operator)
    wait_for(lambda: counts(bench, operator)[0] >= begun[0] + looks, 600.0, f"{looks} looks")
    ended = counts(bench, operator)
    made = ended[0] - begun[0]
    return round((ended[1] - begun[1]) / made, 6), round((ended[2] - begun[2]) / made, 6)


def counts(bench: World, operator: Operator) -> tuple[float, float, float]:
    """Looks, writing calls to the API server, transaction ids given out."""
    written = sum(operator.count("featurerollout_api_requests_total", verb=verb) for verb in WRITES)
    # The next id of a snapshot: asking for it gives none out.
    next_id = bench.database.query("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS id")[0]["id"]
    return operator.count("featurerollout_looks_total"), written, float(next_id)


def rss_mb(operator: Operator) -> float:
    assert operator._process is not None
    # The program runs below its leash.
    leash = operator._process._popen.pid
    child = Path(f"/proc/{leash}/task/{leash}/children").read_text(encoding="ascii").split()[0]
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{child}/status").read_text(encoding="ascii"))
    assert found is not None
    return round(int(found[1]) / 1024, 1)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Nearest rank: each is a value that was measured."""
    ordered = sorted(values)
    return {f"p{p}": round(ordered[max(0, math.ceil(p / 100 * len(ordered)) - 1)], 1) for p in (50, 99)}


if __name__ == "__main__":
    sys.exit(main())
