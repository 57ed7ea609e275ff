"""Run seeds and say what became of them: `python -m simulation --seed 7`, `--seed 0 --count 500`.

With one seed, or for the first that fails, the whole trace is printed. Ends with 1 when an invariant was broken,
or when `--deep` has not met every fault in every phase where it can come.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor

from simulation import coverage
from simulation.runner import Outcome, run, run_one

CHUNK = 50


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many seeds")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the work")
    parser.add_argument("--deep", action="store_true", help="fail when a pair of fault and phase was met too seldom")
    parser.add_argument("--quiet", action="store_true", help="one line: `ok`, or the seed and the invariant")
    given = parser.parse_args()
    outcome = _run(range(given.seed, given.seed + given.count), given.jobs)
    if outcome.failed is not None:
        seed, invariant, text = outcome.failed
        if not given.quiet:
            tell(run_one(seed).trace.text())
        tell(f"FAILED: seed {seed}, {invariant}: {text}; again with: make simulate SEED={seed}")
        return 1
    if given.count == 1 and not given.quiet:
        one = run_one(given.seed)
        tell(one.trace.text(), f"seed {given.seed}: {len(one.trace.events)} events, hash {one.digest}")
    elif not given.quiet:
        tell(*coverage.table(outcome.pairs))
    missing = coverage.missing(outcome.pairs) if given.deep else []
    tell(*missing, f"ok: {outcome.runs} runs" if not missing else f"FAILED: {len(missing)} pairs were met too seldom")
    return 1 if missing else 0


def _run(seeds: range, jobs: int) -> Outcome:
    """The seeds in chunks, up to the first that fails."""
    if jobs == 1:
        return run(seeds)
    total = Outcome()
    with ProcessPoolExecutor(jobs) as pool:
        for part in pool.map(run, (seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK))):
            total.runs += part.runs
            total.pairs += part.pairs
            if part.failed is not None:
                total.failed = part.failed
                pool.shutdown(cancel_futures=True)
                break
    return total


def tell(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
