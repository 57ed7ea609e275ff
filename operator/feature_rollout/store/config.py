"""What a FlagStore object says, once its Secrets are read."""

from __future__ import annotations

from dataclasses import dataclass, field

from feature_rollout.connectionstring import ANYWHERE, Access
from feature_rollout.postgres import Subject, quoted


@dataclass(frozen=True, slots=True)
class TableMapping:
    """The flag table and its columns; other columns are never read or written."""

    schema: str = "public"
    table: str = "feature_flags"
    name: str = "name"
    enabled: str = "enabled"
    percentage: str = "rollout_percentage"
    groups: str = "user_groups"

    def __str__(self) -> str:
        return quoted(self.schema, self.table)

    @property
    def written_columns(self) -> tuple[str, str, str]:
        return (self.enabled, self.percentage, self.groups)

    def grant(self, role: str) -> str:
        """The statement that gives a writer all that it needs on the table, and no more."""
        columns = ", ".join(quoted(column) for column in self.written_columns)
        return f"GRANT SELECT, UPDATE ({columns}) ON {self} TO {quoted(role)}"

    def subject(self, role: str) -> Subject:
        return Subject(role, str(self), self.grant(role))

    def reading_subject(self, role: str) -> Subject:
        """For who only reads flags: services, and people who ask about them."""
        columns = ", ".join(quoted(column) for column in (self.name, *self.written_columns))
        return Subject(role, str(self), f"GRANT SELECT ({columns}) ON {self} TO {quoted(role)}")


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Connection strings (secrets: never shown), the table, and whom to tell of changes.

    `reader_uri` is what metric queries are run with; the store itself does not use it.
    With `owner_uri` the store installs its bookkeeping by itself.
    """

    writer_uri: str = field(repr=False)
    reader_uri: str | None = field(default=None, repr=False)
    owner_uri: str | None = field(default=None, repr=False)
    table: TableMapping = TableMapping()
    notify_channel: str | None = None
    access: Access = ANYWHERE
