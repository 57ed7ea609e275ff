"""How a Job ends where no kubelet runs its Pods: its status is written as the Job controller would."""

from datetime import UTC, datetime
from typing import Any

from feature_rollout.sandbox.cluster import Cluster

# The conditions come in pairs: the API server refuses the second without the first.
_ENDS = {"Complete": ("SuccessCriteriaMet", "CompletionsReached"), "Failed": ("FailureTarget", "BackoffLimitExceeded")}
_ATTEMPTS = 20


def finish(cluster: Cluster, job: dict[str, Any], how: str) -> None:
    """Make it `Complete` or `Failed`; the Job controller writes its status at the same time."""
    metadata = job["metadata"]
    path = f"/apis/batch/v1/namespaces/{metadata['namespace']}/jobs/{metadata['name']}"
    before, reason = _ENDS[how]
    for _ in range(_ATTEMPTS):
        status, found = cluster.request("GET", path)
        assert status == 200, found
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {"status": "True", "reason": reason, "message": "by the test", "lastTransitionTime": now}
        ended = {
            "startTime": found.get("status", {}).get("startTime", now),
            "conditions": [{"type": kind, **condition} for kind in (before, how)],
            **({"succeeded": 1, "completionTime": now} if how == "Complete" else {"failed": 1}),
        }
        status, answer = cluster.request("PUT", f"{path}/status", found | {"status": ended})
        if status != 409:
            assert status == 200, answer
            return
    raise AssertionError(f"the Job {metadata['name']} keeps changing")
