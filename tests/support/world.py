"""Everything that the operator works on in one test: a namespace, a database, roles, rights, and how to look at it."""

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import yaml

from feature_rollout.api.policies import VERBS
from feature_rollout.demo import stage
from feature_rollout.sandbox.cluster import Cluster
from support.databases import Database
from support.manifests import PLURALS, ROLLOUT, SECRET, Object, manifest
from support.traffic import Traffic
from support.waiting import wait_for

# What the table shows, the status must show this soon.
STATUS_S = 2.0
EDIT_ATTEMPTS = 20
# As the demo's database has it: the group role belongs to the server and may be there already.
GROUP_ROLE = """
DO $$ BEGIN
  CREATE ROLE feature_rollout_writer NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$
"""
FLAGS = "SELECT name, enabled, rollout_percentage, user_groups FROM feature_flags"

OURS = "featurerollout.dev"
# Whose members may do everything that people do.
PEOPLE = "people"

Row = tuple[bool, int, frozenset[str]]


class World:
    """A namespace on a cluster and a database with the notification system's tables and low-privilege roles."""

    def __init__(self, cluster: Cluster, namespace: str, database: Database, traffic: Traffic) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.database = database
        self.traffic = traffic
        self.writer, self.reader, self.owner = (database.role(prefix) for prefix in ("writer", "reader", "owner"))
        self._set_up_database()
        self.set_up_rights()
        self._set_up_people()
        self.secret(SECRET, self.uris())
        self.baseline = self.rows()
        # Flags whose rows the test itself changes: the audit cannot know of that.
        self.changed_by_hand: set[str] = set()

    @classmethod
    @contextmanager
    def made(cls, cluster: Cluster, namespace: str, database: Database) -> Iterator["World"]:
        """Make it, with traffic of 200 healthy deliveries a second."""
        traffic = Traffic(database.uri())
        world = cls(cluster, namespace, database, traffic)
        with traffic:
            yield world

    # What the test does.

    def uris(self) -> dict[str, str]:
        roles = {"writer": self.writer, "reader": self.reader, "owner": self.owner}
        return {f"{role}-uri": self.database.uri(name) for role, name in roles.items()}

    def secret(self, name: str, values: dict[str, str]) -> None:
        self.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values})

    def apply(self, *objects: Object) -> None:
        """Create each, or make it what is given when it is there already."""
        for obj in objects:
            status, answer = self.cluster.request("POST", self.path(obj["kind"]), obj)
            if status == HTTPStatus.CONFLICT:
                self._replace(obj)
            else:
                assert status == HTTPStatus.CREATED, answer

    def edit(self, kind: str, name: str, change: Callable[[Any], object]) -> Any:
        """Change an object and return it as it is then; `change` gets its manifest and changes it in place."""
        for _ in range(EDIT_ATTEMPTS):
            obj = self.get(kind, name)
            assert obj is not None, f"there is no {kind} {name}"
            change(obj)
            status, answer = self.cluster.request("PUT", self.path(kind, name), obj)
            if status != HTTPStatus.CONFLICT:
                assert status == HTTPStatus.OK, answer
                return answer
        raise AssertionError(f"{kind} {name} keeps changing")

    def edit_spec(self, name: str = ROLLOUT, **fields: Any) -> None:
        """Set these fields of a rollout's spec."""
        self.edit("FeatureRollout", name, lambda rollout: rollout["spec"].update(fields))

    def delete(self, kind: str, name: str) -> None:
        status, answer = self.cluster.request("DELETE", self.path(kind, name))
        assert status == HTTPStatus.OK, answer

    def set_row(self, flag: str, enabled: bool, percentage: int, groups: list[str] | None = None) -> None:
        """Change a flag by hand."""
        self.changed_by_hand.add(flag)
        self.database.execute(
            "UPDATE feature_flags SET enabled = %s, rollout_percentage = %s, user_groups = %s WHERE name = %s",
            enabled,
            percentage,
            groups or [],
            flag,
        )

    # What there is to see.

    def rows(self) -> dict[str, Row]:
        """Every flag's row as (enabled, percentage, groups)."""
        return {
            row["name"]: (row["enabled"], row["rollout_percentage"], frozenset(row["user_groups"]))
            for row in self.database.query(FLAGS)
        }

    def row(self, flag: str) -> Row:
        return self.rows()[flag]

    def wait_row(self, flag: str, row: Row, timeout_s: float = 30.0) -> None:
        """Until the table shows this row; whatever else it shows before is in the message."""

        def shows() -> bool:
            seen = self.row(flag)
            assert seen == row, f"{flag} is {seen}"
            return True

        wait_for(shows, timeout_s, lambda: f"row {row} of {flag}; status: {self.brief()}")

    def table(self) -> list[dict[str, Any]]:
        """The whole flag table, every column, for comparison byte by byte."""
        return self.database.query("SELECT f.*, f.xmin::text FROM feature_flags f ORDER BY name")

    def act(self, kind: str, name: str | None = None, by: str = "alice", **spec: Any) -> str:
        """A person, who may do everything, makes a RolloutAction; its name."""
        name = name or f"{kind.lower()}-{secrets.token_hex(4)}"
        full = {"rolloutRef": {"name": ROLLOUT}, "type": kind, "reason": "a test", **spec}
        status, answer = self.cluster.request(
            "POST",
            self.path("RolloutAction"),
            manifest("RolloutAction", name, full),
            headers={"Impersonate-User": by, "Impersonate-Group": PEOPLE},
        )
        assert status == HTTPStatus.CREATED, answer
        return name

    def answer(self, name: str) -> Any:
        """What a RolloutAction's status says."""
        return (self.get("RolloutAction", name) or {}).get("status") or {}

    def jobs(self) -> list[dict[str, Any]]:
        """Every Job of the namespace, oldest first."""
        status, answer = self.cluster.request("GET", f"/apis/batch/v1/namespaces/{self.namespace}/jobs")
        assert status == HTTPStatus.OK, answer
        return sorted(answer["items"], key=lambda job: job["metadata"]["creationTimestamp"])

    def wait_answer(self, name: str, phase: str, reason: str, timeout_s: float = 30.0) -> Any:
        """Until an action's status says so; return it."""

        def is_so() -> Any:
            seen = self.answer(name)
            assert (seen.get("phase"), seen.get("reason")) == (phase, reason), seen
            return seen

        return wait_for(is_so, timeout_s, lambda: f"{phase} {reason} of {name}; rollout: {self.brief()}")

    def actions(self) -> list[dict[str, Any]]:
        """What the database has of them, in their order; nothing before the bookkeeping is installed."""
        if not self.database.query("SELECT to_regclass('feature_rollout.action') IS NOT NULL AS there")[0]["there"]:
            return []
        return self.database.query("SELECT * FROM feature_rollout.action ORDER BY at")

    def audit(self, flag: str | None = None) -> list[dict[str, Any]]:
        """The audit in its order, of all flags or of one; nothing before the bookkeeping is installed."""
        if not self.database.query("SELECT to_regclass('feature_rollout.audit') IS NOT NULL AS there")[0]["there"]:
            return []
        rows = self.database.query("SELECT * FROM feature_rollout.audit ORDER BY id")
        return [row for row in rows if flag in (None, row["flag"])]

    def ledger(self, name: str = ROLLOUT) -> dict[str, Any]:
        rows = self.database.query(
            "SELECT * FROM feature_rollout.ledger WHERE key LIKE %s", f"%/{self.namespace}/{name}"
        )
        assert len(rows) == 1
        return rows[0]

    def owners(self) -> set[str | None]:
        return {row["owner"] for row in self.database.query("SELECT owner FROM feature_rollout.ownership")}

    def get(self, kind: str, name: str) -> Any:
        """An object, or None."""
        status, answer = self.cluster.request("GET", self.path(kind, name))
        assert status in (HTTPStatus.OK, HTTPStatus.NOT_FOUND), answer
        return answer if status == HTTPStatus.OK else None

    def rollout(self, name: str = ROLLOUT) -> Any:
        found = self.get("FeatureRollout", name)
        assert found is not None, f"there is no rollout {name}"
        return found

    def status(self, name: str = ROLLOUT) -> Any:
        return self.rollout(name).get("status") or {}

    def condition(self, type_: str, name: str = ROLLOUT, kind: str = "FeatureRollout") -> Any:
        """A condition; an AssertionError when it is not there (yet)."""
        obj = self.get(kind, name) or {}
        conditions = (obj.get("status") or {}).get("conditions") or []
        found = next((c for c in conditions if c["type"] == type_), None)
        assert found is not None, f"{kind} {name} has no condition {type_}"
        return found

    def conditions(self, name: str = ROLLOUT) -> dict[str, tuple[str, str]]:
        """Status and reason of each condition."""
        return {c["type"]: (c["status"], c["reason"]) for c in self.status(name).get("conditions") or []}

    def events(self, name: str = ROLLOUT) -> list[Any]:
        """The Events of a rollout, oldest first."""
        path = f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events"
        status, answer = self.cluster.request("GET", path)
        assert status == HTTPStatus.OK, answer
        found = [event for event in answer["items"] if event["regarding"]["name"] == name]
        return sorted(found, key=lambda event: event["eventTime"] or "")

    def reasons(self, name: str = ROLLOUT) -> list[str]:
        return [event["reason"] for event in self.events(name)]

    def columns(self, name: str = ROLLOUT) -> dict[str, str]:
        """What `kubectl get fro` prints of a rollout, by the heading of the column."""
        lines = self.cluster.kubectl("get", "fro", name, "-n", self.namespace).stdout.splitlines()
        heads = [(head, lines[0].index(head)) for head in lines[0].split()]
        ends = [start for _, start in heads[1:]] + [len(lines[1])]
        return {head: lines[1][start:end].strip() for (head, start), end in zip(heads, ends, strict=True)}

    def soon(self, condition: Callable[[], object], timeout_s: float = STATUS_S) -> None:
        """The status follows the table within two seconds."""

        def holds() -> object:
            try:
                seen = condition()
            except (KeyError, IndexError) as error:
                raise AssertionError(f"no {error} yet") from error
            assert seen is not False, "not so"
            return True

        wait_for(holds, timeout_s, lambda: f"what the status must show; it is {self.brief()}")

    def wait_condition(
        self,
        type_: str,
        status: str,
        reason: str,
        *,
        name: str = ROLLOUT,
        kind: str = "FeatureRollout",
        timeout_s: float = 30.0,
    ) -> Any:
        """Until a condition is so; return it."""

        def is_so() -> Any:
            found = self.condition(type_, name, kind)
            assert (found["status"], found["reason"]) == (status, reason), found
            return found

        return wait_for(is_so, timeout_s, f"{type_}={status} {reason}")

    def wait_stage(self, stage_name: str, name: str = ROLLOUT, timeout_s: float = 30.0) -> None:
        """Until the status says that the rollout is in this stage."""

        def is_there() -> bool:
            return (self.status(name).get("stage") or {}).get("name") == stage_name

        wait_for(is_there, timeout_s, lambda: f"stage {stage_name}; status: {self.brief(name)}")

    def brief(self, name: str = ROLLOUT) -> str:
        """The status in a line, for messages of failed tests."""
        try:
            obj = self.get("FeatureRollout", name) or {}
        except OSError as error:
            return f"the API server is away ({type(error).__name__})"
        status = obj.get("status") or {}
        ready = next((c for c in status.get("conditions") or [] if c["type"] == "Ready"), {})
        return f"{status.get('phase')} {(status.get('stage') or {}).get('name')} {ready.get('reason')}: " + str(
            ready.get("message")
        )

    def passwords(self) -> list[str]:
        return list(self.database._passwords.values())

    def everything_said(self) -> str:
        """Every status and Event of the namespace as text, to look for what must not be there."""
        kinds = [kind for kind in PLURALS if kind not in ("Secret", "MetricProvider")]
        paths = [self.path(kind) for kind in kinds]
        paths.append(f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events")
        return json.dumps([self.cluster.request("GET", path)[1] for path in paths])

    def path(self, kind: str, name: str | None = None) -> str:
        group = "/api/v1" if kind in ("ConfigMap", "Secret") else "/apis/featurerollout.dev/v1alpha1"
        where = "" if kind == "MetricProvider" else f"/namespaces/{self.namespace}"
        return f"{group}{where}/{PLURALS[kind]}" + (f"/{name}" if name else "")

    # How it is made.

    def set_up_rights(self) -> None:
        """The operator's ServiceAccount in the namespace, and the demo's RBAC for it."""
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts"
        status, answer = self.cluster.request("POST", path, {"metadata": {"name": stage.SERVICE_ACCOUNT}})
        assert status == HTTPStatus.CREATED, answer
        for obj in yaml.safe_load_all(stage.rbac(self.namespace, self.namespace, SECRET)):
            # Cluster-wide names are shared with the other tests; the rules are the demo's.
            if "namespace" not in obj["metadata"]:
                obj["metadata"]["name"] = f"operator-{self.namespace}"
                if "roleRef" in obj:
                    obj["roleRef"]["name"] = obj["metadata"]["name"]
            group = f"/apis/{obj['apiVersion']}"
            where = f"/namespaces/{self.namespace}" if "namespace" in obj["metadata"] else ""
            status, answer = self.cluster.request("POST", f"{group}{where}/{obj['kind'].lower()}s", obj)
            assert status == HTTPStatus.CREATED, answer

    def _set_up_people(self) -> None:
        verbs = sorted({"get", *VERBS.values()})
        rules = [
            {"apiGroups": [OURS], "resources": ["rolloutactions"], "verbs": ["create"]},
            {"apiGroups": [OURS], "resources": ["featurerollouts"], "verbs": verbs},
        ]
        subject = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": PEOPLE}
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": PEOPLE}
        role = {"metadata": {"name": PEOPLE}, "rules": rules}
        binding = {"metadata": {"name": PEOPLE}, "roleRef": reference, "subjects": [subject]}
        for plural, obj in (("roles", role), ("rolebindings", binding)):
            path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{self.namespace}/{plural}"
            status, answer = self.cluster.request("POST", path, obj)
            assert status == HTTPStatus.CREATED, answer

    def remove_cluster_rights(self) -> None:
        for plural in ("clusterrolebindings", "clusterroles"):
            path = f"/apis/rbac.authorization.k8s.io/v1/{plural}/operator-{self.namespace}"
            self.cluster.request("DELETE", path)

    def _set_up_database(self) -> None:
        database = self.database
        database.server.psql(GROUP_ROLE)
        database.execute(f"GRANT feature_rollout_writer TO {self.writer}")
        database.execute(f'GRANT CREATE ON DATABASE "{database.name}" TO {self.owner}')
        schema = stage.resource("schema.sql")
        database.execute(schema.replace("{writer}", self.writer).replace("{reader}", self.reader))

    def _replace(self, obj: Object) -> None:
        def put(current: Any) -> None:
            for key in set(current) - {"apiVersion", "kind", "metadata", "status"}:
                del current[key]
            current.update({key: value for key, value in obj.items() if key != "metadata"})

        self.edit(obj["kind"], obj["metadata"]["name"], put)


def fresh_namespace(cluster: Cluster) -> str:
    """A namespace for one test on a control plane of its own."""
    name = f"test-{secrets.token_hex(5)}"
    status, answer = cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    assert status == HTTPStatus.CREATED, answer
    return name


def crds_folder() -> Path:
    return Path(__file__).parents[2] / "crds"
