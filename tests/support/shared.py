"""Servers that all workers of a test run share: started by who needs one first, stopped when the last user has gone."""

import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import IO

from support.waiting import wait_for

KEEPER = Path(__file__).with_name("keeper.py")
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0
# Kept to the end of this process, because the keeper outlives what asked for it.
_keepers: list[subprocess.Popen[bytes]] = []


class SharedServers:
    """The servers of one test run. `folder` is the same for all of its processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._used: dict[str, IO[str]] = {}
        self._states: dict[str, str] = {}

    def use(self, kind: str) -> str:
        """Return how to reach the server of this kind (`control-plane`, `postgres-15`), as JSON."""
        if kind not in self._states:
            users = (self._folder / f"{kind}.users").open("a")
            # Waits while the keeper is stopping the one before.
            fcntl.flock(users, fcntl.LOCK_SH)
            self._used[kind] = users
            self._states[kind] = self._start_or_find(kind)
        return self._states[kind]

    def release(self) -> None:
        """Say that this process uses none of them any more."""
        for users in self._used.values():
            users.close()
        self._used.clear()
        self._states.clear()

    def _start_or_find(self, kind: str) -> str:
        state = self._folder / f"{kind}.json"
        with (self._folder / f"{kind}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not state.exists():
                log = (self._folder / f"{kind}.log").open("ab")
                with log:
                    argv = [sys.executable, KEEPER, kind, self._folder, kind]
                    keeper = subprocess.Popen(
                        argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                    )
                _keepers.append(keeper)
                wait_for(lambda: state.exists() or keeper.poll() is not None, START_TIMEOUT_S, f"start of {kind}")
        content = json.loads(state.read_text(encoding="utf-8"))
        if "error" in content:
            raise RuntimeError(f"{kind} did not start: {content['error']}")
        return str(content["server"])


def wait_until_stopped(folder: Path) -> None:
    """Wait for the keepers of this test run, whose users have all gone; for the process that ends last."""
    for path in folder.glob("*.alive"):
        with path.open() as alive:
            wait_for(lambda alive=alive: _lock_is_free(alive), STOP_TIMEOUT_S, f"end of the keeper of {path.stem}")


def _lock_is_free(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
