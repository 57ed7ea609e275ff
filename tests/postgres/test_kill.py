"""`featurerollout kill`: off at once, with the rights of a writer, whatever else is broken.

| what | invariant |
|---|---|
| the operator sees a change by somebody else | S4 |
| an audit row a change, none without one | S5 |
| locked rows keep no other flag on | L5 |
| no room for the audit, no bookkeeping | L6 |
| no secret in what it says | S17 |
"""

import asyncio
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from feature_rollout.core.exposure import Exposure
from feature_rollout.ports import Commit, Drifted
from postgres.commands import Answer, featurerollout
from postgres.world import KEY, OFF, World, claim, everyone, only, problem_of, why
from support.databases import all_postgres

pytestmark = all_postgres

OFF_AT_50 = Exposure(False, Decimal(50))
USER = pwd.getpwuid(os.getuid()).pw_name


async def kill(world: World, *arguments: str) -> Answer:
    env = {"FEATUREROLLOUT_DATABASE_URI": world.database.uri(world.writer)}
    return await featurerollout("kill", *arguments, "--reason", "checkout is down", env=env)


@contextmanager
def locked(world: World, statement: str) -> Iterator[None]:
    with psycopg.connect(world.database.uri()) as connection:
        connection.execute(statement.encode())
        yield


def turn_on(world: World) -> None:
    for flag in ("alpha", "beta", "gamma"):
        world.set_row(flag, everyone(50))


async def test_flags_are_off_and_the_audit_says_who_and_why(world: World) -> None:
    turn_on(world)
    world.set_row("beta", only(20, "admins"))
    frame = world.frame()
    answer = await kill(world, "alpha", "beta")
    assert (answer.code, answer.err) == (0, "")
    assert answer.lines == ["alpha: 50 % of everyone -> off", "beta: 20 % of admins -> off"]
    assert world.row("alpha") == OFF_AT_50
    assert world.row("beta") == Exposure(False, Decimal(20), frozenset({"admins"}))
    assert world.row("gamma") == everyone(50)
    assert world.frame() == frame
    first, second = world.audit()
    assert first["operation_id"] == second["operation_id"]
    assert first["operation_id"].startswith("kill@")
    assert (first["flag"], first["before"], first["after"]) == ("alpha", everyone(50).to_json(), OFF_AT_50.to_json())
    assert {row["actor"].partition("@")[0] for row in (first, second)} == {f"{world.writer} ({USER}"}
    assert {(r["kind"], r["reason"], r["message"]) for r in (first, second)} == {
        ("Lower", "Killed", "checkout is down")
    }


async def test_a_second_time_says_already_off_and_writes_nothing(world: World) -> None:
    turn_on(world)
    await kill(world, "alpha", "bystander")
    before = world.everything()
    answer = await kill(world, "alpha", "bystander")
    assert (answer.code, answer.lines) == (0, ["alpha: already off", "bystander: already off"])
    assert world.everything() == before


async def test_a_dry_run_writes_nothing(world: World) -> None:
    turn_on(world)
    before = world.everything()
    answer = await kill(world, "alpha", "bystander", "--dry-run")
    assert answer.code == 0
    assert answer.lines == ["alpha: 50 % of everyone -> off (dry run: not written)", "bystander: already off"]
    assert world.everything() == before


async def test_the_operator_sees_a_change_by_somebody_else(world: World) -> None:
    ledger = await world.raised(await world.store.open(claim("alpha")), alpha=everyone(50))
    assert (await kill(world, "alpha")).code == 0
    snapshot = await world.store.read(KEY, ["alpha"])
    assert snapshot.ledger == ledger
    assert snapshot.rows["alpha"] == OFF_AT_50 != snapshot.ledger.written["alpha"]


@pytest.mark.parametrize("arguments", [[], ["--dry-run"]], ids=["for real", "dry run"])
async def test_an_unknown_flag_is_named_and_nothing_is_written(world: World, arguments: list[str]) -> None:
    turn_on(world)
    before = world.everything()
    answer = await kill(world, "alpha", "ghost", *arguments)
    assert (answer.code, answer.out) == (5, "")
    assert "no row in public.feature_flags for ghost; nothing was written" in answer.err
    assert world.everything() == before


async def test_an_unknown_flag_may_be_ignored(world: World) -> None:
    turn_on(world)
    answer = await kill(world, "alpha", "ghost", "--ignore-missing")
    assert (answer.code, answer.lines) == (0, ["alpha: 50 % of everyone -> off", "ghost: has no row"])
    assert world.row("alpha") == OFF_AT_50


async def test_a_row_that_means_nothing_is_disabled_too(world: World) -> None:
    world.database.execute(
        "UPDATE feature_flags SET enabled = NULL, rollout_percentage = NULL, user_groups = NULL WHERE name = 'alpha'"
    )
    assert (await kill(world, "alpha")).lines == ["alpha: 100 % of everyone -> off"]
    rows = world.database.query("SELECT enabled, rollout_percentage FROM feature_flags WHERE name = 'alpha'")
    assert rows == [{"enabled": False, "rollout_percentage": None}]


async def test_a_locked_row_is_named_and_keeps_no_other_on(world: World) -> None:
    turn_on(world)
    with locked(world, "SELECT FROM feature_flags WHERE name = 'beta' FOR UPDATE"):
        answer = await kill(world, "alpha", "beta", "gamma")
    assert answer.code == 4
    assert [line.partition(":")[0] for line in answer.lines] == ["alpha", "gamma", "beta"]
    assert answer.lines[-1].startswith("beta: NOT changed: a row or table stayed locked by another session")
    assert answer.err == "error: still as they were: beta; run it again\n"
    assert (world.row("alpha"), world.row("beta"), world.row("gamma")) == (OFF_AT_50, everyone(50), OFF_AT_50)
    assert {row["flag"] for row in world.audit()} == {"alpha", "gamma"}
    assert (await kill(world, "alpha", "beta", "gamma")).code == 0
    assert world.row("beta") == OFF_AT_50


async def test_a_locked_table_is_said_so(world: World) -> None:
    turn_on(world)
    with locked(world, "LOCK TABLE feature_flags"):
        answer = await kill(world, "alpha")
    assert (answer.code, answer.err) == (4, "error: still as they were: alpha; run it again\n")


FULL_DISK = (
    "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION 'secret-of-the-server' USING ERRCODE = 'disk_full'; END $$; "
    "CREATE TRIGGER full_disk BEFORE INSERT ON feature_rollout.audit EXECUTE FUNCTION full_disk()"
)
BOOKKEEPING_LOST = {
    "missing": (
        "DROP SCHEMA feature_rollout CASCADE",
        "BookkeepingMissing: the schema feature_rollout is not installed",
    ),
    "not a member": ("REVOKE feature_rollout_writer FROM {writer}", "GRANT feature_rollout_writer TO {writer}"),
    "disk full": (
        FULL_DISK,
        "DiskFull: the server's disk is full (SQLSTATE 53100)",
    ),
}


@pytest.mark.parametrize(("statement", "message"), BOOKKEEPING_LOST.values(), ids=BOOKKEEPING_LOST.keys())
async def test_without_an_audit_the_flags_are_off_all_the_same(world: World, statement: str, message: str) -> None:
    turn_on(world)
    world.database.execute(statement.format(writer=world.writer))
    answer = await kill(world, "alpha", "beta")
    assert answer.code == 1
    assert answer.lines == ["alpha: 50 % of everyone -> off", "beta: 50 % of everyone -> off"]
    assert answer.err.startswith("error: the flags are off, and the audit could not be written (")
    assert message.format(writer=world.writer) in answer.err
    assert "secret" not in answer.err
    assert (world.row("alpha"), world.row("beta")) == (OFF_AT_50, OFF_AT_50)
    again = await kill(world, "alpha", "beta")
    assert (again.code, again.lines) == (0, ["alpha: already off", "beta: already off"])


async def test_a_locked_audit_keeps_no_flag_on(world: World) -> None:
    turn_on(world)
    with locked(world, "LOCK TABLE feature_rollout.audit"):
        answer = await kill(world, "alpha", "beta")
    assert (answer.code, world.row("alpha"), world.row("beta")) == (1, OFF_AT_50, OFF_AT_50)
    assert "the audit could not be written (LockTimeout" in answer.err


async def test_a_trigger_that_refuses_one_flag_keeps_no_other_on(world: World) -> None:
    turn_on(world)
    world.database.execute(
        "CREATE FUNCTION keep_on() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.name = 'alpha' THEN NEW.enabled := true; END IF; RETURN NEW; END $$; "
        "CREATE TRIGGER keep_on BEFORE UPDATE ON feature_flags FOR EACH ROW EXECUTE FUNCTION keep_on()"
    )
    answer = await kill(world, "alpha", "beta")
    assert answer.code == 1
    assert answer.lines == [
        "beta: 50 % of everyone -> off",
        "alpha: NOT changed: flag alpha: a trigger enables it again",
    ]
    assert (world.row("alpha"), world.row("beta")) == (everyone(50), OFF_AT_50)


async def test_a_lack_of_rights_on_the_table_is_an_error_with_its_grant(world: World) -> None:
    turn_on(world)
    world.database.execute(f"REVOKE ALL ON feature_flags FROM {world.writer}")
    answer = await kill(world, "alpha")
    assert (answer.code, answer.out) == (1, "")
    assert (
        f"GRANT SELECT, UPDATE (enabled, rollout_percentage, user_groups) ON public.feature_flags TO {world.writer}"
        in (answer.err)
    )


async def test_listeners_are_told(world: World) -> None:
    turn_on(world)
    with psycopg.connect(world.database.uri(), autocommit=True) as listener:
        listener.execute("LISTEN flag_changes")
        await kill(world, "alpha", "--notify-channel", "flag_changes")
        world.database.execute("DROP SCHEMA feature_rollout CASCADE")
        await kill(world, "beta", "--notify-channel", "flag_changes")
        told = [json.loads(notice.payload)["flags"] for notice in listener.notifies(timeout=5, stop_after=2)]
    assert told == [["alpha"], ["beta"]]


async def test_another_table_with_other_columns(world: World) -> None:
    world.database.execute(
        "CREATE SCHEMA app; CREATE TABLE app.switches (key text, on_off boolean, share numeric, teams text[]); "
        f"GRANT USAGE ON SCHEMA app TO {world.writer}; GRANT SELECT, UPDATE ON app.switches TO {world.writer}; "
        "INSERT INTO app.switches VALUES ('alpha', true, 2.5, '{}')"
    )
    columns = ["--name-column", "key", "--enabled-column", "on_off", "--percentage-column", "share"]
    answer = await kill(world, "alpha", "--table", "app.switches", *columns, "--groups-column", "teams")
    assert (answer.code, answer.lines) == (0, ["alpha: 2.5 % of everyone -> off"])
    assert world.audit()[0]["table_schema"] == "app"


def uri_in_a_file(tmp_path: Path, uri: str) -> tuple[list[str], dict[str, str], str | None]:
    (tmp_path / "uri").write_text(f"{uri}\n")
    return ["--uri-file", str(tmp_path / "uri")], {}, None


SOURCES: dict[str, Callable[[Path, str], tuple[list[str], dict[str, str], str | None]]] = {
    "a file": uri_in_a_file,
    "standard input": lambda _, uri: (["--uri-file", "-"], {}, uri),
    "a variable": lambda _, uri: (["--database-uri-env", "MY_URI"], {"MY_URI": uri}, None),
    "the writer's variable": lambda _, uri: ([], {"FEATUREROLLOUT_WRITER_URI": uri}, None),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
async def test_where_the_connection_string_comes_from(
    world: World, tmp_path: Path, source: Callable[[Path, str], tuple[list[str], dict[str, str], str | None]]
) -> None:
    turn_on(world)
    arguments, env, stdin = source(tmp_path, world.database.uri(world.writer))
    answer = await featurerollout("kill", "alpha", "--reason", "x", *arguments, env=env, stdin=stdin)
    assert (answer.code, world.row("alpha")) == (0, OFF_AT_50)


@pytest.mark.parametrize(
    ("arguments", "env"),
    [
        pytest.param(["alpha"], {}, id="no reason"),
        pytest.param(["alpha", "--reason", " "], {}, id="an empty reason"),
        pytest.param(["alpha", "--reason", "x"], {}, id="no connection string"),
        pytest.param(["--reason", "x"], {}, id="no flag"),
        pytest.param(["alpha", "--reason", "x", "--uri-file", "/nonexistent"], {}, id="no such file"),
        pytest.param(["alpha", "--reason", "x", "--table", "."], {}, id="no table"),
    ],
)
async def test_usage(arguments: list[str], env: dict[str, str], postgres_server: object) -> None:
    assert (await featurerollout("kill", *arguments, env=env)).code == 2


async def test_a_wrong_password_is_an_error_without_it(world: World) -> None:
    uri = world.database.uri(world.writer, "wrong-secret")
    answer = await featurerollout("kill", "alpha", "--reason", "x", env={"FEATUREROLLOUT_DATABASE_URI": uri})
    assert answer.code == 1
    assert answer.err.startswith("error: AuthenticationFailed: ")


async def test_as_a_process_it_shows_no_connection_string_and_loads_no_client(world: World) -> None:
    turn_on(world)
    code = "import sys; from feature_rollout.cli import main\n"
    code += "try: main()\nexcept SystemExit as end: print(end.code)\n"
    code += "print([m for m in ('kubernetes', 'aiohttp', 'kopf', 'pydantic') if m in sys.modules])"
    env = {**os.environ, "FEATUREROLLOUT_DATABASE_URI": world.database.uri(world.writer)}
    argv = [sys.executable, "-c", code, "kill", "alpha", "--reason", "x"]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=True, env=env)
    assert done.stdout.splitlines() == ["alpha: 50 % of everyone -> off", "0", "[]"]


async def test_a_raise_that_was_decided_before_the_kill_is_not_made(world: World) -> None:
    ledger = await world.raised(await world.store.open(claim("alpha")), alpha=everyone(10))
    assert (await kill(world, "alpha")).code == 0
    with pytest.raises(Drifted, match="changed by somebody else: alpha"):
        await world.store.commit(Commit(ledger, {"alpha": everyone(10)}, {"alpha": everyone(50)}, why()))
    assert world.row("alpha") == Exposure(False, Decimal(10))


async def test_a_rollout_that_has_not_come_to_the_flag_yet_does_not_enable_it(world: World) -> None:
    ledger = await world.raised(await world.store.open(claim("alpha", "beta")), alpha=everyone(10))
    assert (await kill(world, "beta")).code == 0
    problem = await problem_of(world.raised(ledger, beta=everyone(10)))
    assert problem.reason == "FlagKilled"
    assert "beta by" in problem.message
    assert world.row("beta") == OFF
    lifted = await kill(world, "beta", "alpha", "--lift")
    assert (lifted.code, lifted.out) == (0, "beta: rollouts may enable it again\nalpha: was not held\n")
    await world.raised(ledger, beta=everyone(10))
    (killed,) = [
        row["killed"] for row in world.database.query("SELECT killed FROM feature_rollout.ownership") if row["killed"]
    ]
    assert killed["lifted"]["by"] == killed["by"]


async def test_a_kill_outlives_the_rollout_and_comes_before_it_too(world: World) -> None:
    assert (await kill(world, "alpha")).code == 0
    ledger = await world.store.open(claim("alpha"))
    assert (await problem_of(world.raised(ledger, alpha=everyone(10)))).reason == "FlagKilled"


async def test_a_row_that_a_person_has_enabled_is_lifted_by_that(world: World) -> None:
    ledger = await world.raised(await world.store.open(claim("alpha")), alpha=everyone(10))
    await kill(world, "alpha")
    world.set_row("alpha", everyone(10))
    ledger = await world.raised(ledger, alpha=everyone(50))
    world.set_row("alpha", OFF)
    await world.raised(ledger, alpha=everyone(60))
