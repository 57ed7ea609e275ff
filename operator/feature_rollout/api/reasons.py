"""Why a plan is invalid: the reasons of conditions and Events, each a documented constant."""

from __future__ import annotations

from typing import Final

MATRIX_NOT_FOUND: Final = "MatrixNotFound"
TEMPLATE_NOT_FOUND: Final = "TemplateNotFound"
PROVIDER_NOT_FOUND: Final = "ProviderNotFound"
# A MetricProvider that this namespace may not ask.
PROVIDER_NOT_ALLOWED: Final = "ProviderNotAllowed"
# A clause or a gate names a metric that the rollout does not bind: a guard that would never fire.
METRIC_UNBOUND: Final = "MetricUnbound"
# A percentage on a Gauge, or a plain number on a Ratio.
LIMIT_MISMATCH: Final = "LimitMismatch"
# A gauge in a row whose deadline is too short to judge it.
GAUGE_TOO_SLOW: Final = "GaugeTooSlow"
# A relative increase so small that days differ by more.
INCREASE_TOO_SMALL: Final = "IncreaseTooSmall"
# The same clause twice in a row.
DUPLICATE_CLAUSE: Final = "DuplicateClause"
SETTLE_TOO_LONG: Final = "SettleTooLong"
# A row acts on a flag that no stage names.
FLAG_UNKNOWN: Final = "FlagUnknown"
CALENDAR_INVALID: Final = "CalendarInvalid"
TOO_MANY_FLAGS: Final = "TooManyFlags"
# A template's argument without a value, or a value without an argument.
ARGUMENT_MISSING: Final = "ArgumentMissing"
ARGUMENT_UNKNOWN: Final = "ArgumentUnknown"
# An argument in PromQL that is not in a quoted string.
ARGUMENT_MISPLACED: Final = "ArgumentMisplaced"
DECREASE_TOO_LARGE: Final = "DecreaseTooLarge"
