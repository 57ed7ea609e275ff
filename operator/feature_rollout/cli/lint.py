"""`featurerollout lint`: are these manifests right, as far as that can be said without a cluster?"""

from __future__ import annotations

from pathlib import Path

import click

from feature_rollout.cli.files import files_argument, load


@click.command("lint")
@files_argument
def command(files: tuple[Path, ...]) -> None:
    """Check the manifests in FILES: each by itself, and what they say about each other.

    A folder stands for every *.yaml and *.yml in it and below. Give all files together,
    since references are followed among them. Exit code 1 when there is an error; warnings
    and notes (fields without effect in this version) are printed only.
    """
    from feature_rollout.api.lint import Level, lint

    documents = load(files)
    findings = lint(documents)
    for finding in findings:
        click.echo(str(finding))
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    words = ", ".join(f"{count} {level}{'' if count == 1 else 's'}" for level, count in counts.items())
    click.echo(f"{len(documents)} documents: {words}", err=True)
    raise SystemExit(1 if counts[Level.ERROR] else 0)
