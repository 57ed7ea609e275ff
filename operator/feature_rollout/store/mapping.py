"""From a FlagStore object to its table's mapping; apart, because `config` is imported by services too."""

from __future__ import annotations

from feature_rollout.api.flagstore import Table
from feature_rollout.store.config import TableMapping


def mapping_of(table: Table) -> TableMapping:
    """The flag table and its columns, as a FlagStore names them."""
    columns = table.columns
    return TableMapping(table.schema_, table.name, columns.name, columns.enabled, columns.percentage, columns.groups)
