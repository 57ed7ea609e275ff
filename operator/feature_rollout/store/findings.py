"""What is said of a database: findings; and how the catalogue is asked for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from feature_rollout.ports import Problem
from feature_rollout.postgres import Connection


class Result(StrEnum):
    OK = "ok"
    WARNING = "warning"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `message` says what was found and, unless all is well, what to do. No secret is in it."""

    check: str
    result: Result
    message: str


Checks = AsyncIterator[Finding]


def ok(check: str, message: str) -> Finding:
    return Finding(check, Result.OK, message)


def warning(check: str, message: str) -> Finding:
    return Finding(check, Result.WARNING, message)


def error(check: str, message: str) -> Finding:
    return Finding(check, Result.ERROR, message)


def of_problem(check: str, problem: Problem) -> Finding:
    return error(check, f"{problem.reason}: {problem.message}")


async def fetch(connection: Connection, statement: str, *params: object) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(statement.encode(), params or None)
    return await cursor.fetchall()


async def fetch_row(connection: Connection, statement: str, *params: object) -> tuple[Any, ...]:
    return (await fetch(connection, statement, *params))[0]
