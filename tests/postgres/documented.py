"""A database that was set up by running the SQL of a page of the documentation, and by nothing else."""

import re
import secrets
from pathlib import Path

import psycopg

from feature_rollout.sandbox.postgres import PostgresServer
from postgres.world import FLAG_TABLE

REPOSITORY = Path(__file__).parents[2]
TABLES = "CREATE TABLE notifications (id int); CREATE TABLE feature_flag_usage (id int);"


def blocks(page: str, language: str = "sql") -> list[str]:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def role_blocks(page: str) -> list[str]:
    """Those that make roles; the others ask the bookkeeping."""
    return [block for block in blocks(page) if "feature_rollout." not in block]


class Setup:
    """A database `app` with its users' tables, and the documented roles with the one password that is filled in."""

    def __init__(self, server: PostgresServer, tables: str = FLAG_TABLE + TABLES) -> None:
        self.server = server
        self._password = secrets.token_urlsafe(12)
        server.create_database("app")
        self.run(tables)

    def run(self, statements: str) -> None:
        with psycopg.connect(self.server.uri("app"), autocommit=True) as connection:
            connection.execute(statements.replace("'…'", f"'{self._password}'").encode())

    def uri(self, role: str) -> str:
        return self.server.uri("app", role, self._password)

    @property
    def env(self) -> dict[str, str]:
        roles = ("writer", "reader", "owner")
        return {f"FEATUREROLLOUT_{role.upper()}_URI": self.uri(f"flags_{role}") for role in roles}
