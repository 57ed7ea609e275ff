"""How deep a run goes.

`make test` tries each fault once and the slowest combinations in a sample, `make chaos` all.
"""

import os

from hypothesis import Phase, settings

# How often each fault is let in.
REPEATS = int(os.environ.get("FEATUREROLLOUT_CHAOS", "1"))
DEEP = REPEATS > 1

# On how many times as many examples properties are tried, which are then others each time; 0 for the usual ones.
TIMES_EXAMPLES = int(os.environ.get("FEATUREROLLOUT_DEEP") or 0)
DEEP_PROPERTIES = TIMES_EXAMPLES > 0

# `make mutation` only asks whether a property fails, and not by which smallest example.
SHRINKING = not os.environ.get("FEATUREROLLOUT_NO_SHRINKING")


def properties(examples: int) -> settings:
    """So many examples of a property, the same in every run; in a deep run more, and others."""
    return settings(
        max_examples=max(TIMES_EXAMPLES, 1) * examples,
        derandomize=not DEEP_PROPERTIES,
        deadline=None,
        database=None,
        phases=[phase for phase in Phase if SHRINKING or phase is not Phase.shrink],
    )
