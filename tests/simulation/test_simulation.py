"""The whole loop, seed by seed: no invariant is broken, and the same seed is the same run everywhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulation import coverage
from simulation.runner import run, run_one

# So many of the worlds that `make test-deep` tries.
SEEDS = 500
# Small enough for the workers to share the work, large enough for a start to cost nothing.
CHUNK = 25
TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_no_seed_breaks_an_invariant(first, record_property):
    outcome = run(range(first, first + CHUNK))
    record_property(coverage.FINDING, [[*pair, count] for pair, count in outcome.pairs.items()])
    assert outcome.failed is None, "see it with: make simulate SEED={}".format(*outcome.failed or ("",))


def test_the_same_seed_is_the_same_run():
    assert [run_one(seed).digest for seed in range(5)] == [run_one(seed).digest for seed in range(5)]


def test_another_process_with_another_hash_seed_has_the_same_runs():
    here = " ".join(run_one(seed).digest for seed in range(8))
    program = "from simulation.runner import run_one; print(*(run_one(seed).digest for seed in range(8)))"
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(TESTS)}
        told = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert told.stdout.strip() == here
