"""People who do what the rollout waits for, each time they look: approve, confirm, resume, retry, mend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feature_rollout.core.plan import Plan
from simulation.meddling import act, spec_of
from simulation.trace import Seconds
from simulation.traffic import Kind

if TYPE_CHECKING:
    from simulation.world import World

LOOK_S: Seconds = 20.0
# A second word for what needs two people.
PEOPLE = ("alice", "bob", "carol")


class Helper:
    """`help` once for each look. `thorough` people also retry after a revert, and mend what others have broken."""

    def __init__(self, world: World, rollout: str) -> None:
        self._world = world
        self._rollout = rollout
        self._turn = 0
        self.retries = 0
        self._put_back = 0
        self._vain = 0

    def help(self, *, thorough: bool) -> None:
        world, rollout = self._world, self._rollout
        found = world.rollout(rollout)
        if found is None or "deletionTimestamp" in found["metadata"]:
            return
        if thorough and self._mended(found["spec"]):
            return
        plan = world.plans.get(found["spec"]["plan"])
        status = found["status"]
        if plan is None or status.get("observedGeneration") != found["metadata"]["generation"]:
            return
        ready = next((c for c in status.get("conditions", ()) if c["type"] == "Stalled"), {})
        self._do(status, ready.get("reason", ""), plan, thorough=thorough)

    def _mended(self, spec: dict[str, Any]) -> bool:
        """Put the manifest in order, and rows that are gone."""
        world, rollout = self._world, self._rollout
        wanted = {key: value for key, value in spec.items() if key not in ("suspend", "holdAt")}
        if spec["plan"].endswith("-bad"):
            wanted["plan"] = f"{rollout}-1"
        for flag in world.script.flags[rollout]:
            if flag not in world.database.tables.flags:
                world.edit("alice", flag, self._expected(flag) or world.script.rows[flag])
        if wanted == spec:
            return False
        world.cluster.apply(rollout, wanted)
        return True

    def _expected(self, flag: str) -> Any:
        row = self._world.database.tables.ledgers.get(self._world.key(self._rollout))
        return row.ledger.written.get(flag, row.ledger.baseline.get(flag)) if row is not None else None

    def _do(self, status: dict[str, Any], reason: str, plan: Plan, *, thorough: bool) -> None:
        phase = status.get("phase")
        if phase == "AwaitingApproval":
            stage = status.get("next", {}).get("action", "").removeprefix("Advance to ")
            self._act("Approve", stage=stage, planHash=status.get("planHash"))
        elif reason == "AwaitingConfirmation":
            named = [check.name for check in plan.preflight] + ["on-call"]
            self._act("Confirm", check=named[self._turn % len(named)], planHash=status.get("planHash"))
        elif reason in ("GuardTooTight", "SampleRatioMismatch"):
            check = "guards-quiet" if reason == "GuardTooTight" else "sample-ratio"
            self._act("Confirm", check=check, planHash=status.get("planHash"))
        elif reason == "AdoptionRequired":
            self._act("Adopt")
        elif thorough and any(
            "begin another attempt" in words for words in status.get("next", {}).get("waitingFor", ())
        ):
            self._act("RollBack", reason="its past is missing")
        elif phase == "Paused":
            self._resume(reason, thorough=thorough)
        elif phase == "Held" and _is_held_by_evidence(status, reason) and thorough and not self._is_harmed():
            # What a test without events has against a rollout stays: then another attempt is the way on.
            self._vain += 1
            self._act("Resume" if self._vain % 10 else "RollBack")
        elif "put it back, or delete" in str(status.get("next")) and thorough:
            self._put_plan_back()
        elif phase == "Gating" and thorough and self._rollout not in self._world.witness.passing_s:
            self._act("Promote")
        elif phase == "RolledBack" and not self._is_harmed() and (thorough or self._world.random.random() < 0.3):
            self.retries += 1
            self._act("Retry")
        self._turn += 1

    def _put_plan_back(self) -> None:
        """One version after the other; when stages were entered by several of them, it is deleted."""
        world, rollout = self._world, self._rollout
        numbers = ("1", "2", "4")
        self._put_back += 1
        if self._put_back > len(numbers):
            world.cluster.delete(rollout)
            return
        world.cluster.apply(rollout, spec_of(world, rollout) | {"plan": f"{rollout}-{numbers[self._put_back - 1]}"})

    def _resume(self, reason: str, *, thorough: bool) -> None:
        if reason == "ManualChange" and (thorough or self._world.random.random() < 0.5):
            flags = self._world.database.tables.flags
            for flag in self._world.script.flags[self._rollout]:
                expected = self._expected(flag)
                if expected is not None and flags.get(flag) != expected:
                    self._world.edit("alice", flag, expected)
        elif reason != "Suspended":
            self._act("Resume")

    def _is_harmed(self) -> bool:
        now = self._world.now()
        spells = self._world.traffic[self._rollout].spells
        return any(spell.kind is Kind.HARM and spell.end >= now for spell in spells)

    def _act(self, kind: str, **fields: Any) -> None:
        spec = {"type": kind, "requestedBy": PEOPLE[self._turn % len(PEOPLE)], **fields}
        act(self._world, self._rollout, {key: value for key, value in spec.items() if value is not None})


def _is_held_by_evidence(status: dict[str, Any], reason: str) -> bool:
    """A stage that takes too long says first that it does, and then why."""
    if reason == "StageOverdue":
        return any("until there is no evidence" in condition["message"] for condition in status["conditions"])
    return reason in ("HoldAction", "EvidenceAgainst")
