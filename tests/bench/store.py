"""`make bench-store`: what the flag store and the evaluators cost, beside pgbench's bare UPDATE on the same server.

One JSON object goes to standard output, progress to standard error. The server is a
sandbox one with fsync on; everything is stopped and removed at the end. Nothing is
judged here: the figures are this machine's, and mean something beside each other only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg

from feature_rollout.core.evaluation import RowRule
from feature_rollout.core.exposure import Exposure
from feature_rollout.core.plan import OnDelete
from feature_rollout.core.state import Ledger
from feature_rollout.evaluator import FlagClient
from feature_rollout.ports import Claim, Commit, Problem, Why
from feature_rollout.sandbox.postgres import PostgresServer
from feature_rollout.store import PostgresFlagStore, StoreConfig

DURABLE = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "128MB"}
WARM_UP = 5
ROUNDS = 5
PGBENCH_TIMEOUT_S = 600
FLAG = "evaluated"
TABLE = """
CREATE TABLE {0} (
  name text PRIMARY KEY, enabled boolean NOT NULL DEFAULT true,
  rollout_percentage integer NOT NULL DEFAULT 0, user_groups text[] NOT NULL DEFAULT '{{}}', description text
);
"""
WHY = Why(reason="Bench", message="a stage of the benchmark", generation=1, stage="bench")


def say(text: str) -> None:
    sys.stderr.write(f"bench-store: {text}\n")
    sys.stderr.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flags", type=int, default=10, help="flags of a stage")
    parser.add_argument("--changes", type=int, default=500, help="stage changes, and transactions of pgbench")
    parser.add_argument("--rollouts", type=int, default=1000, help="rollouts that change at once")
    parser.add_argument("--evaluations", type=int, default=100_000, help="evaluations in a round, of which there are 5")
    sizes = parser.parse_args()
    say("starting PostgreSQL, fsync on")
    with PostgresServer(settings=DURABLE) as server:
        sys.stdout.write(json.dumps(measure(server, sizes), indent=2) + "\n")


def measure(server: PostgresServer, sizes: argparse.Namespace) -> dict[str, Any]:
    writer_uri = prepare(server, sizes)
    bare_one = pgbench(server, [flag_name(0)], sizes.changes)
    bare_all = pgbench(server, [flag_name(number) for number in range(sizes.flags)], sizes.changes)
    config = StoreConfig(writer_uri, owner_uri=server.uri(), notify_channel="feature_flags")
    stage_change, at_once = asyncio.run(changes(config, sizes))
    return {
        "server": server.psql("SHOW server_version")[0]["server_version"],
        "fsync": server.psql("SHOW fsync")[0]["fsync"],
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "bareUpdate": {"flags": 1, **bare_one},
        "bareUpdateOfAsManyFlags": {"flags": sizes.flags, **bare_all},
        "stageChange": {
            "flags": sizes.flags,
            **stage_change,
            "timesBareUpdate": ratios(stage_change, bare_one),
            "timesBareUpdateOfAsManyFlags": ratios(stage_change, bare_all),
        },
        "rolloutsAtOnce": at_once,
        "evaluationsPerSecond": {**in_sql(server, sizes.evaluations), **in_python(server, sizes.evaluations)},
    }


def flag_name(number: int) -> str:
    return f"flag_{number:05}"


def prepare(server: PostgresServer, sizes: argparse.Namespace) -> str:
    """The flag table with its writer, and one beside it that nothing watches; the writer's connection string."""
    password = secrets.token_urlsafe(12)
    server.psql(
        TABLE.format("feature_flags")
        + TABLE.format("bare_flags")
        + "CREATE ROLE feature_rollout_writer NOLOGIN; "
        + f"CREATE ROLE flags_writer LOGIN PASSWORD '{password}' IN ROLE feature_rollout_writer; "
        + "GRANT SELECT, UPDATE (enabled, rollout_percentage, user_groups) ON feature_flags TO flags_writer"
    )
    for table in ("feature_flags", "bare_flags"):
        server.psql(
            f"INSERT INTO {table} (name) SELECT 'flag_' || lpad(n::text, 5, '0') FROM generate_series(0, %s) n",
            [sizes.flags + sizes.rollouts - 1],
        )
        server.psql(f"INSERT INTO {table} (name, rollout_percentage) VALUES ('{FLAG}', 50)")
    return server.uri(user="flags_writer", password=password)


# ── Changes ──────────────────────────────────────────────────────────────────────────────────────


def pgbench(server: PostgresServer, names: Sequence[str], transactions: int) -> dict[str, Any]:
    """The bare UPDATEs in one transaction, one session; p50 and p99 from its log of every transaction."""
    beside = server.bin_dir / "pgbench"
    program = str(beside) if os.access(beside, os.X_OK) else shutil.which("pgbench")
    if program is None:
        return {"missing": "no pgbench beside the server's programs, nor on PATH"}
    say(f"pgbench: {transactions} transactions of {len(names)} UPDATE")
    updates = [f"UPDATE bare_flags SET rollout_percentage = :share WHERE name = '{name}';" for name in names]
    with tempfile.TemporaryDirectory(prefix="featurerollout-bench-") as folder:
        script = Path(folder) / "update.sql"
        script.write_text("\n".join(["\\set share random(0, 100)", "BEGIN;", *updates, "COMMIT;", ""]))
        options = ["-n", "-M", "prepared", "-t", str(transactions), "-f", str(script), "-l", "--log-prefix=latency"]
        done = subprocess.run(
            [program, *options, "-h", server.host, "-p", str(server.port), "-U", "postgres", "postgres"],
            cwd=folder,
            env={**os.environ, "PGPASSWORD": server.password},
            capture_output=True,
            text=True,
            check=False,
            timeout=PGBENCH_TIMEOUT_S,
        )
        if done.returncode != 0:
            return {"missing": f"pgbench ended with {done.returncode}: {done.stderr.strip()[-300:]}"}
        lines = [line for log in Path(folder).glob("latency*") for line in log.read_text().splitlines()]
    # client, transaction, microseconds, script, seconds, microseconds
    return latencies([int(line.split()[2]) / 1000 for line in lines])


async def changes(config: StoreConfig, sizes: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    store = PostgresFlagStore(config)
    try:
        await store.prepare()
        return await stage_changes(store, sizes.flags, sizes.changes), await at_once(store, sizes)
    finally:
        await store.close()


async def stage_changes(store: PostgresFlagStore, flags: int, count: int) -> dict[str, Any]:
    say(f"{count} stage changes of {flags} flags, with ledger and audit")
    names = [flag_name(number) for number in range(flags)]
    ledger = await opened(store, "bench/shop/stages", names)
    took_ms = []
    for number in range(WARM_UP + count):
        began_s = time.perf_counter()
        ledger = await store.commit(stage(ledger, names, number))
        took_ms.append(1000 * (time.perf_counter() - began_s))
    return latencies(took_ms[WARM_UP:])


async def at_once(store: PostgresFlagStore, sizes: argparse.Namespace) -> dict[str, Any]:
    """Each rollout changes its one flag; a latency counts from the moment at which all were asked for."""
    say(f"opening {sizes.rollouts} rollouts")
    names = [flag_name(sizes.flags + number) for number in range(sizes.rollouts)]
    ledgers = [await opened(store, f"bench/shop/{name}", [name]) for name in names]
    say(f"{sizes.rollouts} rollouts change at once")
    done_ms: list[float] = []
    failed: dict[str, int] = {}
    began_s = time.perf_counter()

    async def change(ledger: Ledger, name: str) -> None:
        try:
            await store.commit(stage(ledger, [name], 0))
        except Problem as problem:
            failed[problem.reason] = failed.get(problem.reason, 0) + 1
        else:
            done_ms.append(1000 * (time.perf_counter() - began_s))

    await asyncio.gather(*(change(ledger, name) for ledger, name in zip(ledgers, names, strict=True)))
    total_s = round(time.perf_counter() - began_s, 3)
    return {"rollouts": sizes.rollouts, "totalSeconds": total_s, "failed": failed, **latencies(done_ms)}


async def opened(store: PostgresFlagStore, key: str, names: Sequence[str]) -> Ledger:
    return await store.open(Claim(key, f"uid of {key}", tuple(names), "spec", "plan", OnDelete.KEEP))


def stage(ledger: Ledger, names: Sequence[str], number: int) -> Commit:
    """The next of stages that go up by one per cent, and start again at 0."""
    before, after = (Exposure(True, Decimal(share % 101)) for share in (number, number + 1))
    entered = replace(ledger, stage=number, written=dict.fromkeys(names, after))
    return Commit(entered, dict.fromkeys(names, before), dict.fromkeys(names, after), WHY)


def latencies(took_ms: list[float]) -> dict[str, Any]:
    if len(took_ms) < 2:
        return {"count": len(took_ms), "p50Ms": None, "p99Ms": None}
    parts = statistics.quantiles(took_ms, n=100, method="inclusive")
    return {"count": len(took_ms), "p50Ms": round(parts[49], 3), "p99Ms": round(parts[98], 3)}


def ratios(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float] | None:
    if not theirs.get("p50Ms") or not theirs.get("p99Ms"):
        return None
    return {name[:3]: round(ours[name] / theirs[name], 2) for name in ("p50Ms", "p99Ms")}


# ── Evaluations ──────────────────────────────────────────────────────────────────────────────────

SQL = {
    "sqlFlagEnabled": "feature_rollout.flag_enabled(%s, 'user-' || n, '{}')",
    # With the row at hand there is no look-up: what a query over a table of users pays for each.
    "sqlHasFlag": "feature_rollout.has_flag(true, 50, '{}', %s, 'user-' || n, '{}')",
}


def in_sql(server: PostgresServer, count: int) -> dict[str, int]:
    """One session, many evaluations in one statement; and a statement for each."""
    say(f"{count} evaluations in SQL, {ROUNDS} rounds")
    with psycopg.connect(server.uri(), autocommit=True) as connection:

        def together(call: str) -> None:
            query = f"SELECT count(*) FROM generate_series(1, %s) n WHERE {call}"
            connection.execute(query.encode(), (count, FLAG))

        def one_by_one() -> None:
            for number in range(one_each):
                connection.execute(
                    "SELECT feature_rollout.flag_enabled(%s, %s, '{}')", (FLAG, f"user-{number}"), prepare=True
                )

        one_each = max(1, count // 50)
        rates = {name: rate(count, lambda call=call: together(call)) for name, call in SQL.items()}  # type: ignore[misc]
        return {**rates, "sqlFlagEnabledAStatementEach": rate(one_each, one_by_one)}


def in_python(server: PostgresServer, count: int) -> dict[str, int]:
    """In one thread of one process: the rule of a row, and the client that keeps the rows."""
    say(f"{count} evaluations in Python, {ROUNDS} rounds")
    users = [f"user-{number}" for number in range(count)]
    groups = ("beta",)
    rule = RowRule(Exposure(True, Decimal(50)), FLAG)

    def with_rule() -> None:
        for user in users:
            rule.evaluate(user, groups)

    with FlagClient(server.uri()) as client:
        if not client.start():
            raise SystemExit(f"the client has no rows: {client.problem}")

        def with_client() -> None:
            for user in users:
                client.is_enabled(FLAG, user, groups)

        return {"pythonRule": rate(count, with_rule), "pythonClient": rate(count, with_client)}


def rate(count: int, work: Callable[[], None]) -> int:
    """Evaluations a second, the median of the rounds."""
    took_s = []
    for _ in range(ROUNDS):
        began_s = time.perf_counter()
        work()
        took_s.append(time.perf_counter() - began_s)
    return round(count / statistics.median(took_s))


if __name__ == "__main__":
    main()
