"""Runs one program and never outlives the process that asked for it. A script of its own; started by `processes`.

`prctl(PR_SET_PDEATHSIG)` alone is not enough, because the kernel ties it to the *thread* that started the child: a
server started from a worker thread would be killed when that thread ends. And setting it needs code between fork and
exec, which is not safe in a process that has threads. So this small process, which has one thread, sits between:

- a byte on stdin is the number of a signal, which it passes on to the program;
- the end of stdin means that the owner is gone: the program gets the orphan signal, is killed when that did not end it
  in ORPHAN_GRACE_MS, and its folder is removed;
- when this process is killed itself, the kernel kills the program (here PR_SET_PDEATHSIG does what we want).

It ends when the program and all that the program has started are gone. Its exit code is the program's, or 128 plus the
signal that ended the program, as in a shell.

Usage: leash.py ORPHAN_SIGNAL FOLDER UID GID PROGRAM [ARGUMENT...], with -1 for "stay who you are".
"""

import ctypes
import os
import select
import signal
import sys
import time
from typing import NoReturn

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
ORPHAN_GRACE_MS = 5_000
DESCENDANTS_GRACE_MS = 5_000
POLL_MS = 5


def run(orphan_signal: int, folder: str, uid: int, gid: int, argv: list[str]) -> int:
    libc = ctypes.CDLL(None)
    # Children that the program leaves behind become ours, so that they are waited for, and not left to an init process
    # which in a container may not collect them.
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    leash_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(libc, leash_pid, uid, gid, argv)
    exited = os.pidfd_open(pid)
    if not _pass_signals_on(pid, exited):
        _end_orphan(pid, exited, orphan_signal)
        _remove(folder)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    _wait_for_descendants()
    return code if code >= 0 else 128 - code


def _become(libc: ctypes.CDLL, leash_pid: int, uid: int, gid: int, argv: list[str]) -> NoReturn:
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if uid >= 0:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
        # After setuid, which clears it.
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == leash_pid:
            os.execv(argv[0], argv)  # noqa: S606 - no shell is what we want
    except OSError as error:
        os.write(2, f"cannot run {argv[0]}: {error}\n".encode())
    os._exit(127)


def _pass_signals_on(pid: int, exited: int) -> bool:
    """Return True when the program has ended, False when the owner has."""
    poller = select.poll()
    poller.register(0, select.POLLIN)
    poller.register(exited, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poller.poll()}
        if exited in ready:
            return True
        numbers = os.read(0, 16)
        if not numbers:
            return False
        for number in numbers:
            os.kill(pid, number)


def _end_orphan(pid: int, exited: int, orphan_signal: int) -> None:
    os.kill(pid, orphan_signal)
    if not select.select([exited], [], [], ORPHAN_GRACE_MS / 1000)[0]:
        os.kill(pid, signal.SIGKILL)
        select.select([exited], [], [])


def _wait_for_descendants() -> None:
    for _ in range(DESCENDANTS_GRACE_MS // POLL_MS):
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return
        time.sleep(POLL_MS / 1000)


def _remove(folder: str) -> None:
    # Imported only now: it would add to the start of every server.
    import shutil  # noqa: PLC0415

    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:]))
