"""Places where a test may end the process as a power cut would.

The environment variable FEATUREROLLOUT_FAILPOINTS holds names of this module, separated
by commas. A process that reaches a named place kills itself with SIGKILL: no clean-up,
no flushed buffer, no closed connection. Without the variable nothing happens, and it is
never set in a chart or an example.
"""

from __future__ import annotations

import os
import signal
from typing import Final

VARIABLE = "FEATUREROLLOUT_FAILPOINTS"

# Before: everything is sent but the COMMIT, or nothing of a call. After: it was answered.
Places = tuple[str, str]

CLAIM: Final = "before-claim-commit", "after-claim-commit"
# A transaction under the fence that writes flags, and one that writes the ledger alone: complete, rearm.
RAISE: Final = "before-raise-commit", "after-raise-commit"
LEDGER: Final = "before-ledger-commit", "after-ledger-commit"
# A transaction that carries out or refuses what a person has asked for, and writes no flag.
ANSWER: Final = "before-answer-commit", "after-answer-commit"
# A revert at once; the latch and each flag of one that goes flag by flag because rows are locked.
REVERT: Final = "before-revert-commit", "after-revert-commit"
LATCH: Final = "before-latch-commit", "after-latch-commit"
FLAG: Final = "before-flag-commit", "after-flag-commit"
RELEASE: Final = "before-release-commit", "after-release-commit"
CHECKPOINT: Final = "before-checkpoint-commit", "after-checkpoint-commit"
# The audit of what somebody else has done to a row.
OBSERVE: Final = "before-observe-commit", "after-observe-commit"

# A recipient was told of a transition; not in EVERYWHERE, since it is reached only where somebody is to be told.
DELIVERY: Final = "before-delivery-commit", "after-delivery-commit"

# Calls to the API server.
ADD_FINALIZER: Final = "before-finalizer-added", "after-finalizer-added"
REMOVE_FINALIZER: Final = "before-finalizer-removed", "after-finalizer-removed"
WRITE_STATUS: Final = "before-status-write", "after-status-write"

EVERYWHERE: Final[tuple[Places, ...]] = (
    CLAIM,
    RAISE,
    LEDGER,
    ANSWER,
    REVERT,
    LATCH,
    FLAG,
    RELEASE,
    CHECKPOINT,
    OBSERVE,
    ADD_FINALIZER,
    REMOVE_FINALIZER,
    WRITE_STATUS,
)


def hit(name: str) -> None:
    """Kill this process when the environment names this place."""
    if name in os.environ.get(VARIABLE, "").split(","):
        os.kill(os.getpid(), signal.SIGKILL)
