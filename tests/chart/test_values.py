"""Values that make no sense are refused with their path, before anything is sent.

Helm says all that is wrong at once, so one call of it tries many values.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from feature_rollout.notify.slack import CHANNEL
from feature_rollout.notify.template import CHARS_MAX
from support.helm import CHART, RELEASE, Helm

# Objects that are handed on as they are.
FREE = {"resources", "podSecurityContext", "securityContext"}
# Each line with a comment is wrong, at the path that the comment names.
BAD = [
    """
    replica: 2                                             # replica
    """,
    """
    nameOverride: Flags                                    # /nameOverride
    fullnameOverride: Flag_Operator                        # /fullnameOverride
    commonLabels: {team: flags and more}                   # /commonLabels/team
    image:
      repository: https://registry.example/operator        # /image/repository
      tag: 1.0:latest                                      # /image/tag
      digest: latest                                       # /image/digest
      pullPolicy: Sometimes                                # /image/pullPolicy
    imagePullSecrets: [pull]                               # /imagePullSecrets/0
    replicas: 0                                            # /replicas
    watchNamespaces: shop                                  # /watchNamespaces
    grants:
    - {secrets: [db]}                                      # /grants/0
    - {namespace: shop, secrets: ["", "*"]}                # /grants/1/secrets/0 /grants/1/secrets/1
    log: {level: LOUD}                                     # /log/level
    workers: 0                                             # /workers
    driftPollSeconds: often                                # /driftPollSeconds
    deniedAddresses: [localhost]                           # /deniedAddresses/0
    notifications:
      webhook: {url: {secretKeyRef: {name: a, key: b}}}    # /notifications/webhook
      slack:
        token: xoxb-secret                                 # /notifications/slack/token
        channel: rollouts                                  # /notifications/slack/channel
      pagerDuty:
        routingKey: {secretKeyRef: {name: a}}              # /notifications/pagerDuty/routingKey/secretKeyRef
        address: http://events.example                     # /notifications/pagerDuty/address
      apprise: {urls: ["json://host"]}                     # /notifications/apprise/urls
    extraEnv: [{value: x}]                                 # /extraEnv/0
    extraVolumes: [{configMap: {name: ca}}]                # /extraVolumes/0
    extraVolumeMounts: [{name: ca}]                        # /extraVolumeMounts/0
    podLabels: {tier: "-"}                                 # /podLabels/tier
    priorityClassName: High                                # /priorityClassName
    serviceAccount: {name: My Account}                     # /serviceAccount/name
    crds: {keep: "yes"}                                    # /crds/keep
    networkPolicy: {egress: {}}                            # /networkPolicy/egress
    metrics:
      monitor:
        kind: Scrape                                       # /metrics/monitor/kind
        interval: "30"                                     # /metrics/monitor/interval
        labels: {release: "a b"}                           # /metrics/monitor/labels/release
      rules: {render: "no"}                                # /metrics/rules/render
    """,
    """
    image: {repository: ""}                                # /image/repository
    replicas: two                                          # /replicas
    watchNamespaces: [shop-*]                              # /watchNamespaces/0
    notifications:
      webhook: {url: https://a.example, secret: abc}       # /notifications/webhook/url /notifications/webhook/secret
    metrics: {monitor: {interval: 0s}}                     # /metrics/monitor/interval
    """,
    """
    watchNamespaces: [shop, shop]                          # /watchNamespaces
    """,
]


def refusal(helm: Helm, values: object) -> str:
    done = helm.run("template", RELEASE, CHART, "-f", "-", values=json.dumps(values), check=False)
    assert done.returncode != 0
    return done.stderr


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_a_value_that_makes_no_sense_is_refused_with_its_path(helm: Helm, text: str) -> None:
    paths = [path for line in text.splitlines() for path in line.partition(" # ")[2].split()]
    said = refusal(helm, yaml.safe_load(text))
    assert paths
    assert [path for path in paths if f"'{path}'" not in said] == []
    assert "xoxb-secret" not in said


def test_every_value_of_another_kind_is_refused_with_its_path(helm: Helm) -> None:
    """Each of those in values.yaml, all at once."""
    known = yaml.safe_load((CHART / "values.yaml").read_text())
    paths = list(leaves(known))
    assert len(paths) > 40
    said = refusal(helm, wrong(known))
    assert [path for path in paths if f"'{path}'" not in said] == []


def leaves(values: dict[str, Any], above: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict) and value and name not in FREE:
            yield from leaves(value, f"{above}/{name}")
        else:
            yield f"{above}/{name}"


def wrong(values: dict[str, Any]) -> dict[str, Any]:
    """The same with a number for everything, and a text for each number."""

    def other(name: str, value: object) -> object:
        if isinstance(value, dict) and value and name not in FREE:
            return wrong(value)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return "many" if is_number else 7

    return {name: other(name, value) for name, value in values.items()}


def test_what_the_schema_takes_the_operator_takes() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["$defs"]
    assert schema["Slack"]["properties"]["channel"]["pattern"] == f"^({CHANNEL.pattern})$"
    assert schema["Notifications"]["properties"]["template"]["maxLength"] == CHARS_MAX


def test_values_for_charts_around_it_are_let_through(helm: Helm) -> None:
    assert helm.template({"global": {"anything": 1}})
