"""Starts operators without the second of CPU that the imports of each would take: it has them, and forks.

A script, and its other end. What it starts is a process like any other: with its own environment, log and folder, to
be killed at any time. Where the start itself is what is tested, nothing here is used.
"""

import ctypes
import gc
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PR_SET_PDEATHSIG = 1


class Nursery:
    """A context manager, for one thread. Whatever it has started and still runs is killed at its end."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process as process:
            process.kill()

    def start(self, args: Sequence[str], *, log: Path, folder: Path, env: Mapping[str, str]) -> "Child":
        """Start `featurerollout` with these arguments."""
        request = {"args": list(args), "log": str(log), "folder": str(folder), "env": {**os.environ, **env}}
        return Child(self, self._ask(request))

    def reap(self, pid: int) -> int:
        return self._ask({"reap": pid})

    def _ask(self, request: Mapping[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


class Child:
    """One that was started. Its number stays its own until its end has been seen here."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self.pid = pid
        self.returncode: int | None = None

    @property
    def running(self) -> bool:
        return not self.wait(0)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; no error when it has already ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def wait(self, timeout_s: float) -> bool:
        """Wait for it to end; return whether it did."""
        if self.returncode is None:
            ended = os.pidfd_open(self.pid)
            try:
                if not select.select([ended], [], [], timeout_s)[0]:
                    return False
            finally:
                os.close(ended)
            self.returncode = self._nursery.reap(self.pid)
        return True

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it with this signal, and wait until it is gone."""
        self.send(number)
        assert self.wait(10.0)


def _serve() -> dict[str, Any]:
    """Answer until the owner is gone; return only in a child, with what it is to be."""
    for line in sys.stdin:
        request = json.loads(line)
        if "reap" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["reap"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                return dict(request)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()
    sys.exit()


def _become(request: Mapping[str, Any]) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.setsid()
    for number, (path, flags) in enumerate(
        [(os.devnull, os.O_RDONLY), *[(request["log"], os.O_WRONLY | os.O_APPEND)] * 2]
    ):
        os.dup2(os.open(path, flags), number)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])


if __name__ == "__main__":
    from feature_rollout.cli import main
    from feature_rollout.runtime import main as _operator  # noqa: F401 - what takes so long

    # Else the fork would take over a lock in whatever state it is in.
    assert threading.active_count() == 1
    gc.freeze()
    to_be = _serve()
    _become(to_be)
    main(to_be["args"])
