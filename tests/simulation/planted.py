"""Tries the simulation on source with a bug in it: `python -m simulation.planted` prints a table of all bugs.

Each bug is planted in a process of its own, before anything is imported. Ends with 1 when a bug is not found.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType

from simulation.bugs import BUGS, Bug

SEEDS = 500
TESTS = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Found:
    """At which seed a bug was found, and which invariant it broke; None when it was not."""

    bug: Bug
    seed: int | None
    invariant: str


class Planter(importlib.abc.MetaPathFinder):
    """Loads one module with the bug in it."""

    def __init__(self, bug: Bug) -> None:
        self._bug = bug

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._bug.module:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path)
        if found is None or found.origin is None:
            raise ImportError(f"there is no module {fullname}")
        loader = _Loader(fullname, found.origin, self._bug)
        return importlib.util.spec_from_loader(fullname, loader, origin=found.origin)


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, bug: Bug) -> None:
        super().__init__(fullname, path)
        self._bug = bug

    def get_code(self, fullname: str) -> CodeType:
        return compile(planted(self._bug, Path(self.path).read_text(encoding="utf-8")), self.path, "exec")


def planted(bug: Bug, source: str) -> str:
    """The source with the bug in it. Raises ValueError when it is not to be planted in this source."""
    if source.count(bug.old) != 1:
        raise ValueError(f"{bug.name!r} is to replace what {bug.module} has {source.count(bug.old)} times: {bug.old!r}")
    return source.replace(bug.old, bug.new)


def search(bugs: Iterable[Bug], *, seeds: int = SEEDS, jobs: int = 2) -> Iterator[Found]:
    """Look for each bug in so many seeds, some at a time; in the order given."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda bug: _search(bug, seeds), bugs)


def _search(bug: Bug, seeds: int) -> Found:
    argv = [sys.executable, "-m", "simulation.planted", "--plant", str(BUGS.index(bug)), "--seeds", str(seeds)]
    done = subprocess.run(argv, cwd=TESTS, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{bug.name}: {done.stderr[-2000:]}")
    told = json.loads(done.stdout)
    return Found(bug, told["seed"], told["invariant"])


def _plant(bug: Bug, seeds: int) -> None:
    """In a process that has not imported what it is planted in."""
    assert bug.module not in sys.modules, f"{bug.module} is imported already"
    sys.meta_path.insert(0, Planter(bug))
    from simulation.runner import run

    outcome = run(range(seeds))
    seed, invariant, _ = outcome.failed or (None, "", "")
    sys.stdout.write(json.dumps({"seed": seed, "invariant": invariant}))


def table(found: Iterable[Found]) -> Iterator[str]:
    """Lines of Markdown, each as soon as it is known."""
    yield "| planted bug | where | found at seed | by |"
    yield "|---|---|---|---|"
    for one in found:
        seed = "not found" if one.seed is None else one.seed
        yield f"| {one.bug.name} | `{one.bug.module}` | {seed} | {one.invariant} |"


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulation.planted", description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many seeds each bug has to show itself in")
    parser.add_argument("--jobs", type=int, default=2, help="how many bugs are tried at a time")
    parser.add_argument("--plant", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plant is not None:
        _plant(BUGS[given.plant], given.seeds)
        return 0
    results: list[Found] = []

    def noted() -> Iterator[Found]:
        for one in search(BUGS, seeds=given.seeds, jobs=given.jobs):
            results.append(one)
            yield one

    for line in table(noted()):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    caught = sum(one.seed is not None for one in results)
    sys.stdout.write(f"\n{caught} of {len(BUGS)} planted bugs were found within {given.seeds} seeds.\n")
    return 0 if caught == len(BUGS) else 1


if __name__ == "__main__":
    sys.exit(main())
