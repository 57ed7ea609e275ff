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
PAUSED = "Paused"
AWAITING_APPROVAL = "AwaitingApproval"
AWAITING_CONFIRMATION = "AwaitingConfirmation"
CHECK_FAILED = "CheckFailed"
CHECK_UNANSWERED = "CheckUnanswered"
RELEASED = "Released"
ABANDONED = "Abandoned"

# Why it does not advance.
AWAITING_LOOK = "AwaitingLook"
AWAITING_WINDOW = "AwaitingWindow"
AWAITING_ROLLOUT = "AwaitingRollout"
DEPENDENCY_CYCLE = "DependencyCycle"
STAGE_OVERDUE = "StageOverdue"
EVIDENCE_AGAINST = "EvidenceAgainst"
HOLD_ACTION = "HoldAction"
GUARDS_BLIND = "GuardsBlind"
GLOBAL_INCIDENT = "GlobalIncident"
AWAITING_REFERENCE = "AwaitingReference"
SAMPLE_RATIO_MISMATCH = "SampleRatioMismatch"
GUARD_TOO_TIGHT = "GuardTooTight"
NO_TRAFFIC = "NoTraffic"
NOT_IN_EFFECT = "NotInEffect"
PLAN_CHANGED = "PlanChanged"
MANUAL_CHANGE = "ManualChange"
FLAG_MISSING = "FlagMissing"
NOT_LEADING = "NotLeading"
INVARIANT_VIOLATED = "InvariantViolated"

# What became of a RolloutAction.
APPROVED = "Approved"
CONFIRMED = "Confirmed"
PROMOTED = "Promoted"
RESUMED = "Resumed"
ADOPTED = "Adopted"
NOT_YET = "NotYet"
ROLLOUT_MISSING = "RolloutNotFound"
EXPIRED = "Expired"
INVALID_ACTION = "InvalidAction"
PLAN_HASH_MISMATCH = "PlanHashMismatch"
STAGE_UNKNOWN = "StageUnknown"
STAGE_NOT_NEXT = "StageNotNext"
APPROVAL_NOT_NEEDED = "ApprovalNotNeeded"
ALREADY_APPROVED = "AlreadyApproved"
REQUESTER_UNKNOWN = "RequesterUnknown"
SERVICE_ACCOUNT_NOT_ALLOWED = "ServiceAccountNotAllowed"
CHECK_UNKNOWN = "CheckUnknown"
CHECK_NOT_CONFIRMABLE = "CheckNotConfirmable"
ALREADY_CONFIRMED = "AlreadyConfirmed"
ALREADY_PAUSED = "AlreadyPaused"
NOT_PAUSED = "NotPaused"
DRIFT_TOO_EXPOSED = "DriftTooExposed"
NOTHING_TO_PROMOTE = "NothingToPromote"
NOTHING_TO_RETRY = "NothingToRetry"
NOTHING_TO_ADOPT = "NothingToAdopt"

# What it did by itself.
FLAGS_DISABLED = "FlagsDisabled"
PERCENTAGE_REDUCED = "PercentageReduced"
RESTRICTED_TO_GROUPS = "RestrictedToGroups"
ROLLED_BACK = "RolledBack"
REARMED = "Rearmed"
REVERT_RESTORED = "RevertRestored"
SESSION_INTERRUPTED = "SessionInterrupted"
AS_PLANNED = "AsPlanned"
STORE_USABLE = "StoreUsable"
PROVIDER_USABLE = "ProviderUsable"
PROVIDER_UNUSABLE = "ProviderUnusable"
GUARDS_WATCHING = "GuardsWatching"
ALL_FIELDS_IN_EFFECT = "AllFieldsInEffect"

# What a person must mend.
INVALID_PLAN = "InvalidPlan"
LEDGER_MISSING = "LedgerMissing"
LOCK_TIMEOUT = "LockTimeout"
STORE_NOT_FOUND = "StoreNotFound"
SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105 - a reason, not a secret
CONFIG_MAP_NOT_FOUND = "ConfigMapNotFound"
READER_MISSING = "ReaderMissing"

DESCRIPTIONS: dict[str, str] = {
    PENDING: "The rollout has been seen and nothing was done yet; something that it names may still be on its way.",
    STAGE_ENTERED: "A stage began: its flags are as the plan says.",
    BAKING: "The stage collects healthy time.",
    GATE_NOT_PASSED: "The bake is over and a gate is not passed; the rollout holds until it is.",
    COMPLETED: "Every stage is in, baked and gated; the guards have ended.",
    SUSPENDED: "`spec.suspend` is true: nothing is raised, guards may still lower.",
    HOLD_AT: "The stage that `spec.holdAt` names is reached or passed.",
    PAUSED: "A person has paused the rollout: nothing is raised until Resume, guards may still lower.",
    AWAITING_APPROVAL: "The next stage needs the approval of people.",
    AWAITING_CONFIRMATION: "A check must be confirmed by a person.",
    CHECK_FAILED: "A check is not passed: SQL is asked again; a Job that failed holds until it is repeated.",
    CHECK_UNANSWERED: "A check is being asked, its Job runs, or it could not be asked; nothing begins before.",
    APPROVED: "A person's approval of a stage was counted.",
    CONFIRMED: "A check was confirmed by a person.",
    PROMOTED: "A person has ended the bake and the gates of a stage.",
    RESUMED: "A person has ended a pause or a hold, or has accepted rows that were changed by hand.",
    ADOPTED: "A person has given an earlier rollout's place in the ledger to this one.",
    NOT_YET: "The action waits for its stage or check to be next; after 24 hours it expires.",
    ROLLOUT_MISSING: "The action names a rollout that does not exist; after 24 hours it expires.",
    EXPIRED: "The action could not be applied within 24 hours.",
    INVALID_ACTION: "The action is not what its kind demands.",
    PLAN_HASH_MISMATCH: "The action names another plan hash than the plan has now: it was made for another plan.",
    STAGE_UNKNOWN: "The plan, or the rollout that `after` names, has no stage of that name.",
    STAGE_NOT_NEXT: "The action is for a stage that the rollout is past, or not in.",
    APPROVAL_NOT_NEEDED: "The stage does not ask for an approval.",
    ALREADY_APPROVED: "The same person has approved of the stage already; nobody is counted twice.",
    REQUESTER_UNKNOWN: "Nothing says who made the action, and it needs a person.",
    SERVICE_ACCOUNT_NOT_ALLOWED: "A service account has made the action, and it needs a person.",
    CHECK_UNKNOWN: "No check of that name is asked now.",
    CHECK_NOT_CONFIRMABLE: "The check is answered by the database or by a Job, and not by people.",
    ALREADY_CONFIRMED: "The check was confirmed already.",
    ALREADY_PAUSED: "The rollout is paused already.",
    NOT_PAUSED: "There is no pause, no hold and no change by hand that Resume could end.",
    DRIFT_TOO_EXPOSED: "A row was changed by hand to more than the plan has by now; Resume does not accept that.",
    NOTHING_TO_PROMOTE: "There is no bake that Promote could end.",
    NOTHING_TO_RETRY: "Nothing was rolled back that Retry could begin again.",
    NOTHING_TO_ADOPT: "The rollout has its own place in the ledger.",
    RELEASED: "The rollout was deleted: rows are what `onDelete` says, and ownership is given up.",
    ABANDONED: "The rollout was deleted with the abandon annotation: the database was not touched.",
    AWAITING_LOOK: "A guard has not been looked at yet in this attempt; nothing is raised before.",
    AWAITING_WINDOW: "The calendar is closed: the next stage begins when it opens. A revert does not wait for it.",
    AWAITING_ROLLOUT: "The next stage waits for another rollout, which has not passed the stage that `after` names.",
    DEPENDENCY_CYCLE: "Rollouts wait for each other in a circle, so that none of them can go on; the message has it.",
    STAGE_OVERDUE: "A stage has not passed its bake and its gates within its `deadline`; the message says why.",
    EVIDENCE_AGAINST: "A guard has evidence of 20 or more: no proof of a breach, but too much to go on.",
    HOLD_ACTION: "A row whose action is Hold is breached.",
    GLOBAL_INCIDENT: "A guard is past its limit, and so are the users without the flags: the rollout holds.",
    AWAITING_REFERENCE: "The seven days before the first raise are read, which the guards are compared with.",
    GUARD_TOO_TIGHT: "A guard would have fired without any rollout: loosen it, or confirm the check guards-quiet.",
    SAMPLE_RATIO_MISMATCH: "Users are not split as planned: find out why, or confirm the check sample-ratio.",
    GUARDS_BLIND: "A guard cannot be evaluated; nothing is raised, and nothing is reverted unless `onBlind` says so.",
    NO_TRAFFIC: "A guard's metric has had no data for longer than three intervals; healthy time does not count.",
    NOT_IN_EFFECT: "The plan demands something that this version cannot do; it waits instead of skipping it.",
    PLAN_CHANGED: "A stage that was already entered was edited; the rollout holds.",
    MANUAL_CHANGE: "Somebody else changed a flag's row; what becomes of the rollout is up to the store's `onDrift`.",
    FLAG_MISSING: "A flag has no row in the table; rows are never created.",
    NOT_LEADING: "The replica does not hold the Lease: it measures and lowers, and raises nothing.",
    INVARIANT_VIOLATED: "A decision would have broken an invariant and was not carried out; please report it.",
    FLAGS_DISABLED: "A breached row or a person disabled flags.",
    PERCENTAGE_REDUCED: "A breached row or a person reduced flags.",
    RESTRICTED_TO_GROUPS: "A breached row restricted flags to groups.",
    ROLLED_BACK: "Exposure was taken back and stays back until Retry, or until the plan is changed.",
    REVERT_RESTORED: "A revert that the database had lost, as in a failover that loses commits, was made again.",
    SESSION_INTERRUPTED: "A session whose locks kept exposure from being lowered was cancelled or ended.",
    REARMED: "Another plan, or a Retry, cleared the latch of an earlier revert; a new attempt begins.",
    AS_PLANNED: "The rows are what the plan says they shall be now.",
    STORE_USABLE: "The database can be reached, and its flag table and bookkeeping are as they should be.",
    PROVIDER_USABLE: "The metric back end answers queries.",
    PROVIDER_UNUSABLE: "The metric back end does not answer a query; metrics that need it are blind.",
    GUARDS_WATCHING: "Every guard can be evaluated.",
    ALL_FIELDS_IN_EFFECT: "Every field of the plan has an effect in this version.",
    INVALID_PLAN: "The plan contradicts itself or what it refers to.",
    LEDGER_MISSING: "The rollout has no row in the ledger; it is opened again.",
    STORE_NOT_FOUND: "`spec.storeRef` names no FlagStore of this namespace.",
    SECRET_NOT_FOUND: "A Secret, or a key in it, does not exist.",
    CONFIG_MAP_NOT_FOUND: "A ConfigMap, or a key in it, does not exist.",
    READER_MISSING: "A SQL metric is bound and the FlagStore names no reader.",
    # From here on: said by the API, the store and the shell, whose constants stand beside what says them.
    "MatrixNotFound": "`spec.matrixRef` names no RollbackMatrix of this namespace.",
    "TemplateNotFound": "A `templateRef` names no MetricTemplate of this namespace.",
    "ProviderNotFound": "A `providerRef` names no MetricProvider of the cluster.",
    "ProviderNotAllowed": "A MetricProvider does not allow the rollout's namespace.",
    "MetricUnbound": "A clause or a gate names a metric that the rollout does not bind: a guard that would never fire.",
    "LimitMismatch": "A limit does not fit its metric: a Ratio wants a percentage, a Gauge a plain number.",
    "GaugeTooSlow": "A Gauge is in a row whose deadline is too short to judge it.",
    "DecreaseTooLarge": "A relative decrease is of 100 % or more, which can never be.",
    "IncreaseTooSmall": "A relative increase is so small that healthy days differ by more.",
    "DuplicateClause": "A row has the same clause twice.",
    "SettleTooLong": "A row's `settle` is longer than a revert may be kept waiting.",
    "FlagUnknown": "A row acts on a flag that no stage names.",
    "CalendarInvalid": "The calendar names a time zone or a day that there is not.",
    "TooManyFlags": "The plan names more flags than one rollout may have.",
    "ArgumentMissing": "A template's argument has no value.",
    "ArgumentUnknown": "A value is given for an argument that the template does not have.",
    "ArgumentMisplaced": "An argument stands outside of a quoted string in PromQL.",
    "ConnectionInvalid": "A connection string cannot be used.",
    "AddressDenied": "The database's host is where the operator's settings forbid to connect to.",
    "TlsFailed": "The database server's certificate, or its TLS, is not what the connection string demands.",
    "StoreUnreachable": "The database server does not answer.",
    "StoreBusy": "Every connection to the database is in use.",
    "StoreError": "The database refused what was asked; the SQLSTATE says why.",
    "AuthenticationFailed": "The database server refuses the role or its password.",
    "DatabaseMissing": "The database does not exist.",
    "TooManyConnections": "The database server has no connection left.",
    "PermissionDenied": "The role may not do what it has to; the message has the missing GRANT.",
    "TableMissing": "The flag table does not exist.",
    "ColumnMissing": "A mapped column does not exist in the flag table.",
    "ColumnType": "A mapped column has a type that cannot hold what it should.",
    "DiskFull": "The database server has no room left.",
    LOCK_TIMEOUT: "Another session holds a lock for too long.",
    "ReadOnly": "The server or the role is read-only.",
    "WriteRefused": "A constraint, trigger or policy refused the write.",
    "FlagAmbiguous": "A flag has more than one row.",
    "FlagRowInvalid": "A flag's row means nothing: a NULL, or a percentage out of range.",
    "FlagWriteAltered": "A trigger, policy or type made something else of a write; it was undone.",
    "PercentageNotWhole": "A percentage has more decimal places than its column.",
    "Conflict": "Another rollout owns a flag; nothing was written.",
    "FlagKilled": "A flag was switched off with `featurerollout kill`; no rollout enables it until that is lifted.",
    "AdoptionPending": "An earlier object of the same name may still be served; it is taken over when it is silent.",
    "AdoptionRequired": "An earlier rollout of the same name, with another plan, was never ended.",
    "ReleasedByHand": "A person gave a rollout's flags up with `featurerollout store release`.",
    "WriterActive": "A rollout that is to be released by hand is still being served.",
    "RevertBlocked": "Rows that must be lowered are locked by another session; all others were lowered.",
    "AuditDelayed": "Exposure was lowered, and its record follows when the database has room for it.",
    "BookkeepingMissing": "The schema `feature_rollout` is not installed, or not whole.",
    "BookkeepingTooNew": "The schema `feature_rollout` is of a newer version of the operator.",
    "ApiServerUnavailable": "The API server does not answer; nothing is raised meanwhile.",
    "ApiServerForbidden": "RBAC or an admission policy keeps the operator from what it must do.",
}
