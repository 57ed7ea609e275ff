"""All objects of ours as they were last seen, and which rollouts one of them concerns.

It is filled by the watch and by the sweeper, which may overtake each other; the newest
resourceVersion wins. Objects are raw: nonsense in one of them must not raise here.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from feature_rollout.kube.resources import ACTIONS, MATRICES, PROVIDERS, RESOURCES, ROLLOUTS, STORES, TEMPLATES
from feature_rollout.kube.rollouts import FINALIZER

RolloutKey = tuple[str, str]
# (namespace, name); the namespace of a cluster-scoped object is "".
ObjectKey = tuple[str, str]
Reference = tuple[str, str, str]

NOTHING: frozenset[RolloutKey] = frozenset()
TOMBSTONES_MAX = 10_000
WRITTEN_TO_METADATA = frozenset({"resourceVersion", "managedFields", "finalizers"})


@dataclass(frozen=True, slots=True)
class Version:
    """Which object it is, and how new; `number` is None when the resourceVersion is not a number."""

    uid: str
    number: int | None

    def older_than(self, other: Version) -> bool:
        return self.number is not None and other.number is not None and self.number < other.number


class Inventory:
    """Not thread-safe: for the main loop only."""

    def __init__(self) -> None:
        self.synced = False
        self._objects: dict[str, dict[ObjectKey, dict[str, Any]]] = {plural: {} for plural in RESOURCES}
        self._versions: dict[str, dict[ObjectKey, Version]] = {plural: {} for plural in RESOURCES}
        # What was deleted and at which version, so that an answer which was under way does not bring it back.
        self._tombstones: OrderedDict[tuple[str, ObjectKey], Version] = OrderedDict()
        self._referrers: dict[Reference, set[RolloutKey]] = defaultdict(set)
        self._references: dict[RolloutKey, frozenset[Reference]] = {}
        self._provider_templates: dict[str, set[ObjectKey]] = defaultdict(set)
        self._template_providers: dict[ObjectKey, frozenset[str]] = {}
        self._actions: dict[RolloutKey, set[str]] = defaultdict(set)
        # What the sweeper saw first and the watch has still to deliver: the version, and since when.
        self._owed: dict[tuple[str, ObjectKey], tuple[Version, float]] = {}

    def offer(self, plural: str, event_type: str | None, obj: Mapping[str, Any]) -> frozenset[RolloutKey]:
        """Take an event of the watch; return the rollouts that must be reconciled because of it.

        `event_type` is ADDED, MODIFIED, DELETED, or None for an object of a listing.
        """
        key, version = key_of(obj), version_of(obj)
        if plural not in self._objects or key is None:
            return NOTHING
        owed = self._owed.get((plural, key))
        if owed is not None and not version.older_than(owed[0]):
            del self._owed[plural, key]
        if event_type == "DELETED":
            known = self._versions[plural].get(key)
            if known is not None and version.older_than(known):
                return NOTHING
            return self._remove(plural, key, version)
        return self._put(plural, key, version, obj)

    def adopt(self, plural: str, obj: Mapping[str, Any], now_s: float, *, force: bool = False) -> frozenset[RolloutKey]:
        """Take an object that the sweeper has read; the watch owes it from now on.

        `force` takes it although it is older, after the API server's database was set back.
        """
        key, version = key_of(obj), version_of(obj)
        if plural not in self._objects or key is None:
            return NOTHING
        if force:
            self._versions[plural].pop(key, None)
            self._tombstones.pop((plural, key), None)
        before = self._versions[plural].get(key)
        woken = self._put(plural, key, version, obj)
        if before != version == self._versions[plural].get(key):
            self._owed[plural, key] = (version, now_s)
        return woken

    def forget(self, plural: str, key: ObjectKey, uid: str) -> frozenset[RolloutKey]:
        """Drop this UID, which the API server says is gone; another one under the name stays."""
        known = self._versions[plural].get(key)
        if known is None or known.uid != uid:
            return NOTHING
        self._owed.pop((plural, key), None)
        return self._remove(plural, key, known)

    def get(self, plural: str, namespace: str | None, name: str) -> Mapping[str, Any] | None:
        """The object as it was last seen, which nobody may change in place."""
        return self._objects[plural].get((namespace or "", name))

    def all(self, plural: str) -> list[Mapping[str, Any]]:
        """Every object of a kind, which nobody may change in place."""
        return list(self._objects[plural].values())

    def status(self, key: RolloutKey) -> Mapping[str, Any]:
        """A rollout's status; empty before it has one."""
        return (self.get(ROLLOUTS, *key) or {}).get("status") or {}

    def rollouts(self) -> frozenset[RolloutKey]:
        return frozenset(self._objects[ROLLOUTS])

    def actions(self, key: RolloutKey) -> list[Mapping[str, Any]]:
        """The RolloutActions that name this rollout, oldest first."""
        namespace = key[0]
        found = [self._objects[ACTIONS][namespace, name] for name in self._actions.get(key, ())]
        return sorted(found, key=_age)

    def versions(self, plural: str, namespace: str | None = None) -> dict[ObjectKey, Version]:
        """What is known of a kind, in one namespace or in all."""
        known = self._versions[plural]
        return {key: version for key, version in known.items() if namespace is None or key[0] == namespace}

    def owed_s(self, now_s: float) -> float:
        """For how long the watch has not delivered something that the sweeper saw; 0 when it owes nothing."""
        return max((now_s - since for _, since in self._owed.values()), default=0.0)

    def owe_from(self, now_s: float) -> None:
        """Count the watch's debts from now on, because it was just started again."""
        self._owed = {key: (version, now_s) for key, (version, _) in self._owed.items()}

    def _put(self, plural: str, key: ObjectKey, version: Version, obj: Mapping[str, Any]) -> frozenset[RolloutKey]:
        known, buried = self._versions[plural].get(key), self._tombstones.get((plural, key))
        if known is not None and (version == known or version.older_than(known)):
            return NOTHING
        if buried is not None and (version.uid == buried.uid or version.older_than(buried)):
            return NOTHING
        self._tombstones.pop((plural, key), None)
        before, woken = self._objects[plural].get(key), self._concerned(plural, key)
        self._unindex(plural, key)
        self._versions[plural][key] = version
        self._objects[plural][key] = dict(obj)
        self._index(plural, key, obj)
        woken |= self._concerned(plural, key)
        if before is None or not _as_good_as(before, obj):
            return woken
        # Those that wait for a rollout read its ledger, and what its status says of it is when to do so.
        return woken - {key} if plural == ROLLOUTS else NOTHING

    def _remove(self, plural: str, key: ObjectKey, version: Version) -> frozenset[RolloutKey]:
        self._tombstones[plural, key] = version
        if len(self._tombstones) > TOMBSTONES_MAX:
            self._tombstones.popitem(last=False)
        if key not in self._objects[plural]:
            return NOTHING
        woken = self._concerned(plural, key)
        self._unindex(plural, key)
        del self._objects[plural][key]
        del self._versions[plural][key]
        return woken

    def _concerned(self, plural: str, key: ObjectKey) -> frozenset[RolloutKey]:
        """The rollouts to reconcile when this object, as it is known now, appears, changes or goes."""
        if plural == ROLLOUTS:
            return frozenset((key, *self._referrers.get((plural, *key), ())))
        if plural == ACTIONS:
            name = _name(self._objects[ACTIONS].get(key), "spec", "rolloutRef", "name")
            return NOTHING if name is None else frozenset(((key[0], name),))
        found = set(self._referrers.get((plural, *key), ()))
        if plural == PROVIDERS:
            for template in self._provider_templates.get(key[1], ()):
                found |= self._referrers.get((TEMPLATES, *template), set())
        return frozenset(found)

    def _index(self, plural: str, key: ObjectKey, obj: Mapping[str, Any]) -> None:
        if plural == ROLLOUTS:
            self._references[key] = frozenset(references(key[0], obj))
            for reference in self._references[key]:
                self._referrers[reference].add(key)
        elif plural == TEMPLATES:
            self._template_providers[key] = frozenset(providers(_dig(obj, "spec")))
            for provider in self._template_providers[key]:
                self._provider_templates[provider].add(key)
        elif plural == ACTIONS and (name := _name(obj, "spec", "rolloutRef", "name")) is not None:
            self._actions[key[0], name].add(key[1])

    def _unindex(self, plural: str, key: ObjectKey) -> None:
        if plural == ROLLOUTS:
            for reference in self._references.pop(key, frozenset()):
                _discard(self._referrers, reference, key)
        elif plural == TEMPLATES:
            for provider in self._template_providers.pop(key, frozenset()):
                _discard(self._provider_templates, provider, key)
        elif plural == ACTIONS:
            name = _name(self._objects[ACTIONS].get(key), "spec", "rolloutRef", "name")
            if name is not None:
                _discard(self._actions, (key[0], name), key[1])


def key_of(obj: Mapping[str, Any]) -> ObjectKey | None:
    """(namespace, name), the namespace "" where there is none; None for something without a name."""
    name = _name(obj, "metadata", "name")
    return None if name is None else (_name(obj, "metadata", "namespace") or "", name)


def version_of(obj: Mapping[str, Any]) -> Version:
    uid, text = _dig(obj, "metadata", "uid"), _dig(obj, "metadata", "resourceVersion")
    # Longer numbers are not versions, and converting them would take long.
    number = int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 64 else None
    return Version(uid if isinstance(uid, str) else "", number)


def references(namespace: str, rollout: Mapping[str, Any]) -> Iterator[Reference]:
    """What a rollout names, as (plural, namespace, name), as far as it makes sense."""
    spec = _dig(rollout, "spec")
    for plural, ref in ((STORES, "storeRef"), (MATRICES, "matrixRef")):
        if (name := _name(spec, ref, "name")) is not None:
            yield (plural, namespace, name)
    metrics = _dig(spec, "metrics")
    for metric in metrics if isinstance(metrics, list) else ():
        if (name := _name(metric, "templateRef", "name")) is not None:
            yield (TEMPLATES, namespace, name)
        for provider in providers(_dig(metric, "template")):
            yield (PROVIDERS, "", provider)
    stages = _dig(spec, "stages")
    for stage in stages if isinstance(stages, list) else ():
        after = _dig(stage, "after")
        for one in after if isinstance(after, list) else ():
            if (name := _name(one, "rollout")) is not None:
                yield (ROLLOUTS, namespace, name)


def providers(template_spec: object) -> Iterator[str]:
    """The providers that a metric template names, inside the part for its type of back end."""
    if isinstance(template_spec, dict):
        for part in template_spec.values():
            if (name := _name(part, "providerRef", "name")) is not None:
                yield name


def _dig(value: object, *path: str) -> object:
    for step in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(step)
    return value


def _name(value: object, *path: str) -> str | None:
    found = _dig(value, *path)
    return found if isinstance(found, str) and found else None


def _as_good_as(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether no more has changed than what the operator writes itself: the status, and its finalizer added."""
    old, new = before.get("metadata") or {}, after.get("metadata") or {}
    if any(old.get(name) != new.get(name) for name in (old.keys() | new.keys()) - WRITTEN_TO_METADATA):
        return False
    if any(before.get(name) != after.get(name) for name in (before.keys() | after.keys()) - {"metadata", "status"}):
        return False
    finalizers, now = old.get("finalizers"), new.get("finalizers")
    return now == finalizers or now == [*(finalizers if isinstance(finalizers, list) else ()), FINALIZER]


def _age(obj: Mapping[str, Any]) -> tuple[str, str]:
    return _name(obj, "metadata", "creationTimestamp") or "", _name(obj, "metadata", "name") or ""


def _discard(index: dict[Any, set[Any]], key: Any, value: Any) -> None:
    """Take a value out of an index of sets, and the set too when nothing is left in it."""
    index[key].discard(value)
    if not index[key]:
        del index[key]
