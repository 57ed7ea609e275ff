"""Shows that something long is going on: one line that is rewritten on a terminal, a line now and then elsewhere."""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from feature_rollout.sandbox.errors import SandboxError

TERMINAL_INTERVAL_S = 0.2
LOG_INTERVAL_S = 15.0
TICK_S = 1.0
LAST_LINES = 20


class Progress:
    """What is being done and for how long; `update` may be called as often as one likes.

    `title` begins every line and should be short; `why` is said once, before.
    """

    def __init__(self, title: str, why: str, stream: TextIO | None = None) -> None:
        self._title = title
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._interval_s = TERMINAL_INTERVAL_S if self._terminal else LOG_INTERVAL_S
        self._started_s = self._shown_s = time.monotonic()
        self._stream.write(f"{title}: {why}\n")
        self._stream.flush()

    def update(self, text: str) -> None:
        if time.monotonic() - self._shown_s >= self._interval_s:
            self._show(text)

    def done(self, text: str) -> None:
        self._show(text)
        if self._terminal:
            self._stream.write("\n")
            self._stream.flush()

    def _show(self, text: str) -> None:
        self._shown_s = time.monotonic()
        line = f"{self._title}: {self._shown_s - self._started_s:.0f} s, {text}"
        if self._terminal:
            # A longer one would wrap, and could not be rewritten.
            self._stream.write(f"\r\033[K{line[: shutil.get_terminal_size().columns - 1]}")
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()


def run_shown(
    argv: Sequence[str | Path],
    progress: Progress,
    describe: Callable[[str], str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a program to its end, showing what `describe` makes of each line that it prints.

    SandboxError with its last lines when it fails. It is killed with all of its children when this is interrupted.
    """
    with subprocess.Popen(
        [str(arg) for arg in argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env=None if env is None else dict(env),
        start_new_session=True,
    ) as process:
        try:
            last_lines = _show_output(process, progress, describe)
            code = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if code != 0:
        progress.done("failed")
        command = " ".join(str(arg) for arg in argv[:3])
        raise SandboxError(f"{command} … ended with {code}; its last lines:\n" + "\n".join(last_lines))


def _show_output(process: subprocess.Popen[bytes], progress: Progress, describe: Callable[[str], str]) -> deque[str]:
    assert process.stdout is not None  # noqa: S101 - for the type checker: PIPE was asked for
    output = process.stdout.fileno()
    last_lines: deque[str] = deque(maxlen=LAST_LINES)
    rest, text = b"", "nothing printed yet"
    while True:
        # The seconds go on while nothing is printed: the Go linker is silent for half a minute.
        if not select.select([output], [], [], TICK_S)[0]:
            progress.update(text)
            continue
        data = os.read(output, 65_536)
        if not data:
            last_lines.extend([rest.decode(errors="replace")] if rest else [])
            return last_lines
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            last_lines.append(line.decode(errors="replace").rstrip())
            text = describe(last_lines[-1])
        progress.update(text)
