"""Rollout control for feature flags that live in a PostgreSQL table."""

__version__ = "0.1.0"
