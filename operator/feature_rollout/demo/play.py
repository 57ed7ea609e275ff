"""The demo's play: a rollout that goes well, a regression, and what the operator does about it."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from feature_rollout.demo import stage
from feature_rollout.demo.traffic import FLAG, Traffic
from feature_rollout.sandbox import toolchain
from feature_rollout.sandbox.controlplane import ControlPlane
from feature_rollout.sandbox.database import PostgresAccess
from feature_rollout.sandbox.errors import SandboxError
from feature_rollout.sandbox.postgres import PostgresServer

ROLLOUT = "enhanced-notifications"
PATH = f"/apis/featurerollout.dev/v1alpha1/namespaces/{stage.NAMESPACE}/featurerollouts/{ROLLOUT}"
BREAK_IN = "twenty-five-percent"
POLL_S = 0.2
HEALTHY_S = 3.0
PULSE_S = 2.0
TIMEOUT_S = 120.0


class DemoError(Exception):
    """The demo did not show what it is there to show."""


def play() -> int:
    """Run it. Returns 0 only when the table shows the revert; everything that it started is stopped."""
    console = Console(highlight=False, soft_wrap=True)
    try:
        with ExitStack() as stack:
            _Play(console, stack).run()
    except (DemoError, SandboxError) as error:
        console.print(f"[red]{error}[/red]")
        console.print("demo: failed")
        return 1
    except KeyboardInterrupt:
        console.print("demo: interrupted")
        return 1
    console.print("demo: ok")
    return 0


@dataclass(slots=True)
class _Play:
    console: Console
    stack: ExitStack
    began_s: float = field(default_factory=time.monotonic)
    told: list[str] = field(default_factory=list)

    def run(self) -> None:
        toolchain.control_plane_binaries()
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="featurerollout-demo-")))
        with self._step("starting PostgreSQL with the notification system's tables"):
            server = self.stack.enter_context(PostgresServer(toolchain.newest_postgres().bin_dir))
            uris = stage.create_database(server)
        with self._step("starting etcd and kube-apiserver, with the CRDs and the operator's RBAC"):
            cluster = self.stack.enter_context(stage.control_plane())
        traffic = self.stack.enter_context(Traffic(server.uri(stage.DATABASE)))
        self._say(f"made-up traffic runs: {FLAG} and ten other flags, all off")
        operator = stage.operator(cluster, folder)
        self.stack.callback(operator.stop)
        self._say("the operator runs, as a process with its ServiceAccount's rights")
        self._apply(cluster, uris)
        try:
            self._walk(cluster, server, traffic)
            status = self._revert(cluster, server, traffic)
            self._verify(server, status)
        except DemoError:
            self._show_log(operator.log)
            raise
        if not operator.running:
            raise DemoError("the operator ended by itself")

    def _apply(self, cluster: ControlPlane, uris: dict[str, str]) -> None:
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": stage.SECRET, "namespace": stage.NAMESPACE},
            "stringData": uris,
        }
        cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(secret))
        cluster.kubectl("apply", "-f", "-", input=stage.resource("manifests.yaml"))
        self._say(f"kubectl apply: rollout {ROLLOUT}, its rollback matrix, metrics and store")

    def _walk(self, cluster: ControlPlane, server: PostgresAccess, traffic: Traffic) -> None:
        """Until the stage in which the regression comes, and a little of it."""
        self.console.print("\n[bold]the rollout walks its stages[/bold]")
        since_s: float | None = None
        for status in self._statuses(cluster, server, traffic):
            if status.get("rollback"):
                raise DemoError("the healthy part of the rollout was taken back")
            if (status.get("stage") or {}).get("name") == BREAK_IN:
                since_s = since_s if since_s is not None else time.monotonic()
                if time.monotonic() - since_s > HEALTHY_S:
                    return

    def _revert(self, cluster: ControlPlane, server: PostgresAccess, traffic: Traffic) -> dict[str, Any]:
        self.console.print(
            f"\n[bold red]a regression is let in: one in seven deliveries to users with {FLAG} fails[/bold red]"
        )
        traffic.break_flag()
        for status in self._statuses(cluster, server, traffic):
            if status.get("phase") == "RolledBack":
                return status
        raise DemoError("the operator did not take the flags back")

    def _statuses(self, cluster: ControlPlane, server: PostgresAccess, traffic: Traffic) -> Iterator[dict[str, Any]]:
        """The rollout's status again and again, each change told once, and the traffic's pulse."""
        deadline_s, pulse_s = time.monotonic() + TIMEOUT_S, 0.0
        while time.monotonic() < deadline_s:
            if traffic.error is not None:
                raise DemoError(f"the traffic has ended: {type(traffic.error).__name__}")
            code, rollout = cluster.request("GET", PATH)
            if code != 200:
                raise DemoError(f"the API server answers {code}")
            status = rollout.get("status") or {}
            self._tell(status)
            if time.monotonic() - pulse_s > PULSE_S:
                pulse_s = time.monotonic()
                self._pulse(server)
            yield status
            time.sleep(POLL_S)
        raise DemoError(
            f"nothing more happened within {TIMEOUT_S:g} s; the last was: {self.told[-1] if self.told else 'nothing'}"
        )

    def _tell(self, status: dict[str, Any]) -> None:
        for entry in status.get("history", []):
            text = f"{entry['reason']}: {entry['message']}"
            if text not in self.told:
                self.told.append(text)
                self._say(text, style="bold green" if entry["action"] in {"Advance", "Complete"} else "bold red")
        ready = next((c for c in status.get("conditions", []) if c["type"] == "Ready"), None)
        if ready is not None and ready["status"] == "False":
            text = f"{ready['reason']}: {ready['message']}"
            if text not in self.told and status.get("phase") != "RolledBack":
                self.told.append(text)
                self._say(text, style="yellow")

    def _pulse(self, server: PostgresAccess) -> None:
        row = server.psql(
            "SELECT count(DISTINCT user_id) FILTER (WHERE delivery_status = 'failed') AS failed, "
            "count(DISTINCT user_id) AS users FROM notifications "
            "WHERE created_at > clock_timestamp() - interval '1 second'",
            database=stage.DATABASE,
        )[0]
        flag = _rows(server)[FLAG]
        self._say(f"{row['failed']} of {row['users']} users failed in the last second; {FLAG} is {_text(flag)}", "dim")

    def _verify(self, server: PostgresAccess, status: dict[str, Any]) -> None:
        """Believe the table, not the status."""
        rows = _rows(server)
        audit = server.psql(
            "SELECT flag, before, after FROM feature_rollout.audit WHERE kind = 'Lower' ORDER BY id",
            database=stage.DATABASE,
        )
        lowered = {entry["flag"] for entry in audit}
        still_on = [flag for flag, row in rows.items() if row["enabled"]]
        revert = status["rollback"]
        self.console.print("\n[bold]what happened[/bold]")
        breach = f"{revert['metric']} was {revert['value']}, limit {revert['limit']}, severity {revert['severity']}"
        self.console.print(f"breached: {breach}")
        self.console.print(f"written:  {revert['action']}, one transaction, {len(lowered)} rows with their audit:")
        for flag in sorted(lowered):
            self.console.print(f"          {flag}: {_text(rows[flag])}")
        allowed = f"the matrix allows {revert['respondWithin']}"
        self.console.print(f"when:     {revert['respondedIn']} after the first bad look began; {allowed}")
        if still_on or FLAG not in lowered:
            raise DemoError(f"the table does not show the revert; still on: {', '.join(still_on) or 'none'}")
        self._say(f"the whole demo took {time.monotonic() - self.began_s:.0f} s", "dim")

    def _show_log(self, log: Path) -> None:
        self.console.print("\nthe operator's last lines:")
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:]:
            self.console.print(f"  {line}", markup=False)

    def _say(self, text: str, style: str = "") -> None:
        seconds = time.monotonic() - self.began_s
        self.console.print(f"{seconds:6.1f} s  {text}", style=style, markup=False)
        sys.stdout.flush()

    @contextmanager
    def _step(self, text: str) -> Iterator[None]:
        self._say(f"{text} …")
        began_s = time.monotonic()
        yield
        self._say(f"  done in {time.monotonic() - began_s:.1f} s", "dim")


def _rows(server: PostgresAccess) -> dict[str, dict[str, Any]]:
    rows = server.psql(
        "SELECT name, enabled, rollout_percentage, user_groups FROM feature_flags", database=stage.DATABASE
    )
    return {row["name"]: row for row in rows}


def _text(row: dict[str, Any]) -> str:
    who = ", ".join(row["user_groups"]) or "everyone"
    return f"{'on' if row['enabled'] else 'off'}, {row['rollout_percentage']} % of {who}"
