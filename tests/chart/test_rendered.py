"""What the chart makes, beside what the rest of the project says.

| of the chart | is the same as |
|---|---|
| CRDs and policies | what `featurerollout crds` prints |
| the operator's rules | those of the demo, which `doctor --cluster` asks for |
| the roles view and edit | those of docs/people.md |
| verbs of the roles approver and operator | those of the policies, each in one of the two |
| environment variables | settings of the operator, with values that it takes |
| paths and ports of probes | those of its HTTP server |
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from feature_rollout.api import crd
from feature_rollout.api.policies import VERBS
from feature_rollout.demo import stage
from feature_rollout.runtime.settings import Settings
from support.helm import CHART, RELEASE, RELEASE_NAMESPACE, Helm
from support.receiver import SECRET

NOTIFICATIONS = Path(__file__).parents[2] / "docs" / "notifications.md"
PEOPLE = Path(__file__).parents[2] / "docs" / "people.md"
NAMESPACES: dict[str, Any] = {
    "watchNamespaces": ["shop"],
    "grants": [{"namespace": "shop", "secrets": ["db"], "configMaps": ["rollout-jobs"], "jobs": True}],
}
# What the kubelet finds in the Secrets that are named.
IN_SECRETS = {
    "FEATUREROLLOUT_WEBHOOK_URL": "https://hooks.example/rollouts",
    "FEATUREROLLOUT_WEBHOOK_SECRET": SECRET,
    "FEATUREROLLOUT_SLACK_TOKEN": "xoxb-1",
    "FEATUREROLLOUT_PAGERDUTY_ROUTING_KEY": "r0uting",
    "FEATUREROLLOUT_APPRISE_URLS": "json://hooks.example/a\njson://hooks.example/b",
}
Object = dict[str, Any]


def of_kind(objects: list[Object], *kinds: str) -> dict[str, Object]:
    return {obj["metadata"]["name"]: obj for obj in objects if obj["kind"] in kinds}


def rules(obj: Object) -> list[Object]:
    """In an order of their own, with lists as sets: two roles that allow the same are equal."""
    return sorted(({key: sorted(value) for key, value in rule.items()} for rule in obj["rules"]), key=str)


def together(roles: Iterable[Object]) -> Object:
    return {"rules": [rule for role in roles for rule in role["rules"]]}


def is_of_release(obj: Object) -> bool:
    return bool(obj["metadata"]["name"].startswith(RELEASE))


def test_crds_and_policies_are_the_generated_ones(helm: Helm) -> None:
    expected = {}
    for text in crd.files().values():
        for obj in yaml.safe_load_all(text):
            expected[obj["kind"], obj["metadata"]["name"]] = obj
    ours = {kind for kind, _ in expected}
    # The policy on the operator's own writes knows its account, and so is the chart's alone.
    rendered = [obj for obj in helm.template() if obj["kind"] in ours and not is_of_release(obj)]
    assert len(rendered) == len(expected)
    for obj in rendered:
        assert obj["metadata"].pop("labels")
        annotations = obj["metadata"].pop("annotations", None)
        assert (annotations is not None) is (obj["kind"] == "CustomResourceDefinition")
        assert obj == expected[obj["kind"], obj["metadata"]["name"]]


def test_the_operators_rules_are_those_that_the_demo_has_and_doctor_asks_for(helm: Helm) -> None:
    demo = list(yaml.safe_load_all(stage.rbac("shop", RELEASE_NAMESPACE, "db")))
    cluster_role = next(obj for obj in demo if obj["kind"] == "ClusterRole")
    role = together(obj for obj in demo if obj["kind"] == "Role")
    rendered = helm.template(NAMESPACES)
    assert rules(of_kind(rendered, "ClusterRole")[RELEASE]) == rules(cluster_role)
    roles = of_kind(rendered, "Role")
    assert rules(together(roles.values())) == rules(role)
    everywhere = {**NAMESPACES, "watchNamespaces": []}
    rendered = helm.template(everywhere)
    roles = of_kind(rendered, "Role")
    assert set(roles) == {f"{RELEASE}-grant", f"{RELEASE}-lease"}
    everything = together([of_kind(rendered, "ClusterRole")[RELEASE], *roles.values()])
    assert rules(everything) == rules(together([cluster_role, role]))


@pytest.mark.parametrize("values", sorted((CHART / "ci").glob("*-values.yaml")), ids=lambda path: path.stem)
def test_no_role_has_a_wildcard_and_secrets_are_got_by_name(helm: Helm, values: Path) -> None:
    for obj in of_kind(helm.template(yaml.safe_load(values.read_text())), "Role", "ClusterRole").values():
        for rule in obj["rules"]:
            assert not [part for part in rule.values() if "*" in part]
            if "secrets" in rule["resources"]:
                assert obj["kind"] == "Role"
                assert rule["verbs"] == ["get"]
                assert all(rule["resourceNames"])


def test_the_roles_of_people_are_those_of_the_page_and_of_the_policies(helm: Helm) -> None:
    roles = of_kind(helm.template(), "ClusterRole")
    block = re.findall(r"^```yaml\n(.*?)^```$", PEOPLE.read_text(), re.MULTILINE | re.DOTALL)[1]
    for documented in yaml.safe_load_all(block):
        suffix = documented["metadata"]["name"].removeprefix("featurerollout")
        rendered = roles[f"{RELEASE}{suffix}"]
        assert rules(rendered) == rules(documented)
        assert documented["metadata"]["labels"].items() <= rendered["metadata"]["labels"].items()

    def virtual(name: str) -> set[str]:
        verbs = {verb for rule in roles[f"{RELEASE}-{name}"]["rules"] for verb in rule["verbs"]}
        return verbs & set(VERBS.values())

    assert virtual("approver") == {"approve"}
    assert virtual("operator") == set(VERBS.values()) - {"approve"}


def test_the_operator_takes_its_environment(helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in sorted((CHART / "ci").glob("*-values.yaml")):
        values = yaml.safe_load(path.read_text())
        (deployment,) = of_kind(helm.template(values), "Deployment").values()
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        given = {entry["name"]: entry.get("value") or IN_SECRETS[entry["name"]] for entry in container["env"]}
        ours = {name for name in given if name.startswith("FEATUREROLLOUT_")}
        assert ours <= {f"FEATUREROLLOUT_{name.upper()}" for name in Settings.model_fields}
        with monkeypatch.context() as patch:
            for name, value in given.items():
                patch.setenv(name, value)
            settings = Settings()
        assert settings.watch_namespaces == tuple(values.get("watchNamespaces") or ())
        assert settings.cluster_name == values.get("clusterName", "")
        assert settings.workers == values.get("workers", 8)
        assert settings.shards == values.get("shards", 1)
        assert settings.log_format == values.get("log", {}).get("format", "json")
        denied = values.get("deniedAddresses")
        assert denied is None or [str(network) for network in settings.denied_addresses] == denied
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports == {"http": settings.http_port}
        for probe, answered in (("startupProbe", "livez"), ("livenessProbe", "livez"), ("readinessProbe", "readyz")):
            assert container[probe]["httpGet"] == {"path": f"/{answered}", "port": "http"}


@pytest.mark.parametrize("page", [CHART / "README.md", NOTIFICATIONS], ids=lambda path: path.name)
def test_the_notifications_of_the_pages_are_settings(helm: Helm, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(notifications:\n.*?)^```$", text, re.MULTILINE | re.DOTALL)
    values: Object = {}
    for documented in map(yaml.safe_load, blocks):
        values |= documented | {"notifications": values.get("notifications", {}) | documented["notifications"]}
    rendered = helm.template(values)
    (deployment,) = of_kind(rendered, "Deployment").values()
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    for entry in container["env"]:
        # What is secret is read from a Secret, and nothing else is.
        setting = Settings.model_fields[entry["name"].removeprefix("FEATUREROLLOUT_").lower()]
        assert ("valueFrom" in entry) is ("Secret" in str(setting.annotation)), entry
    # Nobody but the container gets at what is secret.
    named = {entry["valueFrom"]["secretKeyRef"]["name"] for entry in container["env"] if "valueFrom" in entry}
    assert named
    allowed = {name for obj in rendered for rule in obj.get("rules") or [] for name in rule.get("resourceNames", [])}
    assert not named & allowed
    (policy,) = of_kind(rendered, "NetworkPolicy").values()
    assert policy["spec"].get("egress", []) == values.get("networkPolicy", {}).get("egress", [])


def test_defaults_of_the_values_are_those_of_the_settings(helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    (deployment,) = of_kind(helm.template(), "Deployment").values()
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    for entry in container["env"]:
        monkeypatch.setenv(entry["name"], entry["value"])
    # People read the operator's log on their machine, programs in a cluster; and only there are replicas.
    others = {"log_format": "json", "lease_name": RELEASE, "lease_namespace": RELEASE_NAMESPACE}
    assert Settings() == Settings.model_construct().model_copy(update=others)
