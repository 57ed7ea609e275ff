"""A pytest session that is collected once and then forked, once for each mutant.

mutmut's own run starts pytest for each of them, which took ten times as long as the tests that mattered.
"""

from __future__ import annotations

import gc
import math
import os
import resource
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import pytest
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state

KILLED, TIMED_OUT, SURVIVED = "killed", "timed out", "survived"
# A mutant with which a test takes so many times as much CPU as without, and so many seconds, does not end.
CPU_TIMES, CPU_MIN_S = 5, 2
# A test that takes longer is tried on a mutant when all quicker ones have passed.
QUICK_S = 0.03
# Nor does one that fills the memory of the machine.
MEMORY_MAX_BYTES = 4 << 30


class Runner:
    """A plugin that runs the collected tests once as they are, and then those that reach a mutant, for each mutant.

    `tell` is called with a mutant and what became of it.
    """

    def __init__(self, mutants: Sequence[str], workers: int, tell: Callable[[str, str], None]) -> None:
        self.mutants, self.workers, self.tell = mutants, workers, tell
        self.has_failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.has_failed = self.has_failed or report.failed

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted("a file of tests cannot be read, and what it would notice would count as missed")
        reaching, cpu_s = self._reaching(session.items)
        gc.freeze()  # so that a child does not copy what it only looks at
        running: dict[int, str] = {}
        for mutant in self.mutants:
            tests = reaching[mutant.partition("__mutmut_")[0]]
            own = f"test_{mutant.split('.')[2]}"
            tests.sort(key=lambda item: (cpu_s[item] > QUICK_S, item.path.stem != own, cpu_s[item]))
            if len(running) == self.workers:
                self._ended(running)
            running[self._started(mutant, [(item, cpu_s[item]) for item in tests])] = mutant
        while running:
            self._ended(running)
        return True

    def _reaching(self, items: Sequence[pytest.Item]) -> tuple[dict[str, list[pytest.Item]], dict[pytest.Item, float]]:
        """The tests that reach each function, and how long each takes; without any mutant all must pass."""
        reaching, cpu_s = defaultdict[str, list[pytest.Item]](list), {}
        set_mutant_under_test("stats")
        for item in items:
            start = time.process_time()
            if not self._passes(item):
                pytest.exit(f"{item.nodeid} fails without any mutant", returncode=1)
            cpu_s[item] = time.process_time() - start
            for function in state()._stats:
                reaching[function].append(item)
            state()._stats.clear()
        return reaching, cpu_s

    def _passes(self, item: pytest.Item) -> bool:
        self.has_failed = False
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
        return not self.has_failed

    def _passes_within(self, cpu_s: float, item: pytest.Item) -> bool:
        """Whether it passes; `cpu_s` is what it takes without a mutant, and at far more the process ends."""
        limit_s = math.ceil(time.process_time() + CPU_TIMES * cpu_s + CPU_MIN_S)
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, resource.RLIM_INFINITY))
        return self._passes(item)

    def _started(self, mutant: str, tests: Sequence[tuple[pytest.Item, float]]) -> int:
        child = os.fork()
        if child:
            return child
        try:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX_BYTES, MEMORY_MAX_BYTES))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            set_mutant_under_test(mutant)
            for cached in _caches():
                cached()
            os._exit(0 if all(self._passes_within(cpu_s, item) for item, cpu_s in tests) else 1)
        except BaseException:  # noqa: BLE001 - whatever it is, no test says that all is well
            os._exit(1)

    def _ended(self, running: dict[int, str]) -> None:
        child, status = os.wait()
        code = os.waitstatus_to_exitcode(status)
        # At the limit of CPU time a process gets SIGXCPU. Any other end proves nothing.
        outcomes = {1: KILLED, -signal.SIGXCPU: TIMED_OUT}
        self.tell(running.pop(child), outcomes.get(code, SURVIVED))


def _caches() -> Iterator[Callable[[], None]]:
    """What forgets the values that the functions of the core have remembered before there was a mutant."""
    for name, module in list(sys.modules.items()):
        if name.startswith("feature_rollout.core."):
            yield from (value.cache_clear for value in vars(module).values() if hasattr(value, "cache_clear"))
