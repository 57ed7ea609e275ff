"""`featurerollout kill`: flags off, straight in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from feature_rollout.cli import database, exits

if TYPE_CHECKING:
    from collections.abc import Callable

    from feature_rollout.store.kill import KillSwitch, Order, Outcome


@click.command("kill")
@click.argument("flags", nargs=-1, required=True, metavar="FLAG…")
@click.option("--reason", required=True, callback=database.reason_text, help="Why; it stands in the audit.")
@database.uri_options
@database.table_options
@click.option("--notify-channel", metavar="NAME", help="NOTIFY on this channel, as the FlagStore's notifyChannel.")
@click.option("--ignore-missing", is_flag=True, help="Disable the others when a flag has no row.")
@click.option("--lift", is_flag=True, help="End an earlier kill: rollouts may enable the flags again.")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
def command(
    flags: tuple[str, ...],
    *,
    reason: str,
    database_uri_env: str | None,
    uri_file: str | None,
    notify_channel: str | None,
    ignore_missing: bool,
    lift: bool,
    dry_run: bool,
    **columns: str,
) -> None:
    """Disable flags now, in the database, without Kubernetes or the operator.

    The connection string is that of --database-uri-env NAME or of --uri-file FILE (- is standard
    input); without both that of FEATUREROLLOUT_DATABASE_URI, else of FEATUREROLLOUT_WRITER_URI.
    The rights of the FlagStore's writer are enough. A rollout that had raised a flag sees a
    change by somebody else, pauses, and leaves the flag off until it is told otherwise. One that
    has not come to the flag yet stops before it. --lift ends that, and changes no row.

    Exit codes: 0 all are off (also when they were before), 4 some stayed locked and are still
    on, 5 a flag has no row and nothing was written, 1 anything else: the flags are off and the
    audit could not be written, or what `error:` says.
    """
    from feature_rollout.connectionstring import parse_uri
    from feature_rollout.ports import Problem
    from feature_rollout.store.config import StoreConfig
    from feature_rollout.store.kill import KillSwitch, Order

    table = database.mapping(**columns)
    uri = database.uri(database_uri_env, uri_file, database.DATABASE_URI, "FEATUREROLLOUT_WRITER_URI")
    try:
        actor = database.actor(parse_uri(uri, "writer", database.access()).role)
    except Problem as problem:
        exits.fail(str(problem))
    order = Order(tuple(dict.fromkeys(flags)), actor, reason, ignore_missing)

    async def question() -> Outcome:
        switch = KillSwitch(StoreConfig(uri, table=table, notify_channel=notify_channel, access=database.access()))
        try:
            return await (switch.preview(order) if dry_run else switch.kill(order))
        finally:
            await switch.close()

    if lift:
        if dry_run:
            raise click.UsageError("--lift and --dry-run exclude each other")
        _lift(order, lambda: KillSwitch(StoreConfig(uri, table=table)))
        return
    outcome = database.ask(question)
    _print(outcome, " (dry run: not written)" if dry_run else "")
    raise SystemExit(_exit_code(outcome, ignore_missing=ignore_missing))


def _lift(order: Order, make: Callable[[], KillSwitch]) -> None:
    async def question() -> list[str]:
        switch = make()
        try:
            return await switch.lift(order)
        finally:
            await switch.close()

    lifted = database.ask(question)
    for flag in order.flags:
        click.echo(f"{flag}: {'rollouts may enable it again' if flag in lifted else 'was not held'}")


def _print(outcome: Outcome, suffix: str) -> None:
    for flag, change in sorted(outcome.changes.items()):
        done = "already off" if change.before == change.after else f"{change.before} -> {change.after}{suffix}"
        click.echo(f"{flag}: {done}")
    for flag, problem in sorted(outcome.left.items()):
        click.echo(f"{flag}: NOT changed: {problem.message}")
    for flag in outcome.missing:
        click.echo(f"{flag}: has no row")
    if outcome.left:
        click.echo(f"error: still as they were: {', '.join(sorted(outcome.left))}; run it again", err=True)
    if outcome.unrecorded is not None:
        why = outcome.unrecorded
        click.echo(
            f"error: the flags are off, and the audit could not be written ({why.reason}: {why.message}); "
            "keep the lines above as the record",
            err=True,
        )


def _exit_code(outcome: Outcome, *, ignore_missing: bool) -> int:
    """The worst of what is left: a flag that is still on, then one that is missing, then the record."""
    if outcome.left:
        codes = {database.exit_code(problem) for problem in outcome.left.values()}
        return exits.TIMEOUT if codes == {exits.TIMEOUT} else exits.ERROR
    if outcome.missing and not ignore_missing:
        return exits.NOT_FOUND
    return exits.ERROR if outcome.unrecorded is not None else 0
