"""`featurerollout`, also installed as the kubectl plugin `kubectl featurerollout`: a module a verb or a family."""

from __future__ import annotations

import importlib

import click

from feature_rollout import __version__

# Each verb is imported when it is called: `bucket` need not wait for the Kubernetes client.
VERBS = {
    "run": "Run the operator.",
    "demo": "Show a rollout and its revert on a real control plane and database.",
    "status": "Show rollouts and where they are.",
    "explain": "Say why a rollout is where it is, and what it waits for.",
    "history": "Say what happened to a rollout, when, by whom and why.",
    "approve": "Let a stage begin that waits for approval.",
    "confirm": "Say that a check which people must confirm is so.",
    "promote": "End the current bake and its gates.",
    "pause": "Stop raising; guards go on.",
    "resume": "Go on after a pause, a hold, or a change by hand.",
    "rollback": "Take exposure back now, and keep it back.",
    "retry": "Begin again after a revert.",
    "adopt": "Take over what an earlier rollout of the same name has left.",
    "plan": "Say what a plan will do: dates, exposure, SQL, and what its guards can tell.",
    "simulate": "Run a plan in virtual time over given looks, without a cluster.",
    "lint": "Check manifests without a cluster.",
    "evaluate": "Say whether a user has a flag, and why.",
    "crds": "Print the CustomResourceDefinitions and admission policies.",
    "kill": "Disable flags in the database at once, without Kubernetes.",
    "doctor": "Check the database, its flag table and its roles, and say what to do.",
    "store": "Look after the bookkeeping in the database.",
    "bucket": "Print the bucket of a user.",
    "version": "Print the version.",
}
# Verbs that differ in little share a module, which has them by name in `commands`.
SHARED = dict.fromkeys(("approve", "confirm", "promote", "pause", "resume", "rollback", "retry", "adopt"), "act")


class Verbs(click.Group):
    """The verbs, each from the module of its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the base's
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - the base's
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"feature_rollout.cli.{SHARED.get(cmd_name, cmd_name)}")
        command: click.Command = module.commands[cmd_name] if cmd_name in SHARED else module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - the base's
        """The list without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="featurerollout")
def main() -> None:
    """Take feature flags in a PostgreSQL table to all users, and take them back when the metrics turn bad.

    Exit codes: 0 ok, 1 error, 2 usage; what 3, 4 and 5 mean is in the help of each command.
    """
