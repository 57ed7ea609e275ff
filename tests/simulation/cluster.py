"""An API server in memory: rollouts and actions with uid, resourceVersion, generation, finalizers, and watches.

Objects are never changed in place: whoever has read one keeps what was read. `spec` is
`{"plan": name, ...}`: the plan of that name is in the world, as if the references had been followed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from feature_rollout.kube.errors import Gone, Stale
from feature_rollout.kube.resources import ACTIONS, ROLLOUTS

Object = dict[str, Any]
Key = tuple[str, str]
NAMESPACE = "shop"
FINALIZER = "featurerollout.dev/finalizer"
# Of so many versions of an object an old one can be read.
KEPT_VERSIONS = 4


class Cluster:
    """`watch(plural, type, object)` is called for every change, in order."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._now = clock
        self._version = 0
        self._uids = 0
        self.objects: dict[str, dict[str, Object]] = {ROLLOUTS: {}, ACTIONS: {}}
        self._earlier: dict[tuple[str, str], list[Object | None]] = {}
        self.watch: Callable[[str, str, Object], None] = lambda *_: None
        # What the spec of each generation was, for whoever asks later; by uid.
        self.specs: dict[str, dict[int, Mapping[str, Any]]] = {}

    def get(self, plural: str, name: str) -> Object | None:
        return self.objects[plural].get(name)

    def earlier(self, plural: str, name: str) -> Object | None:
        """The object as it was a version ago."""
        known = self._earlier.get((plural, name))
        return known[-1] if known else self.get(plural, name)

    # What people and their tools do.

    def apply(self, name: str, spec: Mapping[str, Any], note: str = "") -> Object:
        """Create the rollout, or make this its spec; a `note` is an annotation, which leaves the generation alone."""
        found = self.get(ROLLOUTS, name)
        if found is None:
            self._uids += 1
            metadata = {"name": name, "namespace": NAMESPACE, "uid": f"uid-{self._uids}", "generation": 1}
            metadata["creationTimestamp"] = self._time()
            # The status is as the schema has it from the beginning.
            made = {"metadata": metadata, "spec": dict(spec), "status": {"observedGeneration": -1}}
            return self._put(ROLLOUTS, made, "ADDED")
        changed = found["spec"] != spec
        if not changed and not note:
            return found
        metadata = {**found["metadata"], "generation": found["metadata"]["generation"] + changed}
        if note:
            metadata["annotations"] = {**metadata.get("annotations", {}), "applied": note}
        return self._put(ROLLOUTS, {**found, "metadata": metadata, "spec": dict(spec)}, "MODIFIED")

    def annotate(self, name: str, key: str, value: str) -> None:
        found = self.objects[ROLLOUTS][name]
        annotations = {**found["metadata"].get("annotations", {}), key: value}
        self._put(ROLLOUTS, {**found, "metadata": {**found["metadata"], "annotations": annotations}}, "MODIFIED")

    def delete(self, name: str) -> None:
        """The object goes when the last finalizer does."""
        found = self.get(ROLLOUTS, name)
        if found is None or "deletionTimestamp" in found["metadata"]:
            return
        if not found["metadata"].get("finalizers"):
            self._drop(ROLLOUTS, found)
            return
        metadata = {**found["metadata"], "deletionTimestamp": self._time()}
        metadata["generation"] += 1
        self._put(ROLLOUTS, {**found, "metadata": metadata}, "MODIFIED")

    def rebuild(self, name: str) -> None:
        """Another cluster, from the same manifests: the object without its past, under another UID."""
        found = self.objects[ROLLOUTS].get(name)
        if found is None:
            return
        self._drop(ROLLOUTS, found)
        self.apply(name, found["spec"])

    def act(self, rollout: str, spec: Mapping[str, Any]) -> Object:
        """Somebody creates a RolloutAction."""
        self._uids += 1
        metadata = {
            "name": f"action-{self._uids}",
            "namespace": NAMESPACE,
            "uid": f"uid-{self._uids}",
            "generation": 1,
            "creationTimestamp": self._time(),
        }
        made = {"metadata": metadata, "spec": {"rolloutRef": {"name": rollout}, **spec}, "status": {}}
        return self._put(ACTIONS, made, "ADDED")

    # What the operator does.

    def finalizers(self, decided_on: Mapping[str, Any], finalizers: list[str]) -> None:
        """Raises Stale when the object has changed since, Gone when it is not there."""
        found = self._same(ROLLOUTS, decided_on)
        if found["metadata"]["resourceVersion"] != decided_on["metadata"]["resourceVersion"]:
            raise Stale("patch the finalizers", 409)
        changed = {**found, "metadata": {**found["metadata"], "finalizers": finalizers}}
        if not finalizers and "deletionTimestamp" in found["metadata"]:
            self._drop(ROLLOUTS, changed)
        else:
            self._put(ROLLOUTS, changed, "MODIFIED")

    def status(self, plural: str, decided_on: Mapping[str, Any], status: Mapping[str, Any]) -> Object:
        """Make this the whole status; raises Stale and Gone. One that is the same leaves the version as it is."""
        found = self._same(plural, decided_on)
        if found["metadata"]["resourceVersion"] != decided_on["metadata"]["resourceVersion"]:
            raise Stale("apply the status", 409)
        if found["status"] == status:
            return found
        return self._put(plural, {**found, "status": status}, "MODIFIED")

    def forge(self, name: str, status: Mapping[str, Any]) -> None:
        """Somebody writes a status by hand."""
        found = self.objects[ROLLOUTS].get(name)
        if found is not None:
            self._put(ROLLOUTS, {**found, "status": status}, "MODIFIED")

    def _same(self, plural: str, decided_on: Mapping[str, Any]) -> Object:
        metadata = decided_on["metadata"]
        found = self.get(plural, metadata["name"])
        if found is None:
            raise Gone(f"there is no {metadata['name']}", 404)
        if found["metadata"]["uid"] != metadata["uid"]:
            raise Stale(f"{metadata['name']} is another object", 409)
        return found

    def _put(self, plural: str, obj: Object, event: str) -> Object:
        name = obj["metadata"]["name"]
        self._remember(plural, name)
        self._version += 1
        obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self._version)}}
        self.objects[plural][name] = obj
        self.specs.setdefault(obj["metadata"]["uid"], {})[obj["metadata"]["generation"]] = obj["spec"]
        self.watch(plural, event, obj)
        return obj

    def _drop(self, plural: str, obj: Object) -> None:
        name = obj["metadata"]["name"]
        self._remember(plural, name)
        self._version += 1
        del self.objects[plural][name]
        last = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self._version)}}
        self.watch(plural, "DELETED", last)

    def _remember(self, plural: str, name: str) -> None:
        known = self._earlier.setdefault((plural, name), [])
        known.append(self.objects[plural].get(name))
        del known[:-KEPT_VERSIONS]

    def _time(self) -> str:
        return self._now().isoformat()
