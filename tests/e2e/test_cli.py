"""What people type to see where a rollout is: kubectl, `status` and `explain`, against the real API server."""

import json
import subprocess
import sys

import pytest

from feature_rollout.demo.stage import SERVICE_ACCOUNT
from support.manifests import ROLLOUT, SECRET, A, B, disable, rollout, stage, store
from support.world import World


def featurerollout(world: World, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    config = ["--kubeconfig", str(world.cluster.kubeconfig()), "-n", world.namespace]
    command = [sys.executable, "-m", "feature_rollout.cli", *args, *config]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"COLUMNS": "200", **env})


@pytest.mark.usefixtures("operator")
def test_status_and_explain_tell_of_a_healthy_rollout_and_of_a_revert(world: World) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "1m"), stage("everyone", 100)], rows=[disable()]))
    world.wait_row(A, (True, 10, frozenset()))
    world.wait_condition("Ready", "True", "Baking")
    told = featurerollout(world, "explain", ROLLOUT)
    assert told.returncode == 0, told.stderr
    sentence, *details = told.stdout.splitlines()
    assert sentence == f"{world.namespace}/{ROLLOUT} is Baking: Stage ten bakes for 1m of healthy time."
    assert any("ten (1 of 2)" in line for line in details)
    assert any("error-rate above 1%" in line for line in details)
    listed = featurerollout(world, "status")
    assert "1/2 ten" in listed.stdout
    assert listed.returncode == 0

    world.traffic.failed = 0.25
    world.wait_row(B, (False, 10, frozenset()))
    world.wait_condition("RolledBack", "True", "RolledBack")
    told = featurerollout(world, "explain", ROLLOUT)
    assert told.returncode == 3
    assert "DisableFlags (High): error-rate was" in told.stdout
    answer = featurerollout(world, "status", ROLLOUT, "-o", "json")
    assert answer.returncode == 3
    assert json.loads(answer.stdout)["status"]["phase"] == "RolledBack"


def test_doctor_looks_at_the_cluster(world: World) -> None:
    world.apply(store())

    def doctor(user: str) -> dict[str, tuple[str, str]]:
        told = featurerollout(world, "doctor", "--cluster", "--as", user, "-o", "json")
        assert told.stdout, told.stderr
        return {line["check"]: (line["result"], line["message"]) for line in json.loads(told.stdout)}

    right = f"system:serviceaccount:{world.namespace}:{SERVICE_ACCOUNT}"
    found = doctor(right)
    assert found["cluster: CRDs"] == ("ok", "served, and of this version")
    assert found["cluster: secrets/supabase-db writer-uri"] == ("ok", "is there")
    assert found[f"cluster: rights of {right}"] == ("ok", "all that the operator needs")
    assert found["cluster: admission"][0] in {"ok", "warning"}

    world.secret(SECRET, {"writer-uri": ""})
    wrong = f"system:serviceaccount:{world.namespace}:nobody"
    found = doctor(wrong)
    assert found["cluster: secrets/supabase-db writer-uri"] == ("error", "has no text under key writer-uri: add it")
    result, message = found[f"cluster: rights of {wrong}"]
    assert result == "error"
    assert "get on secrets/supabase-db" in message
    assert "patch on featurerollouts.featurerollout.dev/status" not in message
    assert "featurerollouts/status.featurerollout.dev" in message
    assert "jobs.batch" not in message, "no rollout has a check with a job"

    manifest = {"configMapKeyRef": {"name": "rollout-jobs", "key": "rehearse.yaml"}}
    world.apply(rollout(stages=[stage("ten", 10, checks=[{"name": "rehearsed", "job": manifest}])]))
    found = doctor(right)
    assert found["cluster: configmaps/rollout-jobs rehearse.yaml"][0] == "error"
    assert found[f"cluster: rights of {right}"] == ("ok", "all that the operator needs")
    message = doctor(wrong)[f"cluster: rights of {wrong}"][1]
    assert "get on configmaps/rollout-jobs" in message
    assert "create and get on jobs.batch" in message


def test_what_is_not_there_and_what_nobody_has_seen(world: World) -> None:
    assert featurerollout(world, "explain", "no-such-rollout").returncode == 5
    world.apply(store(), rollout(stages=[stage("ten", 10)], rows=[disable()]))
    assert "was not seen by an operator yet" in featurerollout(world, "explain", ROLLOUT).stdout


@pytest.mark.usefixtures("operator")
def test_history_tells_who_did_what_and_why(world: World) -> None:
    world.apply(store(), rollout(stages=[stage("ten", 10, "1m")], rows=[disable()]))
    waited = featurerollout(world, "status", ROLLOUT, "--wait", "--timeout", "60s")
    assert waited.returncode == 0, waited.stderr
    world.set_row(B, False, 10)
    world.wait_condition("FlagsInSync", "False", "ManualChange")
    of_status = json.loads(featurerollout(world, "history", ROLLOUT, "-o", "json").stdout)
    assert [entry["stage"] for entry in of_status if entry["reason"] == "StageEntered"] == ["ten"]
    assert all("flag" not in entry for entry in of_status)

    uri = world.uris()["writer-uri"]
    told = featurerollout(world, "history", ROLLOUT, "-o", "json", FEATUREROLLOUT_WRITER_URI=uri)
    entries = json.loads(told.stdout)
    changes = [(e["action"], e["flag"], e["change"]) for e in entries if "flag" in e]
    assert ("Raise", A, "off -> 10 % of everyone") in changes
    assert ("Manual", B, "10 % of everyone -> off") in changes
    assert [e["at"] for e in entries if "flag" in e] == sorted(e["at"] for e in entries if "flag" in e)
    by_hand = next(e for e in entries if e["action"] == "Manual")
    assert (by_hand["reason"], bool(by_hand["by"])) == ("ManualChange", True)
    in_words = featurerollout(world, "history", ROLLOUT, FEATUREROLLOUT_WRITER_URI=uri)
    assert "10 % of everyone -> off" in in_words.stdout
    assert featurerollout(world, "history", "nothing", FEATUREROLLOUT_WRITER_URI=uri).returncode == 5
