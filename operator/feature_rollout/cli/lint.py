"""`featurerollout lint`: are these manifests right, as far as that can be said without a cluster?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from feature_rollout.cli.files import files_argument, load


@click.command("lint")
@files_argument
@click.option("-o", "--output", type=click.Choice(("text", "json", "sarif")), default="text", show_default=True)
def command(files: tuple[Path, ...], *, output: str) -> None:
    """Check the manifests in FILES: each by itself, and what they say about each other.

    A folder stands for every *.yaml and *.yml in it and below. Give all files together,
    since references are followed among them. Exit code 1 when there is an error, or not one
    document; warnings and notes (fields without effect in this version) are printed only.
    """
    from feature_rollout.api.lint import Level, lint
    from feature_rollout.cli.sarif import records, sarif

    documents = load(files)
    findings = lint(documents)
    if output == "text":
        for finding in findings:
            click.echo(str(finding))
    else:
        found = sarif(findings, documents) if output == "sarif" else records(findings, documents)
        click.echo(json.dumps(found, indent=2))
    counts = {level: sum(finding.level is level for finding in findings) for level in Level}
    words = ", ".join(f"{count} {level}{'' if count == 1 else 's'}" for level, count in counts.items())
    if not documents:
        click.echo("error: no documents: the files are empty, and nothing was checked", err=True)
        raise SystemExit(1)
    click.echo(f"{len(documents)} document{'' if len(documents) == 1 else 's'}: {words}", err=True)
    raise SystemExit(1 if counts[Level.ERROR] else 0)
