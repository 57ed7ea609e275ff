"""Checks as the reconciler asks them, on what asks the database and on what asks Jobs."""

from datetime import UTC, datetime
from typing import Any

import pytest

from feature_rollout.kube.jobs import JobAnswer
from feature_rollout.runtime.targets import Checks


class Asked:
    """Notes who was asked, and when."""

    manifests = ("preflight/rehearsed",)

    def __init__(self, said: Any) -> None:
        self.said = said
        self.questions: list[tuple[object, ...]] = []
        self.at = datetime.min.replace(tzinfo=UTC)

    async def ask(self, *question: object) -> Any:
        self.at = datetime.now(UTC)
        self.questions.append(question)
        return self.said


@pytest.mark.parametrize("said", [(True, "PASS in 3 of 3 rows"), (False, "no row"), (None, "it is away")])
async def test_the_database_is_asked_and_an_answer_is_as_old_as_its_question(said: tuple[bool | None, str]) -> None:
    sql: Any = Asked(said)
    jobs: Any = Asked(None)
    answer = await Checks(sql, jobs).ask("preflight/backup", 3)
    assert (answer.passed, answer.message, answer.running) == (*said, False)
    assert (answer.name, sql.questions, jobs.questions) == ("preflight/backup", [("preflight/backup",)], [])
    assert answer.at <= sql.at


async def test_a_job_is_asked_for_the_attempt() -> None:
    jobs: Any = Asked(JobAnswer(None, "Job a runs", running=True))
    answer = await Checks(None, jobs).ask("preflight/rehearsed", 3)
    assert (answer.name, answer.passed, answer.message, answer.running) == (
        "preflight/rehearsed",
        None,
        "Job a runs",
        True,
    )
    assert jobs.questions == [("preflight/rehearsed", 3)]
    assert answer.at <= jobs.at
