"""The verbs that people type, each as its own user, on a real API server; the test answers in the operator's place.

| answer of the operator | exit code |
|---|---|
| Applied | 0 |
| Refused, Expired | 1, with reason and message |
| none in time | 4 |
| there is no such rollout | 5 |
| the API server refuses | 1, in its words |
"""

import json
import re
import shlex
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from contract.kube_objects import rollout
from feature_rollout.api.policies import VERBS
from feature_rollout.api.rolloutaction import RolloutActionType as Type
from feature_rollout.cli import SHARED, main
from feature_rollout.cli.crds import command as crds_command
from feature_rollout.sandbox.controlplane import ControlPlane
from support.people import HERE, OURS, ROLLOUT, USERS, offer, set_up, wait_for_policies
from support.waiting import wait_for

COLLECTION = f"/apis/{OURS}/v1alpha1/namespaces/{HERE}"
PAGE = Path(__file__).parents[2] / "docs" / "people.md"
PLAN_HASH = "v1:" + "a" * 64
STATUS = {
    "planHash": PLAN_HASH,
    "observedGeneration": 1,
    "phase": "Baking",
    "stage": {"name": "canary", "index": 1, "of": 2},
    "exposure": [{"flag": "new_checkout", "enabled": True, "percentage": 5, "groups": ["admin"]}],
}
COMMANDS: dict[Type, tuple[str, ...]] = {
    Type.APPROVE: ("approve", ROLLOUT, "--stage", "everyone"),
    Type.CONFIRM: ("confirm", ROLLOUT, "rehearsed-on-staging"),
    Type.PROMOTE: ("promote", ROLLOUT),
    Type.PAUSE: ("pause", ROLLOUT),
    Type.RESUME: ("resume", ROLLOUT),
    Type.ROLL_BACK: ("rollback", ROLLOUT, "--to", "Baseline"),
    Type.RETRY: ("retry", ROLLOUT),
    Type.ADOPT: ("adopt", ROLLOUT),
}
FIELDS: dict[Type, dict[str, str]] = {
    Type.APPROVE: {"stage": "everyone", "planHash": PLAN_HASH},
    Type.CONFIRM: {"check": "rehearsed-on-staging", "planHash": PLAN_HASH},
    Type.PROMOTE: {"stage": "canary"},
    Type.ROLL_BACK: {"to": "Baseline"},
}


def put_rollout(cluster: ControlPlane, name: str, status: dict[str, Any] | None) -> None:
    obj = rollout(name)
    obj["spec"]["preflight"] = [
        {"name": "rehearsed-on-staging", "confirm": "The migrations were rehearsed on staging."},
        {"name": "backup", "sql": "SELECT true"},
    ]
    everyone = {"names": ["new_checkout"], "percentage": 100, "groups": []}
    obj["spec"]["stages"].append({"name": "everyone", "flags": [everyone], "approval": {}, "bake": "1d"})
    code, made = cluster.request("POST", f"{COLLECTION}/featurerollouts", obj)
    assert code == 201, made
    if status is not None:
        code, made = cluster.request("PUT", f"{COLLECTION}/featurerollouts/{name}/status", made | {"status": status})
        assert code == 200, made


@pytest.fixture(scope="module", params=["stamped", "checked only"])
def cluster(
    built_control_plane: None, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[ControlPlane]:
    """With and without the policy that writes requestedBy: the verbs do not differ."""
    folder, stamped = tmp_path_factory.mktemp("crds"), request.param == "stamped"
    flags = [] if stamped else ["--without-mutating-policy"]
    crds_command.main([*flags, "--output", str(folder)], standalone_mode=False)
    with ControlPlane(users=USERS) as cluster:
        cluster.install_crds(folder)
        set_up(cluster)
        wait_for_policies(cluster, stamped=stamped)
        put_rollout(cluster, ROLLOUT, STATUS)
        put_rollout(cluster, "new-checkout", STATUS)
        put_rollout(cluster, "unseen", None)
        put_rollout(cluster, "edited", {**STATUS, "observedGeneration": 0})
        yield cluster


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def run(cluster: ControlPlane, user: str, *args: str) -> Result:
    config: Path = cluster.kubeconfig(user, namespace=HERE)
    return CliRunner().invoke(main, [*args, "--kubeconfig", str(config), "--reason", "It is time."])


def actions(cluster: ControlPlane) -> dict[str, Any]:
    _, answer = cluster.request("GET", f"{COLLECTION}/rolloutactions")
    return {item["metadata"]["name"]: item for item in answer["items"]}


def answered(
    cluster: ControlPlane, thread: ThreadPoolExecutor, user: str, args: tuple[str, ...], **status: str
) -> tuple[dict[str, Any], Result]:
    """Run a verb and answer its action with this status; return the action and what the verb said."""
    before = actions(cluster).keys()
    done: Future[Result] = thread.submit(run, cluster, user, *args, "--timeout", "60s")

    def made() -> Any:
        if done.done():
            pytest.fail(f"it did not wait: {done.result().output}")
        return [item for name, item in actions(cluster).items() if name not in before]

    (action,) = wait_for(made, 60, "the action")
    path = f"{COLLECTION}/rolloutactions/{action['metadata']['name']}/status"
    code, answer = cluster.request("PUT", path, action | {"status": {"observedGeneration": 1, **status}})
    assert code == 200, answer
    return action, done.result(60)


@pytest.mark.parametrize("kind", Type)
def test_a_verb_asks_for_its_type_and_tells_the_answer(
    cluster: ControlPlane, thread: ThreadPoolExecutor, kind: Type
) -> None:
    user = f"{VERBS[kind]}-only"
    action, done = answered(cluster, thread, user, COMMANDS[kind], phase="Applied", message="So it is.")
    wanted = {"rolloutRef": {"name": ROLLOUT}, "type": str(kind), "reason": "It is time.", "requestedBy": user}
    assert action["spec"] == wanted | FIELDS.get(kind, {})
    assert action["metadata"]["name"].startswith(f"{ROLLOUT}-{kind.lower()}-")
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith("Applied: So it is.\n")
    assert f"{HERE}/{ROLLOUT}" in done.stdout


def test_what_is_approved_is_shown(cluster: ControlPlane, thread: ThreadPoolExecutor) -> None:
    _, done = answered(cluster, thread, "approve-only", COMMANDS[Type.APPROVE], phase="Applied")
    assert done.stdout.splitlines()[:3] == [
        f"Approve stage everyone (2 of 2) of {HERE}/{ROLLOUT}:",
        "  new_checkout: 5 % of admin -> 100 % of everyone",
        f"  plan hash {PLAN_HASH}",
    ]


def test_what_is_confirmed_is_shown(cluster: ControlPlane, thread: ThreadPoolExecutor) -> None:
    _, done = answered(cluster, thread, "approve-only", COMMANDS[Type.CONFIRM], phase="Applied")
    assert "  The migrations were rehearsed on staging." in done.stdout.splitlines()


@pytest.mark.parametrize("phase", ["Refused", "Expired"])
def test_a_refusal_is_told_with_its_reason(cluster: ControlPlane, thread: ThreadPoolExecutor, phase: str) -> None:
    why = {"reason": "NotPaused", "message": "It is not paused: nothing to resume."}
    _, done = answered(cluster, thread, "pause-only", COMMANDS[Type.RESUME], phase=phase, **why)
    assert done.exit_code == 1
    assert done.stderr == f"error: {phase} (NotPaused): It is not paused: nothing to resume.\n"


def test_the_object_is_printed_alone(cluster: ControlPlane, thread: ThreadPoolExecutor) -> None:
    args = (*COMMANDS[Type.PAUSE], "-o", "json")
    action, done = answered(cluster, thread, "pause-only", args, phase="Applied")
    printed = json.loads(done.stdout)
    assert (printed["metadata"]["uid"], printed["status"]["phase"]) == (action["metadata"]["uid"], "Applied")
    assert "Pause shop/checkout" in done.stderr


def test_no_answer_in_time(cluster: ControlPlane) -> None:
    done = run(cluster, "pause-only", "pause", ROLLOUT, "--timeout", "1s")
    assert done.exit_code == 4
    assert "no operator has looked at it yet" in done.stderr
    assert "It stays, and may still be applied: kubectl get rolloutaction checkout-pause-" in done.stderr


def test_a_dry_run_sends_nothing(cluster: ControlPlane) -> None:
    before = actions(cluster)
    done = run(cluster, "approve-only", *COMMANDS[Type.APPROVE], "--dry-run")
    assert done.exit_code == 0, done.output
    assert PLAN_HASH in done.stdout
    assert actions(cluster) == before
    refused = run(cluster, "editor", *COMMANDS[Type.APPROVE], "--dry-run")
    assert refused.exit_code == 1


def test_who_may_not_is_told_what_to_ask_for(cluster: ControlPlane) -> None:
    before = actions(cluster)
    done = run(cluster, "editor", *COMMANDS[Type.PROMOTE])
    assert done.exit_code == 1
    assert (
        f'Promote needs the verb "promote" on the FeatureRollout {ROLLOUT} of namespace {HERE}, which editor has not'
        in (done.stderr)
    )
    assert actions(cluster) == before


USAGE = {
    "a stage that is none": (("approve", ROLLOUT, "--stage", "evryone"), 2, "name one of canary, everyone"),
    "a check that is none": (("confirm", ROLLOUT, "reharsed"), 2, "name one of rehearsed-on-staging, guards-quiet"),
    "a check that the database answers": (("confirm", ROLLOUT, "backup"), 2, "the operator asks it itself"),
    "a rollout that is none": (("pause", "nothing"), 5, "there is no FeatureRollout nothing in namespace shop"),
    "a rollout without a plan hash": (("approve", "unseen", "--stage", "canary"), 1, "has no plan hash yet"),
    "a rollout that was edited since": (("approve", "edited", "--stage", "canary"), 1, "was not looked at yet"),
    "no stage to promote from": (("promote", "unseen"), 1, "has entered no stage yet"),
    "a time-out that is none": (("pause", ROLLOUT, "--timeout", "soon"), 2, '"soon" is not a duration'),
}


@pytest.mark.parametrize(("args", "code", "words"), USAGE.values(), ids=USAGE.keys())
def test_a_mistake_is_told_before_anything_is_sent(
    cluster: ControlPlane, args: tuple[str, ...], code: int, words: str
) -> None:
    before = actions(cluster)
    done = run(cluster, "admin", *args)
    assert (done.exit_code, words in done.stderr) == (code, True), done.output
    assert actions(cluster) == before


LINES = [line for line in PAGE.read_text().splitlines() if re.match("featurerollout (?!crds|history)", line)]


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_the_page_is_taken(cluster: ControlPlane, line: str) -> None:
    args = [*shlex.split(line)[1:], "--dry-run", "--kubeconfig", str(cluster.kubeconfig("admin"))]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 0, done.output


def test_the_page_shows_every_verb() -> None:
    assert {line.split()[1] for line in LINES} == set(SHARED)


def test_a_reason_is_demanded() -> None:
    assert CliRunner().invoke(main, ["pause", ROLLOUT]).exit_code == 2
    assert CliRunner().invoke(main, ["pause", ROLLOUT, "--reason", " "]).exit_code == 2


def test_an_action_by_hand_may_leave_the_name_out_where_it_is_stamped(
    cluster: ControlPlane, request: pytest.FixtureRequest
) -> None:
    obj = {
        "apiVersion": f"{OURS}/v1alpha1",
        "kind": "RolloutAction",
        "metadata": {"generateName": "by-hand-"},
        "spec": {"rolloutRef": {"name": ROLLOUT}, "type": "Pause"},
    }
    stamped = "stamped" in request.node.callspec.params.values()
    assert (offer(cluster, obj, "pause-only")[0] == 201) is stamped
