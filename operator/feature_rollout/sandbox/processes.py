"""Child processes with a log file, which die with the process that started them; free ports; waiting."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

from feature_rollout.sandbox.errors import SandboxError

LEASH = Path(__file__).with_name("leash.py")
# A file system in memory, used while it has so much room that it can be no container's small one.
MEMORY = Path("/dev/shm")  # noqa: S108 - the folders in it have names that nobody can foresee
MEMORY_BYTES_MIN = 2 * 2**30
POLL_S = 0.02
LOG_TAIL_LINES = 15
# Below the range that Linux hands out to outgoing connections (32768 and up), so that a server which is stopped and
# started again finds its port still free.
PORTS = range(20_000, 32_000)


class Process:
    """One program, running from construction on.

    `orphan_signal` is what it gets when this process dies without stopping it; `folder` is then removed.
    `uid` and `gid` are who it runs as, if not as this process.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path,
        folder: Path,
        orphan_signal: signal.Signals = signal.SIGKILL,
        uid: int = -1,
        gid: int = -1,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = Path(argv[0]).name
        self.log = log
        leash = [sys.executable, "-I", "-S", str(LEASH), str(int(orphan_signal)), str(folder), str(uid), str(gid)]
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [*leash, *map(str, argv)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=None if env is None else {**os.environ, **env},
                # Ctrl-C in a terminal is for this process, which then stops its servers in their order.
                start_new_session=True,
            )
        assert self._popen.stdin is not None  # noqa: S101 - for the type checker: PIPE was asked for
        self._signals: IO[bytes] = self._popen.stdin

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._popen.poll()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the program; no error when it has already ended."""
        try:
            self._signals.write(bytes([number]))
            self._signals.flush()
        except (BrokenPipeError, ValueError):
            return

    def wait(self, timeout_s: float) -> bool:
        """Wait for the program to end by itself; return whether it did."""
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = 10.0) -> None:
        """End the program with this signal, with SIGKILL when that takes too long, and wait until it is gone."""
        self.send(number)
        if not self.wait(timeout_s):
            self.send(signal.SIGKILL)
            self._popen.wait()
        try:
            self._signals.close()
        except BrokenPipeError:
            return

    def log_tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def failure(self, what: str) -> SandboxError:
        return SandboxError(f"{self.name} {what}; the end of {self.log}:\n{self.log_tail()}")


def wait_until(condition: Callable[[], bool], processes: Iterable[Process], *, what: str, timeout_s: float) -> None:
    """Wait until the condition holds; raise SandboxError when one of the processes ends first, or time is over."""
    watched = list(processes)
    deadline = time.monotonic() + timeout_s
    while not condition():
        for process in watched:
            if not process.running:
                raise process.failure(f"ended while waiting for {what}")
        if time.monotonic() > deadline:
            raise watched[-1].failure(f"did not come to {what} within {timeout_s:g} s")
        time.sleep(POLL_S)


def scratch_folder(prefix: str) -> Path:
    """Make a folder for data that nobody needs to keep: in memory where there is room, which saves most of its cost."""
    try:
        has_room = shutil.disk_usage(MEMORY).free >= MEMORY_BYTES_MIN and os.access(MEMORY, os.W_OK)
    except OSError:
        has_room = False
    return Path(tempfile.mkdtemp(prefix=prefix, dir=MEMORY if has_room else None))


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nobody listens on now."""
    found: list[int] = []
    # Random, not secret: several processes that look at the same time shall rarely look at the same ports.
    for port in random.sample(PORTS, k=1000):
        if len(found) == count:
            return found
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    raise SandboxError(f"no {count} free ports among {PORTS.start} to {PORTS.stop}")
