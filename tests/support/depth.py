"""How deep a run goes.

`make test` tries each fault once, the slowest combinations in a sample, and 500 seeds; `make chaos` tries all faults,
`make test-deep` 20,000 seeds.
"""

import os

# How often each fault is let in.
REPEATS = int(os.environ.get("FEATUREROLLOUT_CHAOS", "1"))
DEEP = REPEATS > 1
# How many worlds are simulated.
SEEDS = int(os.environ.get("FEATUREROLLOUT_SEEDS", "500"))
