"""How deep a run goes: `make test` tries each fault once and the slowest combinations in a sample, `make chaos` all."""

import os

# How often each fault is let in.
REPEATS = int(os.environ.get("FEATUREROLLOUT_CHAOS", "1"))
DEEP = REPEATS > 1
