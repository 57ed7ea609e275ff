"""Keeps one server running for as long as a process of the test run uses it. A script of its own; started by `shared`.

Which worker of pytest-xdist needs the server first, and which is the last to use it, nobody knows. So none of them owns
it: this process does. Each user holds a shared lock on the users' file, which the kernel takes away from a process that
dies in whatever way; when this process gets the exclusive lock, there are no users left, and it stops the server.

Usage: keeper.py KIND FOLDER NAME, where FOLDER/NAME.users is that file, and FOLDER/NAME.json is written when the server
is ready: how to reach it, or why it did not start.
"""

import fcntl
import json
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from feature_rollout.sandbox import toolchain
from feature_rollout.sandbox.controlplane import ControlPlane
from feature_rollout.sandbox.postgres import PostgresServer


def server_of(kind: str) -> AbstractContextManager[ControlPlane | PostgresServer]:
    if kind == "control-plane":
        return ControlPlane(controller_manager=True)
    major = int(kind.removeprefix("postgres-"))
    bin_dirs = {found.major: found.bin_dir for found in toolchain.postgres_installations()}
    return PostgresServer(bin_dirs[major])


def keep(kind: str, folder: Path, name: str) -> None:
    state = folder / f"{name}.json"
    with (folder / f"{name}.users").open("a") as users, (folder / f"{name}.alive").open("a") as alive:
        # Held until this process ends, so that the test run can wait for that.
        fcntl.flock(alive, fcntl.LOCK_EX)
        try:
            with server_of(kind) as server:
                publish(state, {"server": server.to_json()})
                fcntl.flock(users, fcntl.LOCK_EX)
                # Before it stops: who comes now waits for the lock, and then starts another one.
                state.unlink()
        except Exception as error:
            publish(state, {"error": f"{type(error).__name__}: {error}"})
            raise


def publish(state: Path, content: dict[str, str]) -> None:
    draft = state.with_suffix(".draft")
    draft.write_text(json.dumps(content), encoding="utf-8")
    draft.replace(state)


if __name__ == "__main__":
    keep(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
