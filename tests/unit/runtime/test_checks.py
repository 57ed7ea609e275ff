"""Checks as the reconciler asks them, on what asks the database."""

from datetime import UTC, datetime

import pytest

from feature_rollout.runtime.targets import Checks


@pytest.mark.parametrize("said", [(True, "PASS in 3 of 3 rows"), (False, "no row"), (None, "it is away")])
async def test_an_answer_is_as_old_as_its_question(said: tuple[bool | None, str]) -> None:
    asked: list[tuple[str, datetime]] = []

    class Database:
        async def ask(self, name: str) -> tuple[bool | None, str]:
            asked.append((name, datetime.now(UTC)))
            return said

    answer = await Checks(Database()).ask("preflight/backup")
    assert (answer.passed, answer.message) == said
    assert (answer.name, asked[0][0]) == ("preflight/backup", "preflight/backup")
    assert answer.at <= asked[0][1]
