"""`featurerollout crds`: the CustomResourceDefinitions and admission policies of this version."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("crds")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write one file for each kind into this folder instead of printing them.",
)
@click.option(
    "--check",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="Write nothing; exit with 1 and name the files of this folder that differ.",
)
@click.option(
    "--without-mutating-policy",
    is_flag=True,
    help="For Kubernetes before 1.37: leave the MutatingAdmissionPolicy out. People then write spec.requestedBy "
    "themselves, which the other policy checks; the verbs of this program do.",
)
def command(*, output: Path | None, check: Path | None, without_mutating_policy: bool) -> None:
    """Print the CustomResourceDefinitions and the policies on who may act, for `kubectl apply --server-side -f -`."""
    from feature_rollout.api import crd

    files = {
        name: text for name, text in crd.files().items() if not (without_mutating_policy and name == crd.STAMP_FILE)
    }
    if output is not None and check is not None:
        raise click.UsageError("--output writes and --check does not: use one of them")
    if check is not None:
        different = drift(check, files)
        for name in different:
            click.echo(f"{check / name} differs from the models: run featurerollout crds --output {check}", err=True)
        raise SystemExit(1 if different else 0)
    if output is None:
        click.echo("---\n".join(files.values()), nl=False)
        return
    output.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (output / name).write_text(text, encoding="utf-8")


def drift(folder: Path, expected: dict[str, str]) -> list[str]:
    """The files that are missing, that differ, or that should not be there."""
    found = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.yaml"))}
    return [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
