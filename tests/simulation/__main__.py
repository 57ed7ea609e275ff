"""Run seeds and say what became of them: `python -m simulation --seed 7`, `--seed 0 --count 500`.

With one seed, or for the first that fails, the whole trace is printed. Ends with 1 when an invariant was broken.
"""

from __future__ import annotations

import argparse
import sys

from simulation.runner import run, run_one


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many seeds")
    parser.add_argument("--quiet", action="store_true", help="one line: `ok`, or the seed and the invariant")
    given = parser.parse_args()
    outcome = run(range(given.seed, given.seed + given.count))
    if not given.quiet and (given.count == 1 or outcome.failed is not None):
        seed = given.seed if outcome.failed is None else outcome.failed[0]
        run_one(seed)
    elif not given.quiet:
        pass
    if outcome.failed is None:
        return 0
    seed, _invariant, _text = outcome.failed
    return 1


if __name__ == "__main__":
    sys.exit(main())
