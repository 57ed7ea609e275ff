"""A database as its users have it, and builders of what a store is asked to do."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Self

import psycopg
import pytest

from feature_rollout.core.exposure import DISABLED, Exposure
from feature_rollout.core.plan import OnDelete, Severity
from feature_rollout.core.state import Breach, Latch, Ledger
from feature_rollout.ports import Claim, Commit, Lowering, Problem, Why
from feature_rollout.sandbox.database import PostgresAccess
from feature_rollout.store import PostgresFlagStore, StoreConfig, TableMapping, migrations, serving
from support.databases import Database

KEY = "cluster/shop/rollout"
OTHER_KEY = "cluster/shop/other"

FLAG_TABLE = """
CREATE TABLE public.feature_flags (
  id                 uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  name               varchar(100) UNIQUE NOT NULL,
  description        text NOT NULL DEFAULT 'for people: 100 % "quoted"',
  enabled            boolean DEFAULT false,
  rollout_percentage integer DEFAULT 0 CHECK (rollout_percentage BETWEEN 0 AND 100),
  user_groups        text[] DEFAULT '{}',
  metadata           jsonb NOT NULL DEFAULT '{"owner": "team"}',
  updated_at         timestamptz NOT NULL DEFAULT '2020-01-01'
);
CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN NEW.updated_at = now(); RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE UPDATE ON public.feature_flags FOR EACH ROW EXECUTE FUNCTION public.touch();
INSERT INTO public.feature_flags (name) VALUES ('alpha'), ('beta'), ('gamma'), ('bystander');
"""
GRANT = "GRANT SELECT, UPDATE (enabled, rollout_percentage, user_groups) ON public.feature_flags TO {}"


def template(server: PostgresAccess) -> str:
    """The name of a database with the flag table and the bookkeeping in it, to be copied."""

    def prepare(uri: str) -> None:
        with psycopg.connect(uri, autocommit=True) as connection:
            connection.execute((migrations.script() + serving.serve_statement(TableMapping())).encode())
            connection.execute(FLAG_TABLE.encode())

    return server.ensure_template("flag_store", prepare)


def everyone(percentage: int | str) -> Exposure:
    return Exposure(True, Decimal(percentage))


def only(percentage: int | str, *groups: str) -> Exposure:
    return Exposure(True, Decimal(percentage), frozenset(groups))


OFF = Exposure(False, Decimal(0))


def why(reason: str = "Test", **fields: Any) -> Why:
    return Why(reason=reason, message="a test does it", generation=1, stage="canary", **fields)


def latch(severity: Severity = Severity.HIGH, spec_hash: str = "spec-1") -> Latch:
    now = datetime(2026, 1, 5, 9, tzinfo=UTC)
    breach = Breach(
        severity=severity,
        metric="error-rate",
        clause="error-rate above 1%",
        value="3%",
        limit="1%",
        log_evidence=6.5,
        onset_at=now,
        respond_within=timedelta(minutes=15),
        action="DisableFlags",
    )
    return Latch(breach, "canary", spec_hash, now + timedelta(minutes=3))


@dataclass
class World:
    """A database with its roles, and stores on it."""

    database: Database
    writer: str
    stores: list[PostgresFlagStore] = field(default_factory=list)

    @classmethod
    def on(cls, database: Database) -> Self:
        """With a writer that may do what is documented."""
        writer = database.role("writer")
        database.execute(GRANT.format(writer))
        database.execute(f"GRANT feature_rollout_writer TO {writer}")
        return cls(database, writer)

    def config(self, **changes: Any) -> StoreConfig:
        return replace(StoreConfig(self.database.uri(self.writer), notify_channel="feature_flags"), **changes)

    def new_store(self, **changes: Any) -> PostgresFlagStore:
        store = PostgresFlagStore(self.config(**changes))
        self.stores.append(store)
        return store

    @property
    def store(self) -> PostgresFlagStore:
        """One store for the whole test."""
        return self.stores[0] if self.stores else self.new_store()

    def row(self, flag: str) -> Exposure:
        found = self.database.query("SELECT * FROM public.feature_flags WHERE name = %s", flag)[0]
        return Exposure(found["enabled"], Decimal(found["rollout_percentage"]), frozenset(found["user_groups"]))

    def frame(self) -> list[str]:
        """Everything in the table that the operator must leave alone, byte by byte."""
        rows = self.database.query(
            "SELECT id::text || name || description || metadata::text || (t.ctid IS NOT NULL)::text AS bytes "
            "FROM public.feature_flags t ORDER BY name"
        )
        untouched = self.database.query("SELECT t::text AS bytes FROM public.feature_flags t WHERE name = 'bystander'")
        return [row["bytes"] for row in (*rows, *untouched)]

    def everything(self) -> str:
        """All rows of all tables, to see that nothing was written."""
        tables = (
            "public.feature_flags",
            *(f"feature_rollout.{t}" for t in ("ledger", "plan", "ownership", "audit", "action", "evidence")),
        )
        return json.dumps({t: self.database.query(f"SELECT t::text FROM {t} t ORDER BY 1") for t in tables})

    def audit(self) -> list[dict[str, Any]]:
        return self.database.query("SELECT * FROM feature_rollout.audit ORDER BY id")

    def ledger_row(self, key: str = KEY) -> dict[str, Any]:
        return self.database.query("SELECT * FROM feature_rollout.ledger WHERE key = %s", key)[0]

    def owners(self) -> dict[str, str | None]:
        return {row["flag"]: row["owner"] for row in self.database.query("SELECT * FROM feature_rollout.ownership")}

    def set_row(self, flag: str, exposure: Exposure) -> None:
        self.database.execute(
            "UPDATE public.feature_flags SET enabled = %s, rollout_percentage = %s, user_groups = %s WHERE name = %s",
            exposure.enabled,
            exposure.percentage,
            sorted(exposure.groups),
            flag,
        )

    def forget_writer_for(self, interval: str, key: str = KEY) -> None:
        self.database.execute(
            "UPDATE feature_rollout.ledger SET updated_at = now() - %s::interval WHERE key = %s", interval, key
        )

    async def raised(self, ledger: Ledger, **after: Exposure) -> Ledger:
        """Commit these rows from what they are now."""
        return await raised_by(self.store, ledger, **after)


async def raised_by(store: PostgresFlagStore, ledger: Ledger, **after: Exposure) -> Ledger:
    """Commit these rows from what they are now."""
    before = (await store.read(ledger.key, list(after))).rows
    baseline = {**before, **ledger.baseline}
    change = replace(ledger, stage=ledger.stage + 1, baseline=baseline, written={**ledger.written, **after})
    return await store.commit(Commit(change, before, after, why("StageEntered")))


def claim(
    *flags: str, key: str = KEY, uid: str = "uid-1", spec_hash: str = "spec-1", plan_hash: str = "plan-1"
) -> Claim:
    return Claim(key, uid, flags or ("alpha", "beta"), spec_hash, plan_hash, OnDelete.KEEP)


def lowering(targets: Mapping[str, Exposure] | Sequence[str], **fields: Any) -> Lowering:
    """A lowering to these targets; flags without one are disabled."""
    if not isinstance(targets, Mapping):
        targets = dict.fromkeys(targets, DISABLED)
    return Lowering(key=fields.pop("key", KEY), targets=targets, why=fields.pop("why", why("Breach")), **fields)


async def problem_of(awaitable: Any) -> Problem:
    """The Problem that it raises; no more than our own words may be in it."""
    with pytest.raises(Problem) as caught:
        await awaitable
    assert caught.value.__cause__ is None
    return caught.value
