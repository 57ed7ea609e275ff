"""`status --watch` and `--wait` on a real API server, with statuses that the test writes."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from contract.kube_objects import create, path
from feature_rollout.sandbox.cluster import Cluster
from support.waiting import wait_for

pytestmark = pytest.mark.usefixtures("crds_installed")
SINCE = "2026-01-05T09:00:00Z"


def say(cluster: Cluster, namespace: str, phase: str, message: str, **conditions: str) -> None:
    rows = {"Ready": "Unknown", "Stalled": "False", "Reconciling": "False", **conditions}
    shown = [
        {"type": kind, "status": status, "reason": phase, "message": message, "lastTransitionTime": SINCE}
        for kind, status in rows.items()
    ]
    _, now = cluster.request("GET", path(namespace, "a"))
    body = now | {"status": {"observedGeneration": 1, "phase": phase, "conditions": shown}}
    status, answer = cluster.request("PUT", f"{path(namespace, 'a')}/status", body)
    assert status == 200, answer


class Shown:
    """A `status` that runs, and what it has printed so far."""

    def __init__(self, cluster: Cluster, namespace: str, *args: str, terminal: bool = False) -> None:
        command = [sys.executable, "-u", "-m", "feature_rollout.cli", "status", *args]
        command += ["--kubeconfig", str(cluster.kubeconfig()), "-n", namespace]
        self._reader, writer = pty.openpty() if terminal else os.pipe()
        env = {"COLUMNS": "200", "TERM": "xterm"}
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, env=env)
        os.close(writer)
        os.set_blocking(self._reader, False)
        self.text = ""

    def has(self, words: str) -> bool:
        # Nothing there yet, or, of a terminal, the end.
        with suppress(OSError):
            self.text += os.read(self._reader, 65_536).decode()
        assert words in self.text, self.text
        return True

    def wait_for(self, words: str) -> None:
        wait_for(lambda: self.has(words), 60, words)

    def end(self, number: signal.Signals | None = None) -> int:
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(60)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        os.close(self._reader)


@pytest.fixture
def shown(control_plane: Cluster, namespace: str) -> Iterator[Any]:
    create(control_plane, namespace, "a")
    made: list[Shown] = []

    def start(*args: str, **options: bool) -> Shown:
        made.append(Shown(control_plane, namespace, *args, **options))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_a_line_is_told_for_each_change(control_plane: Cluster, namespace: str, shown: Any) -> None:
    watch = shown("--watch")
    watch.wait_for("was not seen by an operator yet")
    say(control_plane, namespace, "Baking", "Stage canary bakes.")
    watch.wait_for(f"{namespace}/a is Baking: Stage canary bakes.")
    say(control_plane, namespace, "Completed", "All of it is in.")
    watch.wait_for(f"{namespace}/a is Completed: All of it is in.")
    assert watch.end(signal.SIGINT) == 0
    assert watch.text.count("Stage canary bakes.") == 1
    assert "Traceback" not in watch.text


def test_a_terminal_is_updated_in_place(control_plane: Cluster, namespace: str, shown: Any) -> None:
    watch = shown("--watch", terminal=True)
    watch.wait_for("Pending")
    say(control_plane, namespace, "Baking", "Stage canary bakes.")
    watch.wait_for("Baking")
    assert "\x1b[" in watch.text, "the cursor goes back"
    assert watch.end(signal.SIGINT) == 0


@pytest.mark.parametrize(("conditions", "code"), [({"Ready": "True"}, 0), ({"Stalled": "True"}, 3)], ids=["0", "3"])
def test_to_wait_ends_with_ready_or_stalled(
    control_plane: Cluster, namespace: str, shown: Any, conditions: dict[str, str], code: int
) -> None:
    waiting = shown("a", "--wait", "--timeout", "120s")
    say(control_plane, namespace, "Baking", "Stage canary bakes.", **conditions)
    assert waiting.end() == code


def test_to_wait_in_vain_ends_with_4(shown: Any) -> None:
    waiting = shown("a", "--wait", "--timeout", "1s")
    assert waiting.end() == 4
    assert waiting.has("not ready within 1s:")


@pytest.mark.parametrize("args", [("--watch", "-o", "json"), ("--wait",), ("a", "--wait", "--watch")])
def test_what_makes_no_sense_is_a_usage_error(shown: Any, args: tuple[str, ...]) -> None:
    assert shown(*args).end() == 2
