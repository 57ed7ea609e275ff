"""Flags, ledger and audit in PostgreSQL."""

from feature_rollout.store.config import StoreConfig, TableMapping
from feature_rollout.store.store import PostgresFlagStore

__all__ = ["PostgresFlagStore", "StoreConfig", "TableMapping"]
