"""Exit codes, and ending with one. Imports nothing: the kill switch needs no client of Kubernetes."""

from __future__ import annotations

from typing import Final, NoReturn

import click

ERROR: Final = 1
DEGRADED: Final = 3
TIMEOUT: Final = 4
NOT_FOUND: Final = 5


def fail(message: str, code: int = ERROR) -> NoReturn:
    """End the program with an error on standard error."""
    click.echo(f"error: {message}", err=True)
    raise SystemExit(code)
