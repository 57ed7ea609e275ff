"""Places where a test may end the process as a power cut would.

The environment variable FEATUREROLLOUT_FAILPOINTS holds names of this module, separated
by commas. A process that reaches a named place kills itself with SIGKILL: no clean-up,
no flushed buffer, no closed connection. Without the variable nothing happens, and it is
never set in a chart or an example.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "FEATUREROLLOUT_FAILPOINTS"

# A transaction that writes flags under the fence: everything is sent but the COMMIT; the COMMIT was answered.
BEFORE_RAISE_COMMIT = "before-raise-commit"
AFTER_RAISE_COMMIT = "after-raise-commit"

# A transaction that carries out or refuses what a person has asked for, and writes no flag.
BEFORE_ANSWER_COMMIT = "before-answer-commit"
AFTER_ANSWER_COMMIT = "after-answer-commit"

# A transaction that lowers, of a revert or of a release.
BEFORE_REVERT_COMMIT = "before-revert-commit"
AFTER_REVERT_COMMIT = "after-revert-commit"


def hit(name: str) -> None:
    """Kill this process when the environment names this place."""
    if name in os.environ.get(VARIABLE, "").split(","):
        os.kill(os.getpid(), signal.SIGKILL)
