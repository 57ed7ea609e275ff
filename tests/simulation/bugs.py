"""Bugs that somebody could make, each planted in the source that is simulated: the simulation must find them.

A bug of the store is planted in the store in memory, which the contract tests hold to the real one.
"""

from __future__ import annotations

from dataclasses import dataclass

CORE, RECONCILE, STORE = "feature_rollout.core", "feature_rollout.reconcile", "simulation.store"


@dataclass(frozen=True, slots=True)
class Bug:
    """`old` stands in the module's source just once, and `new` in its place is the bug."""

    name: str
    module: str
    old: str
    new: str


BUGS: tuple[Bug, ...] = (
    # The order on exposure.
    Bug(
        "join for meet: two lists of groups become their union",
        f"{CORE}.exposure",
        "groups = self.groups & other.groups if self.groups and other.groups else self.groups | other.groups",
        "groups = self.groups | other.groups",
    ),
    Bug(
        "an empty intersection of groups is written as everyone",
        f"{CORE}.exposure",
        "enabled, groups = False, self.groups",
        "groups = frozenset()",
    ),
    Bug(
        "the meet takes the greater percentage",
        f"{CORE}.exposure",
        "min(self.percentage, other.percentage), groups",
        "max(self.percentage, other.percentage), groups",
    ),
    # Reverts.
    Bug(
        "PreviousStage is the stage that has done the harm",
        f"{CORE}.guards",
        "min(plan.previous_flag_stage(ledger.stage), plan.unchanged(ledger.executed) - 1)",
        "ledger.stage",
    ),
    Bug(
        "RestrictToGroups restricts to nobody in particular",
        f"{CORE}.guards",
        "return Exposure(True, FULL, action.groups)",
        "return Exposure(True, FULL)",
    ),
    Bug(
        "a revert forgets the flags that were raised before the present stage",
        f"{CORE}.guards",
        "flags = ledger.raised if action.flags is None",
        "flags = plan.stages[ledger.stage].flags if action.flags is None and ledger.stage >= 0",
    ),
    Bug(
        "harm is only seen while nothing holds",
        f"{CORE}.decide",
        "    ordered,\n    breached,\n    not_measured,\n    not_leading,\n    asked,\n    *STANDSTILL,\n",
        "    ordered,\n    not_leading,\n    asked,\n    *STANDSTILL,\n    breached,\n    not_measured,\n",
    ),
    Bug(
        "a row may not act in the attempts after the one in which it has",
        f"{CORE}.steps",
        "        acted=frozenset(),\n",
        "        acted=ledger.acted,\n",
    ),
    Bug(
        "the same manifest, applied again, arms a rollout that was rolled back",
        f"{CORE}.standstill",
        "if view.plan.spec_hash in (latch.spec_hash, view.ledger.spec_hash):",
        "if view.plan.spec_hash == latch.spec_hash and view.rows:",
    ),
    Bug(
        "a latch goes with any reconcile",
        f"{CORE}.standstill",
        "if view.plan.spec_hash in (latch.spec_hash, view.ledger.spec_hash):",
        "if view.ledger.sequence % 2:",
    ),
    Bug(
        "a revert that a failover has lost stays lost",
        f"{RECONCILE}.loop",
        "        lost = session.lost(view.ledger)\n        if lost is not None:\n            return",
        "        lost = None\n        if lost is not None:\n            return",
    ),
    Bug(
        "a revert that was not made whole is forgotten when its metric recovers",
        f"{RECONCILE}.loop",
        "return session.reverting[0] if session.reverting is not None else decision",
        "session.reverting = None\n        return decision",
    ),
    # Stages and baselines.
    Bug(
        "two stages are caught up in one step",
        f"{CORE}.steps",
        "    index = view.ledger.stage + 1\n",
        "    index = min(view.ledger.stage + 2, len(view.plan.stages) - 1)\n",
    ),
    Bug(
        "the baseline is taken anew with each stage",
        f"{CORE}.steps",
        "{**found, **view.ledger.baseline}",
        "{**view.ledger.baseline, **found}",
    ),
    Bug(
        "stages that were entered may be edited",
        f"{CORE}.standstill",
        "    latched,\n    edited,\n    row_missing,",
        "    latched,\n    row_missing,",
    ),
    # Evidence, bake, gates.
    Bug(
        "NaN passes",
        f"{CORE}.looks",
        "if number is not None and not math.isfinite(number):",
        "if number is not None and math.isinf(number):",
    ),
    Bug(
        "a guard that cannot be evaluated does not hold",
        f"{CORE}.decide",
        "    blind,\n    reference,",
        "    reference,",
    ),
    Bug(
        "a metric that nobody looks at any more stays healthy",
        f"{CORE}.guards",
        "if stale is not None and now > stale:",
        "if stale is not None and now < stale - stale_after(metric):",
    ),
    Bug(
        "an error in a look is no reason to hold",
        f"{CORE}.guards",
        "if measured.latest is not None and measured.latest.error is not None:",
        "if measured.latest is None:",
    ),
    Bug(
        "looks of an earlier stage count for the next one's gates",
        f"{CORE}.progress",
        "replace(progress, events=0.0, units=0.0, values=(), healthy=(), sample=(0.0, 0.0))",
        "replace(progress, healthy=(), sample=(0.0, 0.0))",
    ),
    Bug(
        "the bake of a stage begins with what the one before has baked",
        f"{CORE}.steps",
        "        entered_at=view.now,\n        baked=timedelta(0),\n",
        "        entered_at=view.now,\n        baked=view.progress.baked,\n",
    ),
    Bug(
        "the bake is what the clock says since the stage was entered",
        f"{CORE}.readiness",
        "if stage is None or view.progress.baked >= stage.bake or view.promotion is not None:",
        "since = view.ledger.entered_at\n"
        "    if stage is None or since is None or view.now - since >= stage.bake or view.promotion is not None:",
    ),
    Bug(
        "a look counts although nothing could be seen in it",
        f"{CORE}.progress",
        "seen = look.is_measured or (look.error is None and on_no_traffic is OnNoTraffic.COUNT)",
        "seen = True",
    ),
    Bug(
        "the bake is begun anew by every process",
        f"{RECONCILE}.gather",
        "            session.progress = _stored_progress(session, snapshot)\n",
        "            session.progress = None\n            ledger = replace(ledger, baked=ledger.baked * 0)\n",
    ),
    Bug("gates are not read", f"{CORE}.decide", "    baking,\n    gated,\n", "    baking,\n"),
    Bug(
        "a gate asks for no units",
        f"{CORE}.gates",
        "if units < max(gate.min_units, 1):",
        "if units < 1:",
    ),
    Bug(
        "a gate of `atMost` passes above, and not below",
        f"{CORE}.gates",
        "if gate.at_most is not None and value > gate.at_most.value:",
        "if gate.at_most is not None and value < gate.at_most.value:",
    ),
    # Other rollouts.
    Bug(
        "a stage waits for no other rollout",
        f"{CORE}.decide",
        "    not_approved,\n    not_passed,\n",
        "    not_approved,\n",
    ),
    Bug(
        "another rollout's stage counts as soon as it is entered",
        f"{CORE}.dependencies",
        "(evidence_against, sampled, blind, reference, unseen, no_traffic, baking, gated)",
        "()",
    ),
    Bug(
        "a rollout that is rolled back counts for what it has passed before",
        f"{CORE}.dependencies",
        "    for check in STANDSTILL:\n",
        "    for check in (over,):\n",
    ),
    # People.
    Bug(
        "an approval is by the name of the stage, whatever its plan",
        f"{CORE}.people",
        "return (self.uid, self.plan_hash) == (uid, plan_hash)",
        "return bool(uid and plan_hash)",
    ),
    Bug(
        "one approval is enough",
        f"{CORE}.clearance",
        "return max(stage.approval.required - len(approvers(view, stage)), 0) if stage.approval else 0",
        "return 0 if approvers(view, stage) or not stage.approval else 1",
    ),
    Bug("a person's Pause holds nothing", f"{CORE}.standstill", "    over,\n    paused,\n", "    over,\n"),
    Bug("spec.suspend holds nothing", f"{CORE}.standstill", "    paused,\n    suspended,\n)", "    paused,\n)"),
    Bug(
        "a row that somebody has changed is raised over",
        f"{CORE}.standstill",
        "    row_missing,\n    drifted,\n    over,",
        "    row_missing,\n    over,",
    ),
    Bug(
        "a raise does not look at the object once more",
        f"{RECONCILE}.loop",
        "if decision.verb is Verb.ADVANCE and not await self._still_wanted(target):",
        "if decision.verb is Verb.ADVANCE and self._clock is None:",
    ),
    # Deletion.
    Bug(
        "the finalizer goes before the flags are given up",
        f"{RECONCILE}.deletion",
        "        if not session.released:\n            try:",
        "        if not session.released and target.suspended:\n            try:",
    ),
    Bug(
        "onDelete: Restore leaves the rows as they are",
        f"{CORE}.reverts",
        "    elif on_delete is OnDelete.RESTORE:\n",
        "    elif on_delete is OnDelete.RESTORE and not ledger.written:\n",
    ),
    # The store.
    Bug(
        "the fence is dropped",
        STORE,
        "            or (row.ledger.epoch, row.ledger.sequence) != (wanted.epoch, wanted.sequence)\n",
        "",
    ),
    Bug(
        "the audit is written outside of the transaction, and lost with a crash",
        STORE,
        "            done = self._raise(change)\n        self.database.audit(after, operation, done, change.why)\n",
        "            done = self._raise(change)\n"
        "        if after.sequence % 3:\n            self.database.audit(after, operation, done, change.why)\n",
    ),
    Bug(
        "a raise does not see that a row was changed meanwhile",
        STORE,
        "        drifted = sorted(flag for flag, row in change.before.items() if flags[flag] != row)\n",
        "        drifted: list[str] = []\n",
    ),
    Bug(
        "the latch goes with the rollout's object",
        STORE,
        "        for flag, owner in self.database.tables.ownership.items():\n"
        "            if owner.key == key and owner.latch != latch:\n",
        "        for flag, owner in self.database.tables.ownership.items():\n"
        "            if owner.key == key and owner.latch != latch and latch is None:\n",
    ),
    Bug(
        "a flag goes to who claims it last",
        STORE,
        "if owner.key not in (None, claim.key)]",
        "if owner.key not in (None, claim.key, owner.key)]",
    ),
    Bug(
        "a revert writes its target, whatever the row is",
        STORE,
        "flags[flag] = after = lowering.lowered(before, to, exact=change.exact, scale=None)",
        "flags[flag] = after = to",
    ),
    Bug(
        "what was measured under an old epoch, or in another stage, is stored",
        STORE,
        "if (now.epoch, now.attempt, now.stage) != (one.epoch, one.attempt, stage):",
        "if (now.epoch, now.attempt, now.stage) == (-1, one.attempt, stage):",
    ),
    Bug(
        "who takes over a rollout takes over its approvals",
        f"{CORE}.people",
        "return replace(self, approvals={}, confirmations={}, promoted=None)",
        "return replace(self, promoted=None)",
    ),
)
