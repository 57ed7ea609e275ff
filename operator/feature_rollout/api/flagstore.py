"""FlagStore: the database that holds the flags."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from feature_rollout.api.base import ApiModel, Resource
from feature_rollout.api.conditions import ObjectStatus
from feature_rollout.api.rules import immutable
from feature_rollout.api.values import AS_SET, CertificateSource, Identifier, SecretSource
from feature_rollout.core.plan import OnDrift


class Pooler(StrEnum):
    SESSION = "Session"
    TRANSACTION = "Transaction"


class Allowed(StrEnum):
    MIGRATIONS = "Migrations"
    ROLLBACK_SCRIPTS = "RollbackScripts"


class Postgres(ApiModel):
    """The connections to the database, one for each role. A connection string is read from a Secret."""

    writer: Annotated[SecretSource, immutable("the writer, which is the database,")]
    """Changes the flags: SELECT and UPDATE of the mapped columns, and member of feature_rollout_writer.

    Cannot be changed, because it says which database this is; the Secret's content can.
    """
    reader: SecretSource | None = None
    """Runs the SQL of metrics and checks, read-only. Without it no SQL metric can be measured."""
    owner: SecretSource | None = None
    """Creates the bookkeeping schema and keeps it up to date. Without it, run `featurerollout store install`."""
    ca_certificate: CertificateSource | None = None
    """The CA of the server's certificate, which is then verified with the host's name (sslmode=verify-full).

    Without it sslmode=verify-full trusts the CAs of the operator's system.
    """
    pooler: Pooler = Pooler.SESSION
    """Transaction: behind PgBouncer or Supavisor in transaction mode, with no LISTEN and no start-up options."""


class Columns(ApiModel):
    """The columns of the flag table."""

    name: Identifier = "name"
    """The flag's name, unique."""
    enabled: Identifier = "enabled"
    """Whether the flag is on at all (boolean)."""
    percentage: Identifier = "rollout_percentage"
    """The share of users who have it, 0 to 100 (integer or numeric)."""
    groups: Identifier = "user_groups"
    """The groups who have it (text[]); empty is everyone."""


class Table(ApiModel):
    """The flag table."""

    schema_: Annotated[Identifier, Field(alias="schema")] = "public"
    """The table's schema."""
    name: Identifier = "feature_flags"
    """The table's name."""
    columns: Columns = Columns()
    """How its columns are called."""


class FlagStoreSpec(ApiModel):
    """A database, its roles, and how its flag table is called."""

    postgres: Postgres
    """How to reach the database."""
    table: Annotated[Table, immutable("the table")] = Table()
    """The flag table. Cannot be changed, because the flags' owners are kept by table."""
    notify_channel: Identifier | None = None
    """NOTIFY on this channel after each change, so that services drop what they remember of the flags."""
    on_drift: OnDrift = OnDrift.RESPECT
    """What to do while somebody else has changed a flag.

    Respect pauses the rollout; guards lower the row where it is more exposed than they
    allow, and leave it alone where it is not. LowerOnly pauses it too; guards lower the
    row as any other. Report only tells: the next stage that names the flag makes its row
    what the plan says.
    """
    allow: Annotated[tuple[Allowed, ...], Field(max_length=2), AS_SET] = ()
    """What rollouts may run as the owner. Not in effect yet: nothing is run for a rollout, be it named here or not."""


class FlagStore(Resource):
    """A PostgreSQL database that holds feature flags."""

    plural: ClassVar = "flagstores"
    short_names: ClassVar = ("fs",)

    api_version: Literal["featurerollout.dev/v1alpha1"]
    kind: Literal["FlagStore"]
    spec: FlagStoreSpec
    """The database and its flag table."""
    status: ObjectStatus | None = None
    """Whether the database can be reached and is set up."""
