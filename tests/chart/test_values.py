"""Values that make no sense are refused with their path, before anything is sent."""

import json

import pytest

from support.helm import CHART, RELEASE, Helm

IN_SECRET = {"secretKeyRef": {"name": "notifications", "key": "k"}}
BAD = [
    ({"replica": 2}, "replica"),
    ({"replicas": 0}, "/replicas"),
    ({"image": {"digest": "latest"}}, "/image/digest"),
    ({"image": {"repository": ""}}, "/image/repository"),
    ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
    ({"watchNamespaces": "shop"}, "/watchNamespaces"),
    ({"watchNamespaces": ["shop-*"]}, "/watchNamespaces/0"),
    ({"grants": [{"secrets": ["db"]}]}, "/grants/0"),
    ({"grants": [{"namespace": "shop", "secrets": [""]}]}, "/grants/0/secrets/0"),
    ({"grants": [{"namespace": "shop", "secrets": ["*"]}]}, "/grants/0/secrets/0"),
    ({"log": {"level": "LOUD"}}, "/log/level"),
    ({"workers": 0}, "/workers"),
    ({"driftPollSeconds": "often"}, "/driftPollSeconds"),
    ({"crds": {"keep": "yes"}}, "/crds/keep"),
    ({"metrics": {"monitor": {"kind": "Scrape"}}}, "/metrics/monitor/kind"),
    ({"metrics": {"monitor": {"interval": "30"}}}, "/metrics/monitor/interval"),
    ({"notifications": {"webhook": {"url": IN_SECRET}}}, "/notifications/webhook"),
    ({"notifications": {"webhook": {"url": "https://a.example", "secret": IN_SECRET}}}, "/notifications/webhook/url"),
    ({"notifications": {"slack": {"token": IN_SECRET, "channel": "rollouts"}}}, "/notifications/slack/channel"),
    (
        {"notifications": {"pagerDuty": {"routingKey": {"secretKeyRef": {"name": "a"}}}}},
        "/notifications/pagerDuty/routingKey/secretKeyRef",
    ),
    (
        {"notifications": {"pagerDuty": {"routingKey": IN_SECRET, "address": "http://a.example"}}},
        "/notifications/pagerDuty/address",
    ),
    ({"notifications": {"apprise": {"urls": ["json://host"]}}}, "/notifications/apprise/urls"),
    ({"networkPolicy": {"egress": {}}}, "/networkPolicy/egress"),
]


@pytest.mark.parametrize(("values", "path"), BAD, ids=[path for _, path in BAD])
def test_a_value_that_makes_no_sense_is_refused_with_its_path(helm: Helm, values: dict[str, object], path: str) -> None:
    done = helm.run("template", RELEASE, CHART, "-f", "-", values=json.dumps(values), check=False)
    assert done.returncode != 0
    assert path in done.stderr


def test_values_for_charts_around_it_are_let_through(helm: Helm) -> None:
    assert helm.template({"global": {"anything": 1}})
