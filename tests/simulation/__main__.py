"""Run seeds and say what became of them: `python -m simulation --seed 7`, `--seed 0 --count 500`.

With one seed, or for the first that fails, the whole trace is printed. Ends with 1 when an invariant was broken.
"""

from __future__ import annotations

import argparse
import sys

from simulation import coverage
from simulation.runner import run, run_one


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many seeds")
    parser.add_argument("--quiet", action="store_true", help="one line: `ok`, or the seed and the invariant")
    given = parser.parse_args()
    outcome = run(range(given.seed, given.seed + given.count))
    seed = given.seed if outcome.failed is None else outcome.failed[0]
    if not given.quiet and (given.count == 1 or outcome.failed is not None):
        one = run_one(seed)
        tell(one.trace.text(), f"seed {seed}: {len(one.trace.events)} events, hash {one.digest}")
    elif not given.quiet:
        tell(*coverage.table(outcome.pairs))
    if outcome.failed is None:
        tell(f"ok: {outcome.runs} runs")
        return 0
    _, invariant, text = outcome.failed
    tell(f"FAILED: seed {seed}, {invariant}: {text}; again with: make simulate SEED={seed}")
    return 1


def tell(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
