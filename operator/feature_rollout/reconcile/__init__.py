"""The reconcile loop of one rollout, between the pure core and the shell that `ports` describes.

| module | what |
|---|---|
| `loop` | the order of side effects: gather, decide, check, apply, record |
| `reverting` | a revert is made and counted |
| `deletion` | the end of a rollout whose object is deleted |
| `gather` | everything that a decision is made on |
| `others` | where the rollouts stand that a stage waits for |
| `recall` | the metrics' past, before the first raise |
| `changes` | what a decision becomes when it is written |
| `tell` | status and Events |
| `session` | what a reconcile starts from |
"""

from feature_rollout.reconcile.deletion import ABANDON_ANNOTATION
from feature_rollout.reconcile.loop import AT_ONCE, POLL, POLL_COMPLETED, RETRY, Reconciler
from feature_rollout.reconcile.session import Session, Target, Telemetry

__all__ = [
    "ABANDON_ANNOTATION",
    "AT_ONCE",
    "POLL",
    "POLL_COMPLETED",
    "RETRY",
    "Reconciler",
    "Session",
    "Target",
    "Telemetry",
]
