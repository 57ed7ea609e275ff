"""`featurerollout simulate`: what the engine would do, given looks and what people do, in virtual time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from feature_rollout.cli.files import files_argument, load, moment

if TYPE_CHECKING:
    from feature_rollout.api.featurerollout import FeatureRollout
    from feature_rollout.api.lint import Resolved
    from feature_rollout.api.manifests import Document

T = TypeVar("T")
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("simulate")
@files_argument
@click.option("--looks", type=_FILE, required=True, metavar="LOOKS.jsonl", help="What the metrics showed.")
@click.option("--start", callback=moment, required=True, metavar="TIME", help="When it starts, with its offset.")
@click.option("--until", callback=moment, metavar="TIME", help="When to stop; by default when nothing can change.")
@click.option("--flags", type=_FILE, metavar="FLAGS.jsonl", help="The rows before; by default disabled, at 0 %.")
@click.option("--actions", type=_FILE, metavar="ACTIONS.jsonl", help="What people do, and when.")
@click.option("-o", "--output", type=click.Choice(("jsonl",)), default="jsonl", show_default=True)
def command(
    files: tuple[Path, ...],
    *,
    looks: Path,
    start: datetime,
    until: datetime | None,
    flags: Path | None,
    actions: Path | None,
    output: str,  # noqa: ARG001 - there is one format so far
) -> None:
    """Run the rollout in FILES in virtual time over given looks, without a cluster or a database.

    The same core as in the operator decides; a JSON object is printed for each look and for
    each change of the decision. What is needed of FILES is the FeatureRollout, and the
    RollbackMatrix and the MetricTemplates that it names. Migrations, jobs, checks that are SQL
    and other rollouts are taken as done and passed, which is said on standard error. Exit code 1 when
    a manifest or a line is wrong; a rollback is a result like any other.
    """
    from feature_rollout.api import recorded
    from feature_rollout.core.simulate import Scenario, simulate

    resolved = _resolved(load(files))
    plan, spec, metadata = resolved.plan, resolved.rollout.spec, resolved.rollout.metadata
    names = [stage.name for stage in plan.stages]
    scenario = Scenario(
        plan=plan,
        start=start,
        key=f"simulation/{metadata.namespace or 'default'}/{metadata.name}",
        looks=_lines(looks, lambda lines, source: recorded.looks(lines, source, plan.metrics)),
        requests=_lines(actions, lambda lines, source: recorded.actions(lines, source, names)) if actions else (),
        rows=_lines(flags, recorded.flags) if flags else {},
        until=until,
        suspended=spec.suspend,
        hold_at=spec.hold_at,
    )
    for assumed in _assumed(resolved.rollout):
        click.echo(f"note: {assumed}", err=True)
    # Not by `echo`, which flushes after each of hundreds of thousands.
    sys.stdout.writelines(json.dumps(line) + "\n" for line in simulate(scenario))


def _resolved(documents: Sequence[Document]) -> Resolved:
    """The one rollout, in which nothing stops for what this version, or a simulation, cannot do."""
    from dataclasses import replace

    from feature_rollout.api.lint import Level, lint, plans

    errors = [finding for finding in lint(documents, stores=False) if finding.level is Level.ERROR]
    for finding in errors:
        click.echo(str(finding), err=True)
    if errors:
        raise SystemExit(1)
    found = plans(documents)
    if len(found) != 1:
        names = f": {', '.join(one.rollout.metadata.name for one in found)}" if found else ""
        raise click.UsageError(f"one FeatureRollout is simulated at a time, and these files have {len(found)}{names}")
    (resolved,) = found
    stages = tuple(replace(stage, blockers=(), after=()) for stage in resolved.plan.stages)
    return replace(resolved, plan=replace(resolved.plan, stages=stages))


def _assumed(rollout: FeatureRollout) -> Iterator[str]:
    """What nobody does or asks in a simulation, and is taken as if it had gone well."""
    checks = {f"spec.preflight[{index}]": check for index, check in enumerate(rollout.spec.preflight)}
    for index, stage in enumerate(rollout.spec.stages):
        if stage.migrations:
            yield f"spec.stages[{index}].migrations ({stage.name}) are taken as done"
        for i, one in enumerate(stage.after):
            yield f"spec.stages[{index}].after[{i}] ({one.rollout}, {one.stage}) is taken as passed"
        checks |= {f"spec.stages[{index}].checks[{i}]": check for i, check in enumerate(stage.checks)}
    for path, check in checks.items():
        if check.confirm is None:
            yield f"{path} ({check.name}) is taken as passed"


def _lines(path: Path, read: Callable[[Iterator[str], str], T]) -> T:
    from feature_rollout.api.recorded import RecordError

    try:
        with path.open(encoding="utf-8") as lines:
            return read(lines, str(path))
    except RecordError as error:
        raise click.ClickException(str(error)) from None
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{path}: {error}") from None
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
