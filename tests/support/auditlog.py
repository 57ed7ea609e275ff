"""What somebody has asked of an API server, from its own audit log."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml


class Asked(NamedTuple):
    """One kind of request; `resource` has its subresource after a slash, `name` is "" for one without."""

    group: str
    resource: str
    verb: str
    namespace: str
    name: str


@dataclass(frozen=True)
class AuditLog:
    """`flags` are for the API server, before it starts; only what `user` asks is logged."""

    folder: Path
    user: str

    @property
    def flags(self) -> tuple[str, ...]:
        policy = self.folder / "audit-policy.yaml"
        rules: list[dict[str, Any]] = [{"level": "Metadata", "users": [self.user]}, {"level": "None"}]
        # A watch is logged when it begins (ResponseStarted), everything else when it is answered.
        spec = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules}
        policy.write_text(yaml.safe_dump(spec))
        return (
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self._path}",
            # Written before it is answered, so that nothing is missing when somebody looks.
            "--audit-log-mode=blocking",
        )

    @property
    def _path(self) -> Path:
        return self.folder / "audit.log"

    def asked(self, *, refused: bool = False) -> set[Asked]:
        """Requests on resources that RBAC allowed; `refused`: those that it did not."""
        found = set()
        for line in self._path.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            what = event.get("objectRef")
            decision = event.get("annotations", {}).get("authorization.k8s.io/decision")
            if what is None or "resource" not in what or (decision == "forbid") is not refused:
                continue
            resource = "/".join(part for part in (what["resource"], what.get("subresource")) if part)
            found.add(
                Asked(
                    what.get("apiGroup", ""), resource, event["verb"], what.get("namespace", ""), what.get("name", "")
                )
            )
        return found
