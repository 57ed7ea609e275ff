"""What is named on the command line: manifests, as files and folders with all that is in them, and times."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from feature_rollout.api.manifests import Document

F = TypeVar("F", bound=Callable[..., Any])

SUFFIXES = {".yaml", ".yml"}


def files_argument(function: F) -> F:
    """FILES: at least one file or folder that is there."""
    argument = click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
    return argument(function)


def moment(_context: click.Context, _parameter: click.Parameter, value: str | None) -> datetime | None:
    """The callback of an option that is a time, which must have its offset."""
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise click.BadParameter(f'"{value}" is not a time with its offset, such as 2026-01-05T09:00:00+01:00')
    return time


def load(files: tuple[Path, ...]) -> list[Document]:
    """The documents of the files, and of every *.yaml and *.yml below the folders; ends the program with an error."""
    from feature_rollout.api.manifests import ManifestError
    from feature_rollout.api.manifests import load as parse

    documents: list[Document] = []
    for file in dict.fromkeys(found for path in files for found in _files(path)):
        try:
            documents += parse(file.read_text(encoding="utf-8"), str(file))
        except (ManifestError, UnicodeDecodeError) as error:
            prefix = "" if isinstance(error, ManifestError) else f"{file}: "
            raise click.ClickException(f"{prefix}{error}") from None
        except OSError as error:
            raise click.ClickException(f"{file}: {error.strerror}") from None
    return documents


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    found = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    if not found:
        raise click.UsageError(f"{path} has no *.yaml and no *.yml in it or below")
    yield from found
