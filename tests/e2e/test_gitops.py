"""A GitOps controller beside the operator: it applies the same manifests again and again, and compares."""

from http import HTTPStatus
from pathlib import Path
from typing import Any

import yaml

from support.argocd import ACCOUNT, created, health, offered
from support.helm import Helm, write_chart
from support.manifests import ROLLOUT, STORE, A, Object, rollout, stage, store
from support.operatorprocess import Operator
from support.waiting import wait_for
from support.world import PEOPLE, World

TEN, HALF = (True, 10, frozenset()), (True, 50, frozenset())
MANAGER = "argocd-controller"
TIMES = 100


def server_side_apply(world: World, *objects: Object) -> list[Any]:
    """As a GitOps controller applies: its own field manager, every conflict taken."""
    answers = []
    for obj in objects:
        path = f"{world.path(obj['kind'], obj['metadata']['name'])}?fieldManager={MANAGER}&force=true"
        headers = {"Content-Type": "application/apply-patch+yaml"}
        status, answer = world.cluster.request("PATCH", path, obj, headers=headers)
        assert status in (HTTPStatus.OK, HTTPStatus.CREATED), answer
        answers.append(answer)
    return answers


def versions(world: World) -> tuple[str, str]:
    return (
        world.get("FlagStore", STORE)["metadata"]["resourceVersion"],
        world.rollout()["metadata"]["resourceVersion"],
    )


def facts(world: World) -> dict[str, Any]:
    """What the database holds of the rollout, but for what is measured all the time."""
    ledger = world.ledger()
    return {
        "rows": world.table(),
        "audit": world.audit(),
        **{column: ledger[column] for column in ("sequence", "epoch", "attempt", "stage", "latch")},
    }


def diff_is_empty(world: World, objects: list[Object], folder: Path) -> bool:
    """Whether `kubectl diff --server-side` finds nothing that it would change."""
    file = folder / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    arguments = ("diff", "--server-side", "--force-conflicts", f"--field-manager={MANAGER}", "-f", str(file))
    return bool(world.cluster.kubectl(*arguments, "-n", world.namespace, check=False).returncode == 0)


def test_the_same_manifests_again_and_again_change_nothing_and_arm_nothing(
    world: World, operator: Operator, tmp_path: Path
) -> None:
    manifests = [store(), rollout(stages=[stage("ten", 10, "1h"), stage("all", 100)])]
    server_side_apply(world, *manifests)
    world.wait_row(A, TEN)
    world.wait_condition("Ready", "True", "Baking")
    _is_left_in_peace(world, operator, manifests, tmp_path)

    world.traffic.failed = 0.5
    world.wait_condition("RolledBack", "True", "RolledBack", timeout_s=60.0)
    world.traffic.failed = 0.0
    _is_left_in_peace(world, operator, manifests, tmp_path)
    assert not world.row(A)[0], "a manifest that is applied again arms nothing"


def _is_left_in_peace(world: World, operator: Operator, manifests: list[Object], folder: Path) -> None:
    before, known = versions(world), facts(world)
    for _ in range(TIMES):
        server_side_apply(world, *manifests)
    operator.wait_looks(3)
    assert (versions(world), facts(world)) == (before, known)
    assert diff_is_empty(world, manifests, folder)


def test_what_helm_and_kubectl_wait_say_of_each_state(world: World, operator: Operator, tmp_path: Path) -> None:
    helm = Helm(tmp_path, world.cluster)
    chart = write_chart(tmp_path / "chart", "shop", [store(), rollout(stages=[stage("ten", 10, "1h")])])
    options = ("shop", chart, f"--namespace={world.namespace}", "--wait", "--timeout=60s")
    helm.run("install", *options)
    waited = world.cluster.kubectl(
        "wait", "--for=condition=Ready", "--timeout=60s", f"fro/{ROLLOUT}", "-n", world.namespace
    )
    assert "condition met" in waited.stdout
    # Ready is said of the plan's exposure, so a rollout of weeks keeps nobody waiting.
    assert world.status()["phase"] == "Baking"
    assert world.row(A) == TEN
    world.traffic.failed = 0.5
    for condition in ("Stalled=True", "Ready=False", "RolledBack=True"):
        world.cluster.kubectl(
            "wait", f"--for=condition={condition}", "--timeout=60s", f"fro/{ROLLOUT}", "-n", world.namespace
        )
    upgraded = helm.run("upgrade", *options, check=False)
    assert upgraded.returncode != 0
    assert f"FeatureRollout/{world.namespace}/{ROLLOUT} not ready. status: Failed" in upgraded.stderr


def click(world: World, action: str) -> None:
    """Somebody clicks an action in Argo CD, which offers it; until it is applied."""
    live = world.rollout()
    assert action in offered(live)
    made = created(action, live)
    headers = {"Impersonate-User": ACCOUNT, "Impersonate-Group": PEOPLE}
    status, answer = world.cluster.request("POST", world.path("RolloutAction"), made, headers=headers)
    assert status == HTTPStatus.CREATED, answer
    name = made["metadata"]["name"]

    def applied() -> bool:
        shown = health(world.get("RolloutAction", name))
        assert shown[0] == "Healthy", shown
        return True

    wait_for(applied, 30.0, lambda: f"{action} to be applied; rollout: {world.brief()}")


def shows(world: World, expected: str) -> None:
    world.soon(lambda: health(world.rollout())[0] == expected, 10.0)


def test_what_argo_cd_shows_and_does(world: World, operator: Operator) -> None:
    """Its scripts see what the operator writes, and the operator does what they ask for."""
    consent = {"required": 1, "allowServiceAccounts": True}
    stages = [stage("ten", 10, "1h"), stage("half", 50, "1h", approval=consent)]
    server_side_apply(world, store(), rollout(stages=stages))
    world.wait_row(A, TEN)
    shows(world, "Healthy")
    assert health(world.get("FlagStore", STORE))[0] == "Healthy"
    click(world, "pause")
    shows(world, "Suspended")
    click(world, "resume")
    shows(world, "Healthy")
    click(world, "promote")
    world.soon(lambda: "approve" in offered(world.rollout()), 10.0)
    click(world, "approve")
    world.wait_row(A, HALF)
    assert world.audit(A)[-1]["evidence"] == {"approvedBy": [ACCOUNT], "promotedBy": ACCOUNT}
    click(world, "rollback")
    world.wait_condition("RolledBack", "True", "RolledBack")
    shows(world, "Degraded")
    assert not world.row(A)[0]
    click(world, "retry")
    world.wait_row(A, TEN)
