"""Sees everything that happens, has every invariant checked after it, and keeps what the checks need to know.

| id | how it is looked at |
|---|---|
| S1, S7 | a raise leaves exactly its stage's exposure, of every flag of the stage; nothing else raises a row |
| S2 | no raise after a revert that is durable, or known to whoever raises; a latch goes with Retry or another plan |
| S3 | epochs of raises never go down, per flag |
| S4 | no raise over, or beside, a row that somebody else has changed, but with onDrift Report |
| S5 | each change of a row has one audit row; the audit is a chain without gaps |
| S6 | sequences go up one by one; a stage of an attempt is entered once |
| S8 | rows that a stage does not name are as they were; rows are neither made nor deleted |
| S9 | the newest look of each guarded metric is sound and fresh; gates have had their units; no revert without harm |
| S10 | a stage has taken its bake, by the true time, in looks that were sound |
| S11 | one stage at a time |
| S12 | observedGeneration, sequence and epoch never go down; the plan hash in the status is of that generation |
| S13 | approvals and confirmations come from enough people, for this UID and this plan |
| S14 | a flag is written for its owner, and nobody takes it from him |
| S15 | nothing is raised by who has seen the deletion; what is left behind is what onDelete says |
| S17 | what a source's error holds is said nowhere |
| S19 | a revert leaves the meet of each row and its target |
| S20 | no raise while suspended, paused, or without a plan |
| S21 | no reconcile ends with an exception |

S16 is of what this version does not do. S18 needs tables that a query could write: tests/postgres/test_hostile_sql.py.
That a reader sees no half stage (S7) is a matter of transactions: tests/chaos, support/witness.py.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from feature_rollout.core.plan import Plan
from feature_rollout.kube.resources import ROLLOUTS
from simulation import raising, transactions
from simulation.raising import DECIDING_S
from simulation.traffic import SECRET

if TYPE_CHECKING:
    from feature_rollout.core.checks import CheckAnswer
    from feature_rollout.core.exposure import Exposure
    from feature_rollout.core.looks import Look, Window
    from simulation.cluster import Object
    from simulation.database import LedgerRow, Transaction
    from simulation.memory import Past
    from simulation.replica import Replica
    from simulation.world import World


class Witness:
    """Told of everything by whoever does it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.violation: tuple[str, str] | None = None
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.looks: dict[str, dict[str, list[Look]]] = {name: {} for name in world.script.specs}
        # By rollout, metric and window: when it was answered for the first time.
        self.answered_s: dict[tuple[str, str, Window], float] = {}
        # By replica, rollout and metric: what it was answered, and when.
        self._answers: dict[tuple[str, str, str], list[tuple[float, Look]]] = {}
        self.read_s: dict[str, float] = {}
        # The rows as a replica has read them last.
        self.read_rows: dict[str, dict[str, Exposure]] = {}
        # Every ledger row as it was from a time on.
        self.history: dict[str, list[tuple[float, LedgerRow]]] = {}
        self.idle_since_s: dict[str, float] = {}
        self.edited_s: dict[str, float] = {}
        self.skewed = False
        # By replica and uid: the attempt whose revert it was told of.
        self._known: dict[tuple[str, str], int] = {}
        self._pending: set[str] = set()
        # By uid and generation, when it came; the object's end is its last generation.
        self._generations_s: dict[str, dict[float, float]] = {}
        self._deleted_in: dict[str, int] = {}
        self._misled_s: dict[str, float] = {}
        # When a replica has first seen that an object is being deleted.
        self._deletion_seen_s: dict[tuple[str, str], float] = {}
        self.actions: dict[str, Object] = {}
        # What liveness is measured by.
        self.lowered: Counter[str] = Counter()
        self.opened: set[str] = set()
        self.writes = 0
        self.deaths_s: list[float] = []
        # Since when all that was looked at passes the gates that a rollout waits at.
        self.passing_s: dict[str, float] = {}
        # Under which uid, and in which attempt, an action was applied.
        self.applied: dict[str, tuple[str, int]] = {}
        self._generations: dict[str, int] = {}
        self._plans = {plan.plan_hash: plan for plan in world.plans.values() if plan is not None}

    # What the checks ask.

    def time_s(self) -> float:
        return self.world.loop.time()

    def plan(self, plan_hash: str) -> Plan:
        return self._plans[plan_hash]

    def versions(self, key: str) -> list[Plan]:
        """All that a rollout's plan has been, or may have been."""
        name = key.rpartition("/")[2]
        return [plan for at, plan in self.world.plans.items() if plan is not None and at.startswith(f"{name}-")]

    def newest(self, who: str, rollout: str, metric: str) -> list[Look]:
        """What a raise by this replica may rest on: its last answer, or what was the last while it was deciding."""
        known = self._answers.get((who, rollout, metric), [])
        deciding = [look for at_s, look in known if at_s > self.time_s() - DECIDING_S]
        before = [look for at_s, look in known if at_s <= self.time_s() - DECIDING_S]
        # With nothing but these it has decided on what was stored by the process before it, or in an earlier epoch.
        return before[-1:] + deciding if before else []

    def lately(self, key: str, seconds: float) -> list[LedgerRow]:
        """A ledger row as it is, and as it was within so many seconds; the newest first."""
        found = []
        for at_s, row in reversed(self.history.get(key, [])):
            found.append(row)
            if at_s < self.time_s() - seconds:
                break
        return found

    def is_idle(self, who: str) -> bool:
        """Whether a replica has lost the Lease, and not just now."""
        lost_s = self.idle_since_s.get(who)
        return lost_s is not None and lost_s < self.time_s() - DECIDING_S

    def has_seen_deletion(self, who: str, uid: str) -> bool:
        """Whether a replica knew that the object is being deleted, when it decided on what it commits now."""
        return self._deletion_seen_s.get((who, uid), math.inf) < self.time_s() - DECIDING_S and not self.was_stopped(
            who
        )

    def was_stopped(self, who: str) -> bool:
        """Whether a replica was stopped a moment ago: what it commits now it may have decided on before that."""
        replica = next(replica for replica in self.world.replicas if replica.name == who)
        return replica.woken_s > self.time_s() - DECIDING_S

    def was_misled(self, who: str) -> bool:
        """Whether a replica was given an old version of the object a moment ago."""
        return self._misled_s.get(who, -math.inf) > self.time_s() - DECIDING_S

    def replaced_s(self, uid: str, generation: int) -> float:
        """Since when there is a newer generation of the object, or none of that uid any more."""
        known = self._generations_s.get(uid, {})
        return min((at_s for newer, at_s in known.items() if newer > generation), default=math.inf)

    def wishes(self, uid: str) -> set[str]:
        """What onDelete has said since the object was deleted."""
        specs, first = self.world.cluster.specs[uid], self._deleted_in.get(uid, 0)
        return {spec.get("onDelete", "Keep") for generation, spec in specs.items() if generation >= first}

    def has_pending(self, who: str) -> bool:
        """Whether a lowering of this replica has failed, so that the next one makes it whole."""
        return who in self._pending

    def knows_revert(self, who: str, uid: str) -> int | None:
        """The attempt whose revert a replica was told of."""
        return self._known.get((who, uid))

    def forgets(self, replica: Replica) -> None:
        """It stands by, or the object is another: what it had begun is not for it to finish."""
        self._pending.discard(replica.name)

    def evidence(self, change: Transaction, key: str) -> Mapping[str, Any] | None:
        """What a revert was decided on: as its audit says, or its latch where it has changed no row."""
        told = next((e.why.evidence for e in change.audited if e.key == key and e.kind == "Lower"), None)
        before, after = change.before.ledgers.get(key), change.after.ledgers.get(key)
        if told is not None or before is None or after is None or before.ledger.latch is not None:
            return told
        return after.ledger.latch.cause.to_json() if after.ledger.latch is not None else None

    def wrong_with_raise(self, change: Transaction, key: str, plan: Plan, past: Past) -> Iterator[tuple[str, str]]:
        new = change.after.ledgers[key].ledger
        if self._known.get((change.who, new.uid)) == new.attempt:
            yield "S2", f"{change.who} raised {key} in the attempt that it has reverted"
        yield from raising.check(self, change, key, plan, past)

    # What happens.

    def report(self, invariant: str, text: str) -> None:
        """The first is what a run fails with."""
        self.world.note("VIOLATION", f"{invariant}: {text}")
        if self.violation is None:
            self.violation = invariant, text
            self.world.stop()

    def met(self, fault: str, phase: str) -> None:
        self.pairs[fault, phase] += 1

    def committed(self, change: Transaction) -> None:
        by_operator = change.who.startswith("op-")
        if by_operator:
            self.world.note(change.who, change.what)
        for invariant, text in transactions.check(self, change) if by_operator else transactions.by_others(change):
            self.report(invariant, text)
        if by_operator:
            self._count(change)
        for flag, (was, is_) in change.changed.items():
            self.world.note("row", f"{flag}: {was} -> {is_}")
            if not by_operator:
                self.edited_s[flag] = self.time_s()

    def _count(self, change: Transaction) -> None:
        if change.what not in ("checkpoint", "observe") or change.audited:
            self.writes += 1
        for key, row in change.after.ledgers.items():
            if change.before.ledgers.get(key) is row:
                continue
            self.history.setdefault(key, []).append((self.time_s(), row))
            if change.what.startswith("lower "):
                self.lowered[key] += 1
            if change.what.startswith("open "):
                self.opened.add(row.ledger.uid)
            for uid in change.after.actions.keys() - change.before.actions.keys():
                self.applied[uid] = row.ledger.uid, row.ledger.attempt

    def stored(self, plural: str, event: str, obj: Object) -> None:
        """An object as the API server has it now."""
        if plural != ROLLOUTS:
            return
        status, uid, generation = obj["status"], obj["metadata"]["uid"], obj["metadata"]["generation"]
        generations = self._generations_s.setdefault(uid, {})
        if event == "DELETED":
            generations.setdefault(math.inf, self.time_s())
            return
        generations.setdefault(generation, self.time_s())
        if "deletionTimestamp" in obj["metadata"]:
            self._deleted_in.setdefault(uid, generation)
        self.writes += 1
        seen = status.get("observedGeneration", -1)
        if status and status.get("planHash") != "v1:forged":
            if seen < self._generations.get(uid, -1):
                self.report("S12", f"observedGeneration went from {self._generations[uid]} to {seen}")
            self._generations[uid] = max(seen, self._generations.get(uid, -1))
            self.said(json.dumps(status, sort_keys=True))

    def misled(self, replica: Replica) -> None:
        """It was given an old version of an object."""
        self._misled_s[replica.name] = self.time_s()

    def read(self, replica: Replica) -> None:
        self.read_s[replica.name] = self.time_s()
        self.read_rows[replica.name] = dict(self.world.database.tables.flags)

    def answered(self, replica: Replica, what: str, result: Any) -> None:
        """A transaction's answer has come. Who opens a ledger row goes on from what the database has of the looks."""
        if what.startswith("open "):
            name = result.key.rpartition("/")[2]
            for known in [at for at in self._answers if at[:2] == (replica.name, name)]:
                del self._answers[known]
        if what.startswith(("lower part", "lower flags only")):
            self._pending.add(replica.name)
        elif what.startswith("lower "):
            self._pending.discard(replica.name)
            if result.latch is not None:
                self._known[replica.name, result.uid] = result.attempt

    def unanswered(self, replica: Replica, what: str) -> None:
        if what.startswith("lower "):
            self._pending.add(replica.name)

    def died(self, replica: Replica) -> None:
        self._pending.discard(replica.name)
        self.deaths_s.append(self.time_s())

    def looked(self, replica: Replica, rollout: str, look: Look) -> None:
        self.looks[rollout].setdefault(look.metric, []).append(look)
        self.answered_s.setdefault((rollout, look.metric, look.window), self.time_s())
        self._answers.setdefault((replica.name, rollout, look.metric), []).append((self.time_s(), look))

    def checked(self, replica: Replica, rollout: str, answer: CheckAnswer) -> None:
        pass

    def read_object(self, replica: Replica, name: str, found: Mapping[str, Any] | None) -> None:
        if found is not None and "deletionTimestamp" in found["metadata"]:
            self._deletion_seen_s.setdefault((replica.name, found["metadata"]["uid"]), self.time_s())

    def delivered(self, replica: Replica, obj: Object) -> None:
        self.read_object(replica, obj["metadata"]["name"], obj)

    def asked(self, rollout: str, action: Object) -> None:
        self.actions[action["metadata"]["uid"]] = action

    def said(self, text: str) -> None:
        if SECRET in text:
            self.report("S17", "a secret was said")
