"""`featurerollout doctor`: what is not right is found, and what to do is said.

| what | invariant |
|---|---|
| every fault has its line, with what to run | |
| what it says to run mends it | |
| no secret in what it says | S17 |
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from feature_rollout.store import sessions
from postgres.commands import Answer, featurerollout
from postgres.world import World
from support.databases import all_postgres


@dataclass
class Patient:
    """A database with its three roles, and what the doctor says of it."""

    world: World
    reader: str
    owner: str

    @property
    def env(self) -> dict[str, str]:
        roles = {"WRITER": self.world.writer, "READER": self.reader, "OWNER": self.owner}
        return {f"FEATUREROLLOUT_{name}_URI": self.world.database.uri(role) for name, role in roles.items()}

    def run(self, statement: str) -> None:
        names = {"writer": self.world.writer, "reader": self.reader, "owner": self.owner}
        self.world.database.execute(statement.format(**names, database=self.world.database.name))

    async def doctor(self, *arguments: str, **env: str) -> Answer:
        return await featurerollout("doctor", *arguments, env=self.env | env)

    async def complaints(self) -> tuple[int, dict[str, tuple[str, str]]]:
        """The exit code, and by check the lines that are not ok."""
        answer = await self.doctor("-o", "json")
        found = {line["check"]: (line["result"], line["message"]) for line in json.loads(answer.out)}
        return answer.code, {check: line for check, line in found.items() if line[0] != "ok"}


@pytest.fixture
def patient(world: World) -> Patient:
    patient = Patient(world, world.database.role("reader"), world.database.role("owner"))
    patient.run("ALTER ROLE {reader} SET default_transaction_read_only = on")
    patient.run("GRANT CREATE ON DATABASE {database} TO {owner}; ALTER SCHEMA feature_rollout OWNER TO {owner}")
    patient.run("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC")
    return patient


pytestmark = all_postgres
TABLE = "public.feature_flags"


async def test_all_is_well(patient: Patient) -> None:
    assert await patient.complaints() == (0, {})
    answer = await patient.doctor()
    assert (answer.code, answer.err) == (0, "")
    assert answer.lines[0].split() == ["CHECK", "RESULT", "WHAT", "WAS", "FOUND,", "AND", "WHAT", "TO", "DO"]
    checks = {line.split("  ")[0] for line in answer.lines[1:]}
    assert {"writer: TLS", "writer: primary", "writer: NOTIFY", "writer: clock", "reader: functions"} <= checks


async def test_how_changes_by_others_are_seen(patient: Patient) -> None:
    async def said() -> str:
        found = json.loads((await patient.doctor("-o", "json")).out)
        return next(line["message"] for line in found if line["check"] == "writer: changes by others")

    polled = await said()
    assert polled.startswith("polled; to hear of them at once, the owner of public.feature_flags may run: SELECT")
    patient.run(polled.partition("may run: ")[2])
    assert await said() == "a trigger tells of them at once, and the audit knows who it was"


async def test_it_writes_nothing(patient: Patient) -> None:
    before = patient.world.everything()
    await patient.doctor()
    assert patient.world.everything() == before


# What is done to the database; the check that finds it, the result, and what is said. `{…}` are names of roles.
FAULTS = {
    "a column is missing": (
        "ALTER TABLE feature_flags RENAME enabled TO on_off",
        ("writer: flag table", "error", f"ColumnMissing: column enabled (boolean) does not exist in table {TABLE}"),
    ),
    "a column of another type": (
        "ALTER TABLE feature_flags ALTER enabled DROP DEFAULT, ALTER enabled TYPE text",
        ("writer: flag table", "error", f"ColumnType: column enabled of table {TABLE} is text, boolean is wanted"),
    ),
    "the table is missing": (
        "DROP TABLE feature_flags",
        ("writer: flag table", "error", f"TableMissing: table {TABLE} does not exist"),
    ),
    "the writer may not write": (
        "REVOKE UPDATE (enabled) ON feature_flags FROM {writer}",
        ("writer: flag table", "error", "GRANT SELECT, UPDATE (enabled, rollout_percentage, user_groups)"),
    ),
    "the writer may do more": (
        "GRANT INSERT, DELETE, UPDATE (name) ON feature_flags TO {writer}",
        (
            "writer: rights",
            "warning",
            "INSERT, DELETE, UPDATE (name): REVOKE ALL ON public.feature_flags FROM {writer}",
        ),
    ),
    "the writer is a superuser": (
        "ALTER ROLE {writer} SUPERUSER",
        ("writer: rights", "warning", "ALTER ROLE {writer} NOSUPERUSER"),
    ),
    "the writer owns the table": (
        "ALTER TABLE feature_flags OWNER TO {writer}",
        ("writer: rights", "warning", f"role {{writer}} owns {TABLE}"),
    ),
    "the writer is no member": (
        "REVOKE feature_rollout_writer FROM {writer}",
        ("writer: bookkeeping", "error", "GRANT feature_rollout_writer TO {writer}"),
    ),
    "bookkeeping of a newer operator": (
        "INSERT INTO feature_rollout.migration VALUES (99, 'future')",
        ("writer: bookkeeping", "error", "BookkeepingTooNew: "),
    ),
    "the writer is read-only": (
        "ALTER ROLE {writer} SET default_transaction_read_only = on",
        ("writer: primary", "error", "ReadOnly: default_transaction_read_only is on"),
    ),
    "the reader is not read-only by default": (
        "ALTER ROLE {reader} RESET default_transaction_read_only",
        ("reader: read-only", "warning", "ALTER ROLE {reader} SET default_transaction_read_only = on"),
    ),
    "the reader is a superuser": (
        "ALTER ROLE {reader} SUPERUSER",
        ("reader: rights", "error", "ALTER ROLE {reader} NOSUPERUSER"),
    ),
    "the reader may create roles and databases": (
        "ALTER ROLE {reader} CREATEROLE CREATEDB",
        ("reader: rights", "error", "ALTER ROLE {reader} NOCREATEROLE NOCREATEDB"),
    ),
    "the reader may run programs": (
        "GRANT pg_execute_server_program TO {reader}",
        ("reader: rights", "error", "REVOKE pg_execute_server_program FROM {reader}"),
    ),
    "the reader may write to a column": (
        'CREATE TABLE "Orders" (id int); GRANT UPDATE (id) ON "Orders" TO {reader}',
        ("reader: privileges", "error", 'may write to table public."Orders", and so may metric SQL'),
    ),
    "the reader may use a sequence": (
        "CREATE SEQUENCE numbers; GRANT USAGE ON SEQUENCE numbers TO {reader}",
        ("reader: privileges", "error", "REVOKE USAGE, UPDATE ON SEQUENCE public.numbers FROM {reader}, PUBLIC"),
    ),
    "everybody may create tables": (
        "GRANT CREATE ON SCHEMA public TO PUBLIC",
        ("reader: privileges", "error", "REVOKE CREATE ON SCHEMA public FROM {reader}, PUBLIC"),
    ),
    "the reader may call a function with its owner's rights": (
        "CREATE FUNCTION pay(int) RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
        ("reader: functions", "warning", "REVOKE EXECUTE ON ROUTINE public.pay(integer) FROM PUBLIC"),
    ),
    "the owner may not create the schema": (
        "DROP SCHEMA feature_rollout CASCADE; REVOKE CREATE ON DATABASE {database} FROM {owner}",
        ("owner: schema", "error", "GRANT CREATE ON DATABASE {database} TO {owner}"),
    ),
    "the schema is somebody else's": (
        "ALTER SCHEMA feature_rollout OWNER TO postgres",
        ("owner: schema", "error", "GRANT postgres TO {owner}"),
    ),
    "the owner may not log in": ("ALTER ROLE {owner} NOLOGIN", ("owner: connection", "error", "AuthenticationFailed")),
}


@pytest.mark.parametrize(("statement", "line"), FAULTS.values(), ids=FAULTS.keys())
async def test_every_fault_has_its_line(patient: Patient, statement: str, line: tuple[str, str, str]) -> None:
    patient.run(statement)
    check, result, message = line
    code, complaints = await patient.complaints()
    assert complaints[check][0] == result
    names = {"writer": patient.world.writer, "reader": patient.reader, "owner": patient.owner}
    assert message.format(**names, database=patient.world.database.name) in complaints[check][1]
    assert code == (1 if "error" in {found for found, _ in complaints.values()} else 3)


MENDED = (
    "the writer may not write",
    "the writer may do more",
    "the writer is no member",
    "the reader is not read-only by default",
    "the reader may create roles and databases",
    "the reader may run programs",
    "the reader may write to a column",
    "the reader may use a sequence",
    "everybody may create tables",
    "the reader may call a function with its owner's rights",
)


@pytest.mark.parametrize("fault", MENDED)
async def test_what_it_says_to_run_mends_it(patient: Patient, fault: str) -> None:
    patient.run(FAULTS[fault][0])
    _, complaints = await patient.complaints()
    (_, message), *others = complaints.values()
    assert others == []
    patient.world.database.execute(re.search(r": ((GRANT|REVOKE|ALTER) .*)", message)[1])
    assert await patient.complaints() == (0, {})


async def test_the_operator_installs_what_is_missing_when_there_is_an_owner(patient: Patient) -> None:
    patient.run("DROP SCHEMA feature_rollout CASCADE")
    assert await patient.complaints() == (0, {})
    without_owner = await patient.doctor("-o", "json", FEATUREROLLOUT_OWNER_URI="")
    found = {line["check"]: (line["result"], line["message"]) for line in json.loads(without_owner.out)}
    assert (without_owner.code, found["owner"][0]) == (1, "skipped")
    assert found["writer: bookkeeping"][1].startswith("BookkeepingMissing: ")


async def test_a_reader_that_is_the_writer_is_an_error(patient: Patient) -> None:
    answer = await patient.doctor(FEATUREROLLOUT_READER_URI=patient.env["FEATUREROLLOUT_WRITER_URI"])
    assert answer.code == 1
    assert "create a role of its own for each" in answer.out
    assert "member of feature_rollout_writer" in answer.out


async def test_roles_of_different_databases_are_an_error(patient: Patient) -> None:
    other = patient.world.database.server.uri("postgres", patient.reader, "")
    password = patient.env["FEATUREROLLOUT_READER_URI"].split(":")[2].partition("@")[0]
    other = patient.world.database.server.uri("postgres", patient.reader, password)
    answer = await patient.doctor(FEATUREROLLOUT_READER_URI=other)
    assert answer.code == 1
    assert "this is another database" in answer.out


async def test_a_connection_string_that_cannot_be_used_is_an_error_that_does_not_show_it(patient: Patient) -> None:
    answer = await patient.doctor(FEATUREROLLOUT_READER_URI="postgresql://reader:hunter2@host/db?passfile=/etc/shadow")
    assert answer.code == 1
    assert "ConnectionInvalid" in answer.out
    assert "hunter2" not in answer.out
    assert "/etc/shadow" not in answer.out
    assert [line for line in answer.lines if "skipped" in line] == []


async def test_a_clock_that_is_off_is_a_warning(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions.time, "time", lambda: 0.0)
    code, complaints = await patient.complaints()
    assert (code, list(complaints)) == (3, ["writer: clock"])
    assert "ahead of this machine's" in complaints["writer: clock"][1]


async def test_files_instead_of_variables_and_a_table_of_another_name(patient: Patient, tmp_path: Path) -> None:
    patient.run("CREATE SCHEMA app; ALTER TABLE feature_flags SET SCHEMA app; GRANT USAGE ON SCHEMA app TO {writer}")
    patient.run("ALTER TABLE app.feature_flags RENAME name TO key")
    file = tmp_path / "writer"
    file.write_text(patient.env["FEATUREROLLOUT_WRITER_URI"] + "\n")
    arguments = ["--table", "app.feature_flags", "--name-column", "key", "--writer-uri-file", str(file)]
    answer = await featurerollout("doctor", *arguments, env={})
    assert (answer.code, "app.feature_flags has the columns" in answer.out) == (0, True)


async def test_no_connection_string_at_all_is_a_usage_error(postgres_server: object) -> None:
    assert (await featurerollout("doctor", env={})).code == 2
