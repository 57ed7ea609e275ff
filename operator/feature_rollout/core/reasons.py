"""Every reason that a condition, an Event or a decision may give, and what it means.

They are an interface: people alert on them. The reference page is made from here.
"""

from __future__ import annotations

# Where the rollout is.
PENDING = "Pending"
STAGE_ENTERED = "StageEntered"
BAKING = "Baking"
GATE_NOT_PASSED = "GateNotPassed"
COMPLETED = "Completed"
SUSPENDED = "Suspended"
HOLD_AT = "HoldAt"
RELEASED = "Released"

# Why it does not advance.
EVIDENCE_AGAINST = "EvidenceAgainst"
HOLD_ACTION = "HoldAction"
GUARDS_BLIND = "GuardsBlind"
NO_TRAFFIC = "NoTraffic"
NOT_IN_EFFECT = "NotInEffect"
PLAN_CHANGED = "PlanChanged"
MANUAL_CHANGE = "ManualChange"
FLAG_MISSING = "FlagMissing"
INVARIANT_VIOLATED = "InvariantViolated"

# What it did by itself.
FLAGS_DISABLED = "FlagsDisabled"
PERCENTAGE_REDUCED = "PercentageReduced"
RESTRICTED_TO_GROUPS = "RestrictedToGroups"
ROLLED_BACK = "RolledBack"
REARMED = "Rearmed"
AS_PLANNED = "AsPlanned"
GUARDS_WATCHING = "GuardsWatching"
ALL_FIELDS_IN_EFFECT = "AllFieldsInEffect"

# What a person must mend.
INVALID_PLAN = "InvalidPlan"
STORE_NOT_FOUND = "StoreNotFound"
SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105 - a reason, not a secret
READER_MISSING = "ReaderMissing"

DESCRIPTIONS: dict[str, str] = {
    PENDING: "The rollout has been seen and nothing was done yet.",
    STAGE_ENTERED: "A stage began: its flags are as the plan says.",
    BAKING: "The stage collects healthy time.",
    GATE_NOT_PASSED: "The bake is over and a gate is not passed; the rollout holds until it is.",
    COMPLETED: "Every stage is in, baked and gated; the guards have ended.",
    SUSPENDED: "`spec.suspend` is true: nothing is raised, guards may still lower.",
    HOLD_AT: "The stage that `spec.holdAt` names is reached.",
    RELEASED: "The rollout was deleted: rows are what `onDelete` says, and ownership is given up.",
    EVIDENCE_AGAINST: "A guard has evidence of 20 or more: no proof of a breach, but too much to go on.",
    HOLD_ACTION: "A row whose action is Hold is breached.",
    GUARDS_BLIND: "A guard cannot be evaluated; nothing is raised and nothing is reverted.",
    NO_TRAFFIC: "A guard's metric has no data; healthy time does not count.",
    NOT_IN_EFFECT: "The plan demands something that this version cannot do; it waits instead of skipping it.",
    PLAN_CHANGED: "A stage that was already entered was edited; the rollout holds.",
    MANUAL_CHANGE: "Somebody else changed a flag's row; the operator leaves it alone.",
    FLAG_MISSING: "A flag has no row in the table; rows are never created.",
    INVARIANT_VIOLATED: "A decision would have broken an invariant and was not carried out; please report it.",
    FLAGS_DISABLED: "A breached row disabled flags.",
    PERCENTAGE_REDUCED: "A breached row reduced flags.",
    RESTRICTED_TO_GROUPS: "A breached row restricted flags to groups.",
    ROLLED_BACK: "Exposure was taken back and stays back until `Retry` or another plan.",
    REARMED: "Another plan cleared the latch of an earlier revert; a new attempt begins.",
    AS_PLANNED: "The rows are what the plan says they shall be now.",
    GUARDS_WATCHING: "Every guard can be evaluated.",
    ALL_FIELDS_IN_EFFECT: "Every field of the plan has an effect in this version.",
    INVALID_PLAN: "The plan contradicts itself or what it refers to.",
    STORE_NOT_FOUND: "`spec.storeRef` names no FlagStore of this namespace.",
    SECRET_NOT_FOUND: "A Secret, or a key in it, does not exist.",
    READER_MISSING: "A SQL metric is bound and the FlagStore names no reader.",
}
