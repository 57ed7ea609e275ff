"""`featurerollout lint`: are these manifests right, as far as that can be said without a cluster?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from feature_rollout.api.manifests import Document


@click.command("lint")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def command(files: tuple[Path, ...]) -> None:
    """Check the manifests in FILES: each by itself, and what they say about each other.

    Give all files together, since references are followed among them. Exit code 1 when
    there is an error; warnings and notes (fields without effect in this version) are
    printed only.
    """
    from feature_rollout.api.lint import Level, lint
    from feature_rollout.api.manifests import ManifestError

    try:
        documents = [document for file in files for document in _load(file)]
    except ManifestError as error:
        raise click.ClickException(str(error)) from None
    findings = lint(documents)
    for finding in findings:
        click.echo(str(finding))
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    words = ", ".join(f"{count} {level}{'' if count == 1 else 's'}" for level, count in counts.items())
    click.echo(f"{len(documents)} documents: {words}", err=True)
    raise SystemExit(1 if counts[Level.ERROR] else 0)


def _load(file: Path) -> list[Document]:
    from feature_rollout.api.manifests import ManifestError, load

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{file}: {error}") from None
    return load(text, str(file))
