"""Checks that are Jobs, on the real API server with its Job controller, by an account with the documented rights.

No kubelet runs the Pods: how a Job ends is written to its status, with what the API server validates.

| the Job, the ConfigMap, the rights | the answer |
|---|---|
| is created, asked again, asked at once by two, asked after a restart | one Job, it runs |
| completed, failed | passed, not passed with the reason and how to repeat it |
| deleted; changed manifest; another attempt | another Job |
| somebody else's of that name | not taken for ours |
| the manifest is refused by us, by the API server | could not be asked, and what to do |
| no ConfigMap, no key, no right | could not be asked, and what to create or grant |
| the rollout is deleted | so is the Job |
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from contract.kube_objects import create, path
from feature_rollout.api.lint import Level, lint
from feature_rollout.api.manifests import Document
from feature_rollout.api.values import KeyReference
from feature_rollout.kube.client import Api
from feature_rollout.kube.connection import Connection
from feature_rollout.kube.jobs import JobChecks
from feature_rollout.sandbox.cluster import Cluster
from support.jobs import finish
from support.waiting import wait_for
from unit.api.cases import manifest as case

PAGE = (Path(__file__).parents[2] / "docs" / "checks.md").read_text(encoding="utf-8")
CONFIG_MAP, PREFLIGHT, ROLE = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
CHECK = "preflight/rehearsal"
REFERENCE = KeyReference.model_validate(PREFLIGHT["preflight"][0]["job"]["configMapKeyRef"])


def placed(obj: dict[str, Any], namespace: str) -> dict[str, Any]:
    return obj | {"metadata": obj["metadata"] | {"namespace": namespace}}


class Here:
    """A rollout and what its check is asked with."""

    def __init__(self, cluster: Cluster, namespace: str, api: Api) -> None:
        self.cluster, self.namespace, self.api = cluster, namespace, api
        self.rollout = create(cluster, namespace, "shop")
        self.checks = JobChecks(api, self.rollout, "v1:a", {CHECK: REFERENCE})
        self.apply(placed(CONFIG_MAP, namespace))

    def apply(self, obj: dict[str, Any]) -> None:
        self.cluster.kubectl("apply", "-f", "-", input=json.dumps(obj))

    def manifest(self, change: dict[str, Any]) -> None:
        """Other top-level fields in the manifest of the ConfigMap."""
        job = yaml.safe_load(CONFIG_MAP["data"][REFERENCE.key]) | change
        self.apply(placed(CONFIG_MAP, self.namespace) | {"data": {REFERENCE.key: yaml.safe_dump(job)}})

    def jobs(self) -> list[dict[str, Any]]:
        status, answer = self.cluster.request("GET", f"/apis/batch/v1/namespaces/{self.namespace}/jobs")
        assert status == 200, answer
        return answer["items"]

    async def says(self, attempt: int = 1) -> tuple[bool | None, str, bool]:
        answer = await self.checks.ask(CHECK, attempt)
        return answer.passed, answer.message, answer.running


@pytest.fixture
def account(control_plane: Cluster, namespace: str) -> Connection:
    """The operator's ServiceAccount, which may do nothing yet."""
    sa = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "operator", "namespace": namespace}}
    control_plane.kubectl("apply", "-f", "-", input=json.dumps(sa))
    return Connection(kubeconfig=str(control_plane.service_account_kubeconfig(namespace, "operator")))


@pytest.fixture
def granted(control_plane: Cluster, namespace: str, account: Connection) -> None:
    grant(control_plane, namespace, ROLE["rules"])


def grant(cluster: Cluster, namespace: str, rules: list[dict[str, Any]]) -> None:
    """Exactly these rights to the operator's ServiceAccount."""
    rbac = "rbac.authorization.k8s.io"
    binding = {
        "apiVersion": f"{rbac}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "operator", "namespace": namespace},
        "roleRef": {"apiGroup": rbac, "kind": "Role", "name": ROLE["metadata"]["name"]},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": namespace}],
    }
    for obj in (placed(ROLE, namespace) | {"rules": rules}, binding):
        cluster.kubectl("apply", "-f", "-", input=json.dumps(obj))


@pytest.fixture
async def api(account: Connection) -> AsyncIterator[Api]:
    async with Api(account) as api:
        yield api


@pytest.fixture
def here(control_plane: Cluster, namespace: str, crds_installed: None, api: Api) -> Iterator[Here]:
    here = Here(control_plane, namespace, api)
    yield here
    control_plane.request("DELETE", path(namespace, "shop"))


def test_what_the_page_shows_is_right() -> None:
    rollout = case("FeatureRollout")
    rollout["metadata"]["namespace"] = "shop"
    rollout["spec"] |= PREFLIGHT
    store = case("FlagStore")
    store["metadata"]["namespace"] = "shop"
    found = lint([Document(str(i), obj) for i, obj in enumerate([store, rollout, CONFIG_MAP])])
    assert [str(finding) for finding in found if finding.level is Level.ERROR or "job" in finding.text] == []


@pytest.mark.usefixtures("granted")
async def test_one_job_whoever_asks_and_however_often(here: Here) -> None:
    first, second = await asyncio.gather(here.says(), here.says())
    restarted = replace(here.checks, rollout=json.loads(json.dumps(here.rollout)))
    again = await restarted.ask(CHECK, 1)
    [job] = here.jobs()
    name, sha256 = job["metadata"]["name"], job["metadata"]["annotations"]["featurerollout.dev/manifest-sha256"]
    runs = (None, f"Job {name} (manifest sha256 {sha256[:12]}) runs", True)
    assert first == second == (again.passed, again.message, again.running) == runs
    assert job["metadata"]["ownerReferences"][0]["uid"] == here.rollout["metadata"]["uid"]
    assert (job["spec"]["backoffLimit"], job["spec"]["ttlSecondsAfterFinished"]) == (1, 604800)


@pytest.mark.usefixtures("granted")
async def test_completed(here: Here) -> None:
    await here.says()
    [job] = here.jobs()
    finish(here.cluster, job, "Complete")
    assert await here.says() == (True, f"Job {job['metadata']['name']} {_manifest(job)} has completed", False)
    assert (await here.says(attempt=2))[2], "another attempt runs it again"
    assert len(here.jobs()) == 2


@pytest.mark.usefixtures("granted")
async def test_failed_until_it_is_deleted_or_its_manifest_is_another(here: Here) -> None:
    await here.says()
    [job] = here.jobs()
    name = job["metadata"]["name"]
    finish(here.cluster, job, "Failed")
    passed, message, running = await here.says()
    assert (passed, running) == (False, False)
    repeat = f"kubectl delete job {name} -n {here.namespace}"
    assert message == (
        f"Job {name} {_manifest(job)} has failed (BackoffLimitExceeded); "
        f"to run it again: {repeat}, or change its manifest"
    )
    for _ in range(3):
        assert (await here.says())[0] is False
    assert len(here.jobs()) == 1

    here.cluster.kubectl(*repeat.split()[1:])
    wait_for(lambda: here.jobs() == [], 30.0, "the end of the Job")
    assert (await here.says())[2]
    [again] = here.jobs()
    assert (again["metadata"]["name"], again["metadata"]["uid"]) != (name, job["metadata"]["uid"])
    finish(here.cluster, again, "Failed")
    assert (await here.says())[0] is False
    here.manifest({"metadata": {"name": "repaired"}})
    assert (await here.says())[2]
    assert sorted(job["metadata"]["name"][:8] for job in here.jobs()) == ["rehearse", "repaired"]


@pytest.mark.usefixtures("granted")
async def test_somebody_elses_job_of_the_name_says_nothing(here: Here) -> None:
    await here.says()
    [job] = here.jobs()
    name = job["metadata"]["name"]
    here.cluster.kubectl("delete", "job", name, "-n", here.namespace)
    wait_for(lambda: here.jobs() == [], 30.0, "the end of the Job")
    forged = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": here.namespace}}
    here.apply(forged | {"spec": yaml.safe_load(CONFIG_MAP["data"][REFERENCE.key])["spec"]})
    [job] = here.jobs()
    finish(here.cluster, job, "Complete")
    assert await here.says() == (None, f"Job {name} is there and is not this rollout's: delete it", False)


REFUSED = [
    ("by us", {"kind": "CronJob"}, 'apiVersion, kind: "batch/v1", "CronJob": write batch/v1, Job'),
    ("its namespace", {"metadata": {"namespace": "kube-system"}}, "a Job runs in the rollout's namespace"),
    ("by the API server", {"spec": {"template": {"spec": {"containers": []}}}}, "the API server refuses the Job"),
    ("an unknown field", {"spec": {"retries": 3}}, "the API server refuses the Job"),
]


@pytest.mark.usefixtures("granted")
@pytest.mark.parametrize(("change", "words"), [i[1:] for i in REFUSED], ids=[i[0] for i in REFUSED])
async def test_a_manifest_that_is_refused(here: Here, change: dict[str, Any], words: str) -> None:
    here.manifest(change)
    passed, message, running = await here.says()
    assert (passed, running) == (None, False)
    assert message.startswith("ConfigMap rollout-jobs rehearse.yaml: ")
    assert words in message
    assert here.jobs() == []


@pytest.mark.usefixtures("granted")
async def test_without_the_text(here: Here) -> None:
    here.apply(placed(CONFIG_MAP, here.namespace) | {"data": {"other": "x"}})
    what = f"ConfigMap rollout-jobs in namespace {here.namespace}"
    assert (await here.says())[1] == f"{what} has no text under the key rehearse.yaml: add it or correct the key"
    here.cluster.kubectl("delete", "configmap", "rollout-jobs", "-n", here.namespace)
    assert (await here.says())[1] == f"there is no {what}: create it or correct the name"


async def test_each_right_that_is_missing_is_named_and_with_them_all_it_runs(here: Here) -> None:
    read, run = ROLE["rules"]
    what = f"ConfigMap rollout-jobs in namespace {here.namespace}"
    jobs = f"Jobs in namespace {here.namespace}"
    ask_for = "grant it create and get on jobs of the group batch"
    steps = [
        ([], f"the operator may not read {what}: grant it get on configmaps by that name"),
        ([read], f"the operator may not get {jobs} (RBAC says no): {ask_for}"),
        (
            [read, run | {"verbs": ["get"]}],
            f"the operator may not create {jobs} (RBAC, a quota or an admission policy says no): {ask_for}",
        ),
    ]
    for rules, message in steps:
        grant(here.cluster, here.namespace, rules)
        await _until(here, (None, message, False))
        assert here.jobs() == []
    grant(here.cluster, here.namespace, [read, run])
    deadline = asyncio.get_running_loop().time() + 30.0
    while not (await here.says())[2]:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.1)
    assert len(here.jobs()) == 1


@pytest.mark.usefixtures("granted")
async def test_a_job_goes_with_its_rollout(here: Here) -> None:
    await here.says()
    here.cluster.request("DELETE", path(here.namespace, "shop"))
    wait_for(lambda: here.jobs() == [], 60.0, "the garbage collector")


@pytest.mark.usefixtures("account")
async def test_an_api_server_that_does_not_answer(here: Here) -> None:
    await here.api.close()
    assert await here.says() == (None, "the API server does not answer", False)


async def _until(here: Here, answer: tuple[bool | None, str, bool]) -> None:
    """RBAC takes effect a moment after it was written."""
    deadline = asyncio.get_running_loop().time() + 30.0
    while (seen := await here.says()) != answer:
        assert asyncio.get_running_loop().time() < deadline, seen
        await asyncio.sleep(0.1)


def _manifest(job: dict[str, Any]) -> str:
    return f"(manifest sha256 {job['metadata']['annotations']['featurerollout.dev/manifest-sha256'][:12]})"
