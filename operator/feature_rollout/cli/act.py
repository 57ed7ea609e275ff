"""What people do with a rollout: approve, confirm, promote, pause, resume, roll back, retry, adopt.

Each verb creates a RolloutAction, which the operator applies once or refuses, and waits for
its answer. The object stays, for everybody to see who has asked for what, and why.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar

import click
import yaml

from feature_rollout.cli import cluster, exits
from feature_rollout.core.exposure import OFF, Exposure, FlagChange
from feature_rollout.kube.client import Api
from feature_rollout.kube.errors import ApiError, ApiUnavailable
from feature_rollout.kube.resources import ACTIONS, API_VERSION

F = TypeVar("F", bound=Callable[..., Any])
Rollout = dict[str, Any]

POLL_S = 0.5
# Confirmed by people, though no plan has it: the operator asks when guards fire on the past.
GUARDS_QUIET = "guards-quiet"


@dataclass(frozen=True)
class Wanted:
    """The fields of the action's spec that its type has, and what is shown before it is sent."""

    sentence: str
    fields: Mapping[str, str] = field(default_factory=dict)
    details: tuple[str, ...] = ()


def action_options(function: F) -> F:
    """What every action takes."""
    for option in (
        *(
            click.option(
                "-o", "--output", type=click.Choice(("json", "yaml", "name")), help="Print the RolloutAction."
            ),
        ),
        click.option("--dry-run", is_flag=True, help="Ask the API server whether it would be taken; send nothing."),
        click.option(
            "--timeout",
            default="30s",
            show_default=True,
            callback=cluster.duration,
            help="How long to wait for the operator's answer; 0s does not wait.",
        ),
        click.option("--reason", required=True, callback=_reason, help="Why; it stands in the audit."),
        cluster.connection_options,
        click.argument("rollout"),
    ):
        function = option(function)
    return function


def _reason(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not value.strip() or len(value) > 1024:
        raise click.BadParameter("say why, in at most 1024 characters: it stands in the audit")
    return value.strip()


@click.command("approve")
@click.option("--stage", required=True, help="The stage that may begin.")
@action_options
def approve(stage: str, **options: Any) -> None:
    """Approve that a STAGE of a ROLLOUT begins, with the plan as it is now.

    What is approved is shown: the stage, what becomes of its flags, and the plan hash. The
    approval is void when the plan changes.
    """
    _act("Approve", lambda rollout: _approval(rollout, stage), **options)


@click.command("confirm")
@action_options
@click.argument("check")
def confirm(check: str, **options: Any) -> None:
    """Confirm that what CHECK of a ROLLOUT asks of people is so, for the plan as it is now."""
    _act("Confirm", lambda rollout: _confirmation(rollout, check), **options)


@click.command("promote")
@action_options
def promote(**options: Any) -> None:
    """End the bake and the gates of the stage that ROLLOUT is in.

    Never an approval, a window of the calendar, or a breach. It is refused when the rollout
    is in another stage by then.
    """
    _act("Promote", _promotion, **options)


@click.command("pause")
@action_options
def pause(**options: Any) -> None:
    """Stop raising ROLLOUT until `resume`; guards go on and may still lower."""
    _act("Pause", partial(_plain, "Pause"), **options)


@click.command("resume")
@action_options
def resume(**options: Any) -> None:
    """Go on with ROLLOUT after a pause, a Hold of the matrix, or a change of its flags by hand."""
    _act("Resume", partial(_plain, "Resume"), **options)


@click.command("rollback")
@click.option(
    "--to",
    type=click.Choice(("Off", "PreviousStage", "Baseline")),
    default="Off",
    show_default=True,
    help="Disabled, what the stage before had, or what was there before the rollout; never more than now.",
)
@action_options
def rollback(to: str, **options: Any) -> None:
    """Take the exposure of ROLLOUT back now, in whatever state it is, and keep it back until `retry`.

    Without Kubernetes or the operator: featurerollout kill FLAG.
    """
    _act("RollBack", lambda rollout: _lowering(rollout, to), **options)


@click.command("retry")
@action_options
def retry(**options: Any) -> None:
    """Begin again after a revert of ROLLOUT: preflight, then the first stage whose exposure is not there yet."""
    _act("Retry", partial(_plain, "Retry"), **options)


@click.command("adopt")
@action_options
def adopt(**options: Any) -> None:
    """Take over, as ROLLOUT, what an earlier one of the same name with another plan has left in the database."""
    _act("Adopt", partial(_plain, "Adopt"), **options)


commands = {verb.name or "": verb for verb in (approve, confirm, promote, pause, resume, rollback, retry, adopt)}


def _act(
    kind: str,
    want: Callable[[Rollout], Wanted],
    *,
    rollout: str,
    reason: str,
    timeout: float,
    dry_run: bool,
    output: str | None,
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
) -> None:
    """Show what is asked, ask, wait for the answer, and end the program with its exit code.

    0 applied (or taken by a dry run), 1 refused by the operator or the API server, or
    expired, 4 no answer in time, 5 no such rollout.
    """
    where = cluster.namespace_of(namespace, kubeconfig, context)
    # What is parsed by a program stands alone on standard output.
    say = partial(click.echo, err=output is not None)

    async def question(api: Api) -> dict[str, Any]:
        wanted = want(await cluster.one_rollout(api, where, rollout))
        say("\n  ".join((wanted.sentence, *wanted.details)))
        spec = {"rolloutRef": {"name": rollout}, "type": kind, "reason": reason, **wanted.fields}
        made = await api.create(ACTIONS, where, _manifest(rollout, spec, await _user(api)), dry_run=dry_run)
        return made if dry_run else await _answer(api, made, timeout)

    action = cluster.ask(kubeconfig, context, question)
    if output is not None:
        _print(action, output)
    if dry_run:
        say("The API server would take it (dry run: nothing was sent).")
        return
    _tell(action, timeout, say)


def _manifest(rollout: str, spec: Mapping[str, Any], user: str | None) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": "RolloutAction",
        "metadata": {"generateName": f"{rollout}-{spec['type'].lower()}-"},
        "spec": {**spec, **({"requestedBy": user} if user else {})},
    }


async def _user(api: Api) -> str | None:
    """Our name, for API servers that check it and do not write it; others write it whatever we say."""
    try:
        return await api.user()
    except ApiError:
        return None


async def _answer(api: Api, made: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """The action once it was answered, or as it is when the time is over.

    Asked for and not watched: whoever may create actions need have no right to watch them.
    """
    clock = asyncio.get_running_loop()
    deadline, action = clock.time() + timeout_s, made
    while _phase(action) in {"", "Pending"} and clock.time() < deadline:
        await asyncio.sleep(POLL_S)
        try:
            found = await api.get(ACTIONS, made["metadata"]["namespace"], made["metadata"]["name"])
        except ApiUnavailable:
            continue
        if found is None:
            exits.fail(f"{made['metadata']['name']} was deleted before it was answered")
        action = found
    return action


def _tell(action: dict[str, Any], timeout_s: float, say: Callable[[str], None]) -> None:
    """Say what became of it; end the program with an error unless it was applied."""
    name, status = action["metadata"]["name"], action.get("status") or {}
    phase, message = _phase(action), status.get("message") or ""
    if phase == "Applied":
        say(f"Applied: {message or name}")
        return
    if phase in {"Refused", "Expired"}:
        exits.fail(f"{phase} ({status.get('reason', 'no reason given')}): {message}")
    waits = message or "no operator has looked at it yet: is one running that watches this namespace?"
    exits.fail(
        f"{name} was not answered within {timeout_s:g}s: {waits} It stays, and may still be applied: "
        f"kubectl get rolloutaction {name} -n {action['metadata']['namespace']}",
        exits.TIMEOUT,
    )


def _phase(action: Mapping[str, Any]) -> str:
    return str((action.get("status") or {}).get("phase") or "")


def _print(action: dict[str, Any], output: str) -> None:
    if output == "name":
        click.echo(f"rolloutaction.featurerollout.dev/{action['metadata']['name']}")
    else:
        text = json.dumps(action, indent=2) + "\n" if output == "json" else yaml.safe_dump(action, sort_keys=False)
        click.echo(text, nl=False)


def _full_name(rollout: Rollout) -> str:
    return f"{rollout['metadata']['namespace']}/{rollout['metadata']['name']}"


def _plain(verb: str, rollout: Rollout) -> Wanted:
    phase = (rollout.get("status") or {}).get("phase", "Pending")
    return Wanted(f"{verb} {_full_name(rollout)}, which is {phase}.")


def _plan_hash(rollout: Rollout) -> str:
    """The hash of the plan as it stands in the object; ends the program when the operator has not looked at it."""
    status, metadata = rollout.get("status") or {}, rollout["metadata"]
    plan_hash = status.get("planHash")
    if not plan_hash:
        exits.fail(f"{_full_name(rollout)} has no plan hash yet: {_why_unseen(status)}")
    if status["observedGeneration"] < metadata["generation"]:
        exits.fail(
            f"generation {metadata['generation']} of {_full_name(rollout)} was not looked at yet, and its plan hash "
            "is that of an earlier one: try again in a moment"
        )
    return str(plan_hash)


def _why_unseen(status: Mapping[str, Any]) -> str:
    if status.get("observedGeneration", -1) < 0:
        return "no operator has looked at it; is one running that watches its namespace?"
    return "its plan is not valid; `featurerollout explain` says why"


def _approval(rollout: Rollout, name: str) -> Wanted:
    stages = rollout["spec"]["stages"]
    index = next((i for i, stage in enumerate(stages) if stage["name"] == name), None)
    if index is None:
        known = ", ".join(stage["name"] for stage in stages)
        raise click.UsageError(f'"{name}" is not a stage of {_full_name(rollout)}: name one of {known}')
    plan_hash, stage = _plan_hash(rollout), stages[index]
    details = [*_changes(rollout, stage)]
    details += [f"runs the migration {m['configMapKeyRef']['key']}" for m in stage.get("migrations", ())]
    return Wanted(
        f"Approve stage {name} ({index + 1} of {len(stages)}) of {_full_name(rollout)}:",
        {"stage": name, "planHash": plan_hash},
        (*details, f"plan hash {plan_hash}"),
    )


def _changes(rollout: Rollout, stage: Mapping[str, Any]) -> list[str]:
    """What becomes of each flag of the stage, from how it is now."""
    exposed = {row["flag"]: row for row in (rollout.get("status") or {}).get("exposure") or ()}
    now = {flag: Exposure.from_json({**row, "percentage": str(row["percentage"])}) for flag, row in exposed.items()}
    lines = []
    for entry in stage.get("flags", ()):
        percentage, groups = entry.get("percentage"), entry.get("groups")
        change = FlagChange(
            None if percentage is None else Decimal(str(percentage)), None if groups is None else frozenset(groups)
        )
        for flag in entry["names"]:
            before = now.get(flag, OFF)
            lines.append(f"{flag}: {before} -> {change.applied_to(before)}")
    return lines


def _confirmation(rollout: Rollout, name: str) -> Wanted:
    spec = rollout["spec"]
    checks = [*spec.get("preflight", ()), *(check for stage in spec["stages"] for check in stage.get("checks", ()))]
    asked = {check["name"]: check["confirm"] for check in checks if "confirm" in check}
    asked[GUARDS_QUIET] = "The guards may start, although they would have fired on the past week."
    if name not in asked:
        if any(check["name"] == name for check in checks):
            raise click.UsageError(f"the check {name} is not for people to confirm: the operator asks it itself")
        raise click.UsageError(
            f'"{name}" is not a check of {_full_name(rollout)} that people confirm: name one of {", ".join(asked)}'
        )
    plan_hash = _plan_hash(rollout)
    return Wanted(
        f"Confirm {name} of {_full_name(rollout)}:",
        {"check": name, "planHash": plan_hash},
        (asked[name], f"plan hash {plan_hash}"),
    )


def _promotion(rollout: Rollout) -> Wanted:
    stage = (rollout.get("status") or {}).get("stage")
    if not stage:
        exits.fail(f"{_full_name(rollout)} has entered no stage yet, so there is no bake to end")
    return Wanted(
        f"End the bake and the gates of stage {stage['name']} ({stage['index']} of {stage['of']}) of "
        f"{_full_name(rollout)}.",
        {"stage": stage["name"]},
    )


def _lowering(rollout: Rollout, to: str) -> Wanted:
    exposed = [row for row in (rollout.get("status") or {}).get("exposure") or () if row["enabled"]]
    flags = tuple(f"{row['flag']}: {row['percentage']} % now" for row in exposed)
    return Wanted(f"Roll {_full_name(rollout)} back to {to}:", {"to": to}, flags)
