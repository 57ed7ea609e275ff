"""The rollout of the notification system's deployment guide, from its safe features to everything, and each severity.

The manifests are those of `examples/notifications/`, with seconds for days, and without the two stages before the
flags: this version runs no migrations. The API server has RBAC and the admission policies; people use the commands.

| what | how it goes on |
|---|---|
| nothing is wrong | every stage writes the guide's rows and no others; Completed |
| Critical, error rate above 5 % | everything is disabled; the script was not run, and that is said |
| High, error rate above 1 % | everything is disabled |
| Medium, slow deliveries or websockets that drop | back to the stage before, groups and all |
| Low, a cold cache | held, nothing is written; it lifts |
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from feature_rollout.sandbox.cluster import Cluster
from feature_rollout.sandbox.controlplane import ControlPlane
from feature_rollout.sandbox.prometheus import PrometheusServer, prometheus_binaries, scrape
from support.notifications import NAME, PROVIDER, Reader, Rows, System, manifests
from support.operatorprocess import Operator
from support.people import USERS, action, allow, may, offer, set_up, wait_for_policies
from support.waiting import wait_for
from support.world import World, crds_folder

APPROVER, RETRIER = "approve-only", "retry-only"
CHECKS = ("rehearsed-on-staging", "on-call-available")
OPTIMISTIC = "notifications_optimistic_updates"
# So long may a busy machine take for what takes a second.
LONG_S = 90.0

# The guide's table. What its phases 2 to 4 do to each flag: percentage and groups, "off" as it was before.
COLUMNS = (
    ("enhanced_realtime", "intelligent_grouping"),
    ("optimistic_updates",),
    ("advanced_caching", "virtual_scrolling"),
    ("granular_preferences", "quiet_hours", "data_retention"),
    ("new_bell_ui",),
    ("advanced_filtering",),
    ("preview_mode",),
)
TABLE = """
before               | off             | off | off | off | off       | off       | off
safe-features        | 10 admin        | off | 100 | 100 | off       | off       | off
admins-and-agents    | 100 admin,agent | off | 100 | 100 | off       | off       | off
ten-percent          | 10              | 10  | 100 | 100 | off       | off       | off
twenty-five-percent  | 25              | 25  | 100 | 100 | off       | off       | off
new-ui-admins        | 25              | 25  | 100 | 100 | 100 admin | 100 admin | 100 admin
new-ui               | 25              | 25  | 100 | 100 | 50        | 75        | 100 admin
performance-features | 25              | 100 | 100 | 100 | 50        | 75        | 100 admin
everything           | 100             | 100 | 100 | 100 | 100       | 100       | 100 admin
"""
OFF = (False, 0, frozenset[str]())


def rows_of(text: str) -> dict[str, Rows]:
    """The rows of all flags in each stage."""
    stages: dict[str, Rows] = {}
    for line in text.strip().splitlines():
        name, *cells = (cell.strip() for cell in line.split("|"))
        stages[name] = {}
        for flags, cell in zip(COLUMNS, cells, strict=True):
            percentage, _, groups = cell.partition(" ")
            row = OFF if cell == "off" else (True, int(percentage), frozenset(filter(None, groups.split(","))))
            stages[name] |= {f"notifications_{flag}": row for flag in flags}
    return stages


STAGES = rows_of(TABLE)


@pytest.fixture(scope="module")
def control_plane(built_control_plane: None) -> Iterator[ControlPlane]:
    """With the admission policies in effect, and people who have one verb each."""
    with ControlPlane(users=USERS, controller_manager=True) as cluster:
        cluster.install_crds(crds_folder())
        set_up(cluster)
        wait_for_policies(cluster, stamped=True)
        yield cluster


@pytest.fixture(scope="module")
def crds_installed(control_plane: Cluster) -> None:
    """They are there."""


@pytest.fixture(scope="module")
def running_system() -> Iterator[tuple[System, PrometheusServer]]:
    with System() as system:
        binaries = prometheus_binaries(build_missing=False)
        server = PrometheusServer(scrape("notifications", system.port, interval_s=0.1), binaries=binaries)
        server.backfill(system.past())
        with server:
            yield system, server


@pytest.fixture
def system(running_system: tuple[System, PrometheusServer]) -> System:
    running_system[0].healthy()
    return running_system[0]


@pytest.fixture
def reader(world: World) -> Iterator[Reader]:
    with Reader(world.database.uri()) as reader:
        yield reader


@dataclass(frozen=True)
class Guide:
    """The rollout on its system, and what people do with it."""

    world: World
    prometheus: str

    def begin(self, day_s: float, *, backup: bool = True) -> None:
        world = self.world
        world.database.execute("CREATE TABLE backups (finished_at timestamptz NOT NULL)")
        world.database.execute(f"GRANT SELECT ON backups TO {world.reader}")
        if backup:
            self.back_up()
        # Four of five who look for the new bell have it, in the next quarter of an hour.
        world.database.execute(
            'INSERT INTO feature_flag_usage (flag_name, user_id, enabled, "timestamp") '
            "SELECT 'notifications_new_bell_ui', 'user-' || i, i % 5 > 0, now() + i * interval '50 milliseconds' "
            "FROM generate_series(1, 18000) i"
        )
        for user, verb in ((APPROVER, "approve"), (RETRIER, "retry")):
            allow(world.cluster, user, may(verb), world.namespace)
        world.apply(*manifests(world.namespace, self.prometheus, day_s))
        self.wait_phase("Preflight")

    def back_up(self) -> None:
        self.world.database.execute("INSERT INTO backups VALUES (now() - interval '3 hours')")

    def wait_phase(self, phase: str) -> Any:
        """Until it is in this phase; its status then."""

        def is_in() -> Any:
            status = self.world.status(NAME)
            return status if status.get("phase") == phase else None

        return wait_for(is_in, LONG_S, lambda: f"{phase}; status: {self.world.brief(NAME)}")

    def confirm(self) -> None:
        """Both checks, without the commands, which take a second each."""
        plan_hash = self.world.status(NAME)["planHash"]
        for check in CHECKS:
            obj = action("Confirm", NAME, check=check, planHash=plan_hash)
            status, answer = offer(self.world.cluster, obj, APPROVER, self.world.namespace)
            assert status == 201, answer

    def type(self, user: str, *args: str, code: int = 0, **env: str) -> str:
        """What a command says to this person."""
        config = self.world.cluster.kubeconfig(user, namespace=self.world.namespace)
        command = [sys.executable, "-m", "feature_rollout.cli", *args, "--kubeconfig", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={"COLUMNS": "200", **env})
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def guide(
    world: World, operator: Operator, system: System, running_system: tuple[System, PrometheusServer]
) -> Iterator[Guide]:
    yield Guide(world, running_system[1].url)
    world.delete("MetricProvider", PROVIDER)


def after_each_operation(world: World) -> list[Rows]:
    """What the audit says that the table was: before, and after each transaction."""
    states, operation = [dict(world.baseline)], None
    for entry in world.audit():
        after = entry["after"]
        if entry["operation_id"] != operation:
            states.append(dict(states[-1]))
            operation = entry["operation_id"]
        states[-1][entry["flag"]] = (after["enabled"], int(after["percentage"]), frozenset(after["groups"]))
    return states


def is_in_order(some: list[Rows], every: list[Rows]) -> bool:
    """Whether `some` are among `every`, in their order; a reader may be too slow for a stage without a bake."""
    rest = iter(every)
    return all(state in rest for state in some)


def test_from_safe_features_to_everything(guide: Guide, reader: Reader) -> None:
    world = guide.world
    guide.begin(day_s=0.5, backup=False)
    waiting = " ".join(guide.wait_phase("Preflight")["next"]["waitingFor"])
    for check in ("backup-is-recent", *CHECKS):
        assert f"preflight/{check}" in waiting
    guide.back_up()
    for check in CHECKS:
        assert "Applied" in guide.type(APPROVER, "confirm", NAME, check, "--reason", "it is so")
    for stage in list(STAGES)[:-2]:
        reader.wait(STAGES[stage], stage)

    for stage in list(STAGES)[-2:]:
        waiting = guide.wait_phase("AwaitingApproval")["next"]["waitingFor"]
        assert f"1 approval of stage {stage}" in waiting[0]
        assert world.rows() == reader.seen[-1]
        shown = guide.type(APPROVER, "approve", NAME, "--stage", stage, "--reason", "week 2 looked clean")
        assert "Applied" in shown
        reader.wait(STAGES[stage], stage)

    world.wait_condition("Completed", "True", "Completed", name=NAME, timeout_s=LONG_S)
    states = list(STAGES.values())
    assert after_each_operation(world) == states
    assert is_in_order(reader.seen, states)
    assert reader.seen[-1] == world.rows() == STAGES["everything"]
    by_stage = {entry["stage"]: entry for entry in world.audit()}
    assert list(by_stage) == list(STAGES)[1:]
    assert {entry["kind"] for entry in world.audit()} == {"Raise"}
    assert by_stage["safe-features"]["evidence"]["confirmedBy"] == {f"preflight/{check}": APPROVER for check in CHECKS}
    assert by_stage["everything"]["evidence"]["approvedBy"] == [APPROVER]
    ended(guide)


def ended(guide: Guide) -> None:
    """What is told of a rollout that is over."""
    world = guide.world
    told = guide.type("admin", "explain", NAME)
    assert told.startswith(f"{world.namespace}/{NAME} is Completed: Every stage is in, baked and gated.")
    assert "Completed" in guide.type("admin", "status", NAME)
    entries = json.loads(
        guide.type("admin", "history", NAME, "-o", "json", FEATUREROLLOUT_WRITER_URI=world.uris()["writer-uri"])
    )
    assert entries[-1]["reason"] == "Completed"
    changes = [(entry["stage"], entry["flag"]) for entry in entries if "flag" in entry]
    assert ("everything", "notifications_new_bell_ui") in changes
    assert len(changes) == len(world.audit())


OFF_AT_25 = {flag: (False, row[1], row[2]) for flag, row in STAGES["twenty-five-percent"].items()}
# The bell and the filter are left to those who had them in the stage before, and to no more of them than now.
ADMINS_ONLY = {
    **STAGES["new-ui"],
    "notifications_new_bell_ui": (True, 50, frozenset({"admin"})),
    "notifications_advanced_filtering": (True, 75, frozenset({"admin"})),
}


@dataclass(frozen=True)
class Harm:
    severity: str
    action: str
    reason: str
    metric: str
    limit: str
    stage: str
    rows: Rows

    @property
    def lowered(self) -> set[str]:
        return {flag for flag, row in self.rows.items() if row != STAGES[self.stage][flag]}


AT_25 = "twenty-five-percent"
CRITICAL = Harm("Critical", "RollBackDatabase", "FlagsDisabled", "error-rate", "5%", AT_25, OFF_AT_25)
HIGH = Harm("High", "DisableFlags", "FlagsDisabled", "error-rate", "1%", AT_25, OFF_AT_25)
SLOW = Harm("Medium", "ReducePercentage", "PercentageReduced", "slow-deliveries", "5%", AT_25, STAGES["ten-percent"])
DROPS = Harm("Medium", "ReducePercentage", "PercentageReduced", "websocket-drop-rate", "1%", "new-ui", ADMINS_ONLY)


def begin_healthy(guide: Guide) -> None:
    guide.begin(day_s=0.3)
    guide.confirm()


def assert_reverted(guide: Guide, reader: Reader, harm: Harm) -> dict[str, Any]:
    """The rows, the audit, the latch and the status; returns `status.rollback`."""
    world = guide.world
    reader.wait(harm.rows, f"the revert of a {harm.severity} breach")
    status = guide.wait_phase("RolledBack")
    assert world.rows() == harm.rows
    names = list(STAGES)
    states = [STAGES[name] for name in names[: names.index(harm.stage) + 1]]
    assert after_each_operation(world) == [*states, harm.rows]
    assert is_in_order(reader.seen, [*states, harm.rows])

    lowered = [entry for entry in world.audit() if entry["reason"] == harm.reason]
    assert {entry["flag"] for entry in lowered} == harm.lowered
    assert {entry["kind"] for entry in lowered} == {"Lower"}
    assert {(entry["stage"], entry["actor"]) for entry in lowered} == {(harm.stage, "operator")}
    evidence = lowered[0]["evidence"]
    assert (evidence["severity"], evidence["metric"], evidence["action"]) == (harm.severity, harm.metric, harm.action)
    assert evidence["clause"] == f"{harm.metric} above {harm.limit}"
    assert evidence["logEvidence"] > 0
    assert world.ledger(NAME)["latch"]

    rollback: dict[str, Any] = status["rollback"]
    assert (rollback["severity"], rollback["metric"], rollback["limit"]) == (harm.severity, harm.metric, harm.limit)
    assert rollback["action"] == harm.action
    assert world.conditions(NAME)["RolledBack"] == ("True", "RolledBack")
    # Applied again, as a GitOps tool does: it stays as it is.
    world.apply(
        next(obj for obj in manifests(world.namespace, guide.prometheus, 0.3) if obj["kind"] == "FeatureRollout")
    )
    assert world.rows() == harm.rows
    return rollback


def assert_in_time(rollback: dict[str, Any], within_s: float) -> None:
    assert float(rollback["respondedIn"].removesuffix("s")) <= within_s


def test_critical_disables_and_says_that_the_script_was_not_run(guide: Guide, reader: Reader) -> None:
    begin_healthy(guide)
    guide.world.traffic.harm_at(OPTIMISTIC, 25)
    guide.world.traffic.failed = 0.3
    rollback = assert_reverted(guide, reader, CRITICAL)
    assert rollback["respondWithin"] == "0s"
    # At once is the first look that proves it: what a look, its delay and a transaction take, on a busy machine.
    assert_in_time(rollback, 15.0)
    message = guide.world.audit()[-1]["message"]
    assert "The flags are disabled; the rollback script was not run, this version cannot." in message


def test_high_disables(guide: Guide, reader: Reader) -> None:
    begin_healthy(guide)
    guide.world.traffic.harm_at(OPTIMISTIC, 25)
    # 1 of 20: past 1 %, and not past 5 %.
    guide.world.traffic.failed = 0.05
    rollback = assert_reverted(guide, reader, HIGH)
    assert rollback["respondWithin"] == "15m"
    assert_in_time(rollback, 15 * 60)


def test_medium_goes_back_a_stage_and_a_retry_goes_on(guide: Guide, reader: Reader) -> None:
    world = guide.world
    begin_healthy(guide)
    world.traffic.harm_at(OPTIMISTIC, 25)
    world.traffic.slow = 0.3
    rollback = assert_reverted(guide, reader, SLOW)
    assert rollback["respondWithin"] == "1h"
    assert_in_time(rollback, 3600)

    world.traffic.slow = 0.0
    assert "Applied" in guide.type(RETRIER, "retry", NAME, "--reason", "fixed in 2.3.1")
    # With preflight again, whose confirmations were those of the first attempt.
    waiting = " ".join(guide.wait_phase("Preflight")["next"]["waitingFor"])
    for check in CHECKS:
        assert f"preflight/{check}" in waiting
    assert world.rows() == SLOW.rows
    guide.confirm()
    # To its end: the stage after it begins.
    reader.wait(STAGES["new-ui-admins"], "the stage after the one that was retried")
    states = [*list(STAGES.values())[:5], SLOW.rows, STAGES[AT_25], STAGES["new-ui-admins"]]
    assert after_each_operation(world)[: len(states)] == states
    assert world.status(NAME)["attempt"] == 2
    assert "rollback" not in world.status(NAME)


def test_medium_in_prometheus_leaves_the_new_ui_to_admins(guide: Guide, reader: Reader, system: System) -> None:
    begin_healthy(guide)
    # The last stage before people are asked, so nothing ends it.
    reader.wait(STAGES["new-ui"], "new-ui")
    system.dropped = 0.1
    rollback = assert_reverted(guide, reader, DROPS)
    assert rollback["respondWithin"] == "1h"
    assert_in_time(rollback, 3600)


def test_low_holds_and_lifts(guide: Guide, reader: Reader, system: System, operator: Operator) -> None:
    world = guide.world
    begin_healthy(guide)
    # Before the stage begins, so that it cannot end first.
    reader.wait(STAGES["ten-percent"], "ten-percent")
    system.hits = 0.5
    wait_for(lambda: "HoldAction" in world.reasons(NAME), LONG_S, "the hold")
    status = guide.wait_phase("Held")
    assert re.search(r"cache-hit-rate below 80% is breached \(Low\)", str(world.condition("Reconciling", NAME)))
    assert "rollback" not in status
    held = world.rows()
    operator.wait_looks(12)
    assert world.rows() == held
    assert {entry["kind"] for entry in world.audit()} == {"Raise"}
    system.healthy()
    reader.wait(STAGES["new-ui-admins"], "the stage after the hold")
    assert after_each_operation(world)[:6] == list(STAGES.values())[:6]
