"""One rollout, one fault, and what must hold afterwards; a table of all of them at the end of the run."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

from support.audit import REVERTS, Row
from support.invariants import History, check
from support.manifests import ROLLOUT, A, B, Object, rollout, stage, store
from support.operatorprocess import Operator
from support.waiting import wait_for
from support.witness import Witness
from support.world import World

FINDING = "chaos"
EVERYONE: frozenset[str] = frozenset()
OFF: Row = (False, 0, EVERYONE)
TEN: Row = (True, 10, EVERYONE)
HALF: Row = (True, 50, EVERYONE)
REVERTED: Row = (False, 50, EVERYONE)
DISABLED: Row = (False, 100, EVERYONE)
# A first stage that is soon over, and one in which harm is found.
STAGES = [stage("ten", 10), stage("half", 50, "60s")]
INTERVAL = timedelta(seconds=1)
# Thrice what invariants.md allows, because these machines are slow and the figures are printed anyway.
START_BOUND_S = 60.0
STORE_BOUND_S = 30.0
LOCK_BOUND_S = 45.0

FRAME = (
    "SELECT f.name, CASE WHEN name <> ALL(%s) THEN f::text || f.xmin ELSE f.description END AS kept "
    "FROM feature_flags f ORDER BY name"
)
NEWEST = "SELECT coalesce(max(id), 0) AS id FROM notifications"
MEASURED = (
    "SELECT (SELECT md5(string_agg(n::text, ',' ORDER BY id)) FROM notifications n WHERE id <= %s) AS deliveries, "
    "(SELECT count(*) FROM feature_flag_usage) AS uses"
)


class Story:
    """`begin`, a fault, `fault_over`, `wait_reverted` or another end, `tell`.

    The time to the revert is counted from the end of the first bad window, or from the end of the fault where that
    is later, to the commit.
    """

    def __init__(
        self, world: World, operator: Operator, witness: Witness, record: Callable[[str, object], None]
    ) -> None:
        self.world = world
        self.operator = operator
        self.witness = witness
        self._record = record
        self._stages: dict[str, dict[str, Row]] = {}
        self._fault_over_at: datetime | None = None
        self._deleted_at: datetime | None = None
        self._left: dict[str, Row] | None = None
        self._frame = world.database.query(FRAME, [A, B])
        self._newest = world.database.query(NEWEST)[0]["id"]
        self._measured = self._digest()

    # What happens.

    def begin(self, stages: Sequence[Object] = STAGES, **spec: Any) -> None:
        """Apply the rollout; the operator is started by `start`, or dies in `killed_around`."""
        self.world.apply(store(), rollout(stages=self.planned(stages), **spec))

    def edit(self, stages: Sequence[Object]) -> None:
        self.world.edit_spec(stages=self.planned(stages))

    def planned(self, stages: Sequence[Object]) -> list[Object]:
        """The stages of a rollout, whose exposure is allowed from now on; no two rollouts' have one name."""
        for one in stages:
            [entry] = one["flags"]
            row = (True, entry["percentage"], frozenset(entry.get("groups", ())))
            self._stages[one["name"]] = dict.fromkeys(entry["names"], row)
        return list(stages)

    def start(self) -> None:
        self.operator.start()

    def wait_half(self, timeout_s: float = START_BOUND_S) -> None:
        """In the stage in which harm is let in, and seen to be well."""
        for flag in (A, B):
            self.world.wait_row(flag, HALF, timeout_s)
        self.operator.wait_looks(1, verdict="Pass")

    def harm(self) -> None:
        self.world.traffic.failed = 0.3

    def delete(self, left: dict[str, Row]) -> None:
        """Delete the rollout, whose `onDelete` leaves these rows."""
        self._deleted_at, self._left = datetime.now(UTC), left
        self.world.delete("FeatureRollout", ROLLOUT)

    def killed_around(self, places: tuple[str, str]) -> None:
        """The operator dies at one place, is started and dies at the other, and is started again."""
        for place in places:
            self.operator.kill()
            self.operator.start(failpoints=[place], ready=False)
            self.operator.wait_until_dead(START_BOUND_S)
        self.fault_over()
        self.operator.start()

    def fault_over(self) -> None:
        self._fault_over_at = datetime.now(UTC)

    def wait_reverted(self, timeout_s: float, row: Row = REVERTED) -> None:
        for flag in (A, B):
            self.world.wait_row(flag, row, timeout_s)
        self.world.wait_condition("RolledBack", "True", "RolledBack", timeout_s=timeout_s)

    def wait_completed(self, timeout_s: float = START_BOUND_S) -> None:
        self.world.wait_condition("Completed", "True", "Completed", timeout_s=timeout_s)

    def wait_gone(self, timeout_s: float = START_BOUND_S) -> None:
        wait_for(lambda: self.world.get("FeatureRollout", ROLLOUT) is None, timeout_s, "the end of the rollout")

    def note(self, what: str, seconds: float) -> None:
        """Have the table say how long something else took."""
        self._record(FINDING, (what, 0, seconds))

    # What came of it.

    def tell(self, fault: str, bound_s: float | None = None) -> None:
        """Check every invariant, and have the table say how long the revert took, which may be this long."""
        found = check(self.history())
        seconds = self.seconds_to_revert()
        self._record(FINDING, (fault, len(found), seconds))
        assert found == []
        if bound_s is not None:
            assert seconds is not None, "nothing was reverted"
            assert seconds <= bound_s

    def history(self) -> History:
        world = self.world
        audit, rows = world.audit(), world.rows()
        ledgers = world.database.query("SELECT * FROM feature_rollout.ledger")
        wait_for(lambda: self.witness.seen[-1][1] == rows, 30.0, "the witness to see the last change")
        outbox = world.database.query("SELECT * FROM feature_rollout.outbox")
        written = json.dumps([audit, ledgers, outbox], default=str)
        return History(
            audit=audit,
            baseline=world.baseline,
            rows=rows,
            stages=self._stages,
            targets={"FlagsDisabled": DISABLED, "RevertRestored": DISABLED},
            ledgers=ledgers,
            ownership=world.database.query("SELECT * FROM feature_rollout.ownership"),
            seen=[seen for _, seen in self.witness.seen],
            frame=(self._frame, world.database.query(FRAME, [A, B])),
            measured=(self._measured, self._digest()),
            said=self.operator.log_text + world.everything_said() + written,
            secrets=world.passwords(),
            deleted_at=self._deleted_at,
            left=self._left,
        )

    def seconds_to_revert(self) -> float | None:
        """From when it could first be known to when the last flag was lowered; None when nothing was."""
        reverts = [entry for entry in self.world.audit() if entry["reason"] in REVERTS]
        if not reverts:
            return None
        known_at = min(datetime.fromisoformat(entry["evidence"]["onsetAt"]) for entry in reverts) + INTERVAL
        # Where the record of a revert follows later, a reader has seen it before.
        rows = self.world.rows()
        seen_at = self.witness.since({flag: rows[flag] for flag in {entry["flag"] for entry in reverts}})
        done_at = min(filter(None, (seen_at, max(entry["at"] for entry in reverts))))
        over_at = self._fault_over_at
        begun_at = over_at if over_at is not None and known_at < over_at <= done_at else known_at
        return max(0.0, (done_at - begun_at).total_seconds())

    def _digest(self) -> object:
        return self.world.database.query(MEASURED, self._newest)


def table(reports: Sequence[Any]) -> list[str]:
    """Lines for the end of a test run, from what stories have told."""
    found: dict[str, list[tuple[int, float | None]]] = defaultdict(list)
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if name == FINDING and report.when == "call":
                fault, *numbers = value
                found[fault].append(tuple(numbers))
    if not found:
        return []
    lines = [f"{'fault':52} {'times':>5} {'violations':>10} {'p50 s to revert':>15} {'max s':>6}"]
    for fault, told in sorted(found.items()):
        seconds = [one for _, one in told if one is not None]
        times = f"{median(seconds):15.2f} {max(seconds):6.2f}" if seconds else f"{'-':>15} {'-':>6}"
        lines.append(f"{fault:52} {len(told):5} {sum(broken for broken, _ in told):10} {times}")
    return lines
