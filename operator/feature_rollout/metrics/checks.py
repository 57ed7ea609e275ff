"""Checks in SQL: a question to the store's database with one answer that is right, asked by the reader (`reader.py`).

A check's answer may be text of any size, in any number of rows. So the database itself
compares it: the check's SQL is asked for its columns first, without running it, and then
runs as a sub-query of a comparison, of which one short row comes over. Nothing can close
that sub-query early: what is a SELECT by itself has no parenthesis that it does not open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from feature_rollout.metrics.reader import Cursor, SqlReader, UnusableAnswerError

ROWS_MAX: Final = 1000
NAME_CHARACTERS_MAX: Final = 80
# A column of one of these names says which row failed; the first that there is.
_NAMES: Final = ("name", "check_name", "check")
# As long as `expect` may be, and one more, so that what begins like it is not taken for it.
_VALUE_CHARACTERS_MAX: Final = 257

# A `;` ends a SELECT, but not a sub-query. Comments may follow it.
_END: Final = re.compile(r";(?:\s|--[^\n]*(?:\n|\Z))*\Z")


@dataclass(frozen=True, slots=True)
class SqlCheck:
    """A check's SQL, and what it must answer; None is `true`."""

    text: str
    expect: str | None = None


class SqlChecks:
    """The SQL checks of one rollout, by name.

    `rollout` says whose they are: queries of one rollout wait for each other.
    """

    def __init__(self, reader: SqlReader, checks: Mapping[str, SqlCheck], rollout: str = "") -> None:
        self._reader = reader
        self._checks = checks
        self._rollout = rollout

    async def ask(self, name: str) -> tuple[bool | None, str]:
        """Whether the check passed, None when it could not be asked, and why; raises only when it is cancelled."""
        check = self._checks.get(name)
        if check is None:
            return None, "this rollout has no SQL check of that name"
        try:
            columns = await self._reader.ask(check.text, None, _columns, rollout=self._rollout)
            match check.expect:
                case "Rows":
                    return await self._rows(check.text)
                case "AllPass":
                    return await self._all_pass(check.text, columns)
                case expected:
                    return await self._value(check.text, columns, expected or "true")
        except Exception as error:  # noqa: BLE001 - a check must not end the loop that asks for it
            return None, self._reader.explained(error)

    async def _rows(self, text: str) -> tuple[bool, str]:
        rows = await self._fetch(f"SELECT true FROM ({_subquery(text)}) q LIMIT 1")  # noqa: S608 - it is the tenant's, and held as such
        return (True, "there are rows") if rows else (False, "no row was returned, at least one is wanted")

    async def _value(self, text: str, columns: Sequence[str], expected: str) -> tuple[bool, str]:
        if len(columns) != 1:
            raise UnusableAnswerError(f"{len(columns)} columns were returned, exactly one is wanted")
        rows = await self._fetch(
            f"SELECT left(q.c::text, {_VALUE_CHARACTERS_MAX}) FROM ({_subquery(text)}) q(c) LIMIT 2"  # noqa: S608 - as above
        )
        if len(rows) != 1:
            return False, f"{'more than one' if rows else 'no'} row was returned, exactly one is wanted"
        passed = rows[0][0] == expected
        return passed, f"the answer is {'' if passed else 'not '}{expected}"

    async def _all_pass(self, text: str, columns: Sequence[str]) -> tuple[bool, str]:
        if columns.count("status") != 1:
            raise UnusableAnswerError("one column status is wanted, PASS in every row")
        status = columns.index("status")
        name = next((columns.index(name) for name in _NAMES if name in columns), None)
        named = "NULL::text" if name is None else f"left(c{name}::text, {NAME_CHARACTERS_MAX})"
        # By position, because names may be doubled, and are not ours.
        aliases = ", ".join(f"c{i}" for i in range(len(columns)))
        rows = await self._fetch(
            "SELECT count(*), count(*) FILTER (WHERE failed), (array_agg(name) FILTER (WHERE failed))[1] FROM "  # noqa: S608 - as above
            f"(SELECT c{status}::text IS DISTINCT FROM 'PASS' AS failed, {named} AS name "
            f"FROM ({_subquery(text)}) q({aliases}) LIMIT {ROWS_MAX + 1}) r"
        )
        count, failed, first = rows[0]
        if count > ROWS_MAX:
            raise UnusableAnswerError(f"more than {ROWS_MAX} rows were returned")
        if not count:
            return False, "no row was returned, at least one is wanted"
        if not failed:
            return True, f"PASS in {count} of {count} rows"
        return False, f"{failed} of {count} rows are not PASS{_first(first)}"

    async def _fetch(self, statement: str) -> list[tuple[Any, ...]]:
        return await self._reader.ask(statement, None, lambda cursor: cursor.fetchmany(2), rollout=self._rollout)


async def _columns(cursor: Cursor) -> list[str]:
    return [column.name for column in cursor.description or ()]


def _subquery(text: str) -> str:
    # On lines of its own: a comment may be at its end.
    return f"\n{_END.sub('', text)}\n"


def _first(name: str | None) -> str:
    if name is None:
        return ""
    return ", the first is " + "".join(c if c.isprintable() else " " for c in name)
