"""`featurerollout evaluate`: what a user gets, and why, with the right to read and no more."""

import json

import pytest

from feature_rollout.core.evaluation import Reason
from postgres.commands import Answer, featurerollout
from postgres.world import World, everyone, only
from support.databases import all_postgres

pytestmark = all_postgres


@pytest.fixture
def env(world: World) -> dict[str, str]:
    reader = world.database.role("reader")
    world.database.execute(
        f"GRANT SELECT (name, enabled, rollout_percentage, user_groups) ON feature_flags TO {reader}"
    )
    return {"FEATUREROLLOUT_DATABASE_URI": world.database.uri(reader)}


async def evaluate(env: dict[str, str], *arguments: str) -> Answer:
    return await featurerollout("evaluate", *arguments, env=env)


async def test_it_says_what_and_why(world: World, env: dict[str, str]) -> None:
    world.set_row("alpha", only(50, "beta", "staff"))
    before = world.everything()
    answer = await evaluate(env, "alpha", "--user", "user-2", "--group", "beta", "--group", "x")
    assert (answer.code, answer.err) == (0, "")
    first, *rest = answer.lines
    assert first.startswith("user user-2 ")
    found = int(rest[1].split()[1])
    assert ("does not have" in first) == (found >= 5000)
    assert rest == [
        "row:    enabled, 50 %, groups: beta, staff",
        f"bucket: {found} of 10000; those below 5000 have it",
        "groups: beta, x (of the user)",
    ]
    assert world.everything() == before


async def test_as_json(world: World, env: dict[str, str]) -> None:
    world.set_row("alpha", everyone(100))
    answer = await evaluate(env, "alpha", "--user", "é", "-o", "json")
    found = json.loads(answer.out)
    assert found.pop("bucket") in range(10_000)
    assert found == {
        "flag": "alpha",
        "user": "é",
        "groups": [],
        "enabled": True,
        "reason": Reason.EVERYBODY,
        "rows": [{"enabled": True, "percentage": "100", "groups": [], "bucketsBelow": 10_000}],
        "warnings": [],
    }


@pytest.mark.parametrize(
    ("row", "arguments", "said"),
    [
        (everyone(0), ["--user", "u"], "user u does not have alpha: the row says 0 % (Nobody)"),
        (only(100, "a"), ["--user", "u"], "user u does not have alpha: the user is in none of the row's groups"),
        (everyone(99), [], "a visitor without an id does not have alpha: some users have it"),
        (everyone(100), [], "a visitor without an id has alpha: everybody whom"),
    ],
    ids=["0 %", "not in a group", "no user", "everybody"],
)
async def test_every_answer_has_its_words(
    world: World, env: dict[str, str], row: object, arguments: list[str], said: str
) -> None:
    world.set_row("alpha", row)
    assert (await evaluate(env, "alpha", *arguments)).out.startswith(said)


async def test_the_answer_is_that_of_the_database(world: World, env: dict[str, str]) -> None:
    world.set_row("alpha", everyone(50))
    for user in ("user-1", "user-2", "user-3", "", "🙂"):
        found = world.database.query("SELECT feature_rollout.flag_enabled('alpha', %s) AS answer", user)
        answer = json.loads((await evaluate(env, "alpha", "--user", user, "-o", "json")).out)
        assert answer["enabled"] is found[0]["answer"]


async def test_a_row_that_means_nothing_is_warned_of(world: World, env: dict[str, str]) -> None:
    world.database.execute("UPDATE feature_flags SET enabled = NULL, rollout_percentage = 100 WHERE name = 'alpha'")
    answer = await evaluate(env, "alpha", "--user", "u")
    assert answer.lines[0].startswith("user u has alpha")
    assert answer.lines[-1].startswith("warning: flag alpha: column enabled is NULL; read as")


async def test_a_flag_that_there_is_not_is_5(world: World, env: dict[str, str]) -> None:
    answer = await evaluate(env, "nothing", "--user", "u")
    assert (answer.code, answer.out) == (5, "")
    assert answer.err == "error: there is no flag nothing in public.feature_flags: nobody has it\n"


async def test_a_right_that_is_missing_is_named(world: World) -> None:
    stranger = world.database.role("stranger")
    answer = await evaluate({"FEATUREROLLOUT_DATABASE_URI": world.database.uri(stranger)}, "alpha")
    assert (answer.code, answer.out) == (1, "")
    grant = "GRANT SELECT (name, enabled, rollout_percentage, user_groups) ON public.feature_flags TO "
    assert grant + stranger in answer.err
