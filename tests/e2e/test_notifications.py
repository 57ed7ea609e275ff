"""A rollout and its revert as others hear of it: a webhook, Slack, PagerDuty and Apprise, each a real server."""

import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from feature_rollout.demo import stage as demo
from feature_rollout.failpoints import DELIVERY
from support.ending import end
from support.fakeslack import TOKEN, FakeSlack
from support.manifests import ROLLOUT, A, disable, rollout, row, stage, store
from support.operatorprocess import Operator
from support.receiver import SECRET, Receiver
from support.tls import Authority, openssl_or_skip
from support.waiting import wait_for
from support.world import World

HALF, OFF = (True, 50, frozenset()), (False, 50, frozenset())
ROUTING_KEY = "r0uting-s3cret"
# Long enough for a machine on which a call takes a second.
SHORT = {"lease_duration_seconds": "6", "lease_renew_deadline_seconds": "4", "lease_retry_seconds": "0.5"}
KINDS = ["Advance", "Advance", "DisableFlags"]


@dataclass
class Others:
    """Who is told; `env` are the operator's settings for it."""

    webhook: Receiver
    slack: FakeSlack
    pagerduty: Receiver
    apprise: Receiver
    env: dict[str, str]

    def of(self, recipient: str) -> dict[str, str]:
        return {name: value for name, value in self.env.items() if name.startswith(recipient)}


@pytest.fixture
def others(tmp_path: Path) -> Iterator[Others]:
    openssl_or_skip()
    authority = Authority(tmp_path / "ca")
    certificate, key = tmp_path / "host.crt", tmp_path / "host.key"
    for file, content in zip((certificate, key), authority.issue("localhost"), strict=True):
        file.write_text(content)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with Receiver() as webhook, Receiver(tls) as slack, Receiver(tls) as pagerduty, Receiver() as apprise:
        pagerduty.always = 202
        env = {
            "webhook_url": f"{webhook.url}/hooks/t0psecret",
            "webhook_secret": SECRET,
            "slack_token": TOKEN,
            "slack_channel": "#rollouts",
            "slack_address": f"https://localhost:{slack.port}/api",
            "pagerduty_routing_key": ROUTING_KEY,
            "pagerduty_address": f"https://localhost:{pagerduty.port}/v2/enqueue",
            "apprise_urls": f"json://127.0.0.1:{apprise.port}/t0psecret/a\njson://127.0.0.1:{apprise.port}/t0psecret/b",
        }
        yield Others(webhook, FakeSlack(slack, "#rollouts", "#checkout"), pagerduty, apprise, env)


@pytest.fixture
def ready(world: World, tmp_path: Path, others: Others, request: pytest.FixtureRequest) -> Iterator[Operator]:
    """An operator that is not started yet, and trusts their certificates: those are read when it is imported."""
    operator = trusting(world, tmp_path, tmp_path / "ca" / "ca.crt")
    yield operator
    end(operator, world, request)


@pytest.fixture
def second(world: World, tmp_path: Path, others: Others, request: pytest.FixtureRequest) -> Iterator[Operator]:
    """Another one."""
    (tmp_path / "second").mkdir()
    operator = trusting(world, tmp_path / "second", tmp_path / "ca" / "ca.crt")
    yield operator
    operator.thaw()
    end(operator, world, request)


def trusting(world: World, folder: Path, authority: Path) -> Operator:
    program = ("/usr/bin/env", f"SSL_CERT_FILE={authority}", sys.executable, "-m", "feature_rollout.cli")
    return Operator(world.cluster, world.namespace, demo.SERVICE_ACCOUNT, folder, program=program)


def subject(world: World) -> str:
    return f"{world.namespace}/{ROLLOUT}"


def kinds(others: Others, world: World) -> list[str]:
    events = others.webhook.events(subject(world))
    assert [event["sequence"] for event in events] == sorted(event["sequence"] for event in events)
    return [event["type"].removeprefix("dev.featurerollout.") for event in events]


def regress(world: World, operator: Operator) -> None:
    contacts = {"slack": "#checkout", "team": "checkout", "runbook": "https://example.com/runbook"}
    stages = [stage("ten", 10), stage("half", 50, "30s"), stage("everyone", 100)]
    world.apply(store(), rollout(stages=stages, rows=[disable()], contacts=contacts))
    world.wait_row(A, HALF)
    operator.wait_looks(2, verdict="Pass")
    world.traffic.failed = 0.3
    world.wait_row(A, OFF)


def test_a_revert_is_told_to_all(world: World, ready: Operator, others: Others) -> None:
    ready.start(**others.env)
    regress(world, ready)
    wait_for(lambda: kinds(others, world) == KINDS, 30.0, "the events of the webhook")
    revert = others.webhook.events(subject(world))[-1]
    assert revert["data"]["flags"][A]["after"] == {"enabled": False, "percentage": "50", "groups": []}
    assert revert["data"]["stage"] == "half"
    # As the audit has it, under the same name.
    assert revert["id"] in {entry["operation_id"] for entry in world.audit(A)}
    wait_for(lambda: len(others.slack.only.thread) == 3, 30.0, "the thread")
    message = others.slack.only
    assert message.channel == others.slack.channels["#checkout"]
    assert f"*{subject(world)}*" in message.text
    assert ":rotating_light:" in message.text
    assert "Runbook: https://example.com/runbook" in message.text
    wait_for(lambda: others.pagerduty.calls, 30.0, "the incident")
    (incident,) = others.pagerduty.calls
    assert incident.json["event_action"] == "trigger"
    assert incident.json["links"] == [{"href": "https://example.com/runbook", "text": "Runbook"}]
    wait_for(lambda: len(others.apprise.taken) == 2 * len(KINDS), 30.0, "what Apprise tells two services")
    told = [call.json["type"] for call in others.apprise.taken if call.path.endswith("/b")]
    assert told == ["info", "info", "failure"]

    world.traffic.failed = 0.0
    world.act("Retry")
    wait_for(lambda: "Rearm" in kinds(others, world), 60.0, "the retry")
    wait_for(lambda: len(others.pagerduty.calls) == 2, 30.0, "the incident's end")
    assert others.pagerduty.calls[1].json["event_action"] == "resolve"
    assert others.pagerduty.calls[1].json["dedup_key"] == incident.json["dedup_key"]
    assert len(others.slack.messages) == 1
    assert ready.count("featurerollout_notifications_total", recipient="webhook", outcome="delivered") >= 4
    assert ready.count("featurerollout_notifications_total", outcome="failed") == 0
    # The answers of the three say nothing of what they are called with.
    said = ready.log_text + world.everything_said() + ready.get("/metrics")[1]
    for secret in (SECRET, TOKEN, ROUTING_KEY, "t0psecret"):
        assert secret not in said


def test_a_webhook_that_is_away_holds_nothing_up_and_is_told_later(
    world: World, ready: Operator, others: Others
) -> None:
    others.webhook.always = 503
    ready.start(**others.env)
    regress(world, ready)
    wait_for(lambda: len(others.slack.messages) == 1 and len(others.slack.only.thread) == 3, 30.0, "the thread")
    wait_for(lambda: ready.count("featurerollout_notifications_waiting", recipient="webhook") == 3, 30.0, "the wait")
    assert ready.count("featurerollout_outbox_age_seconds", recipient="webhook") > 0
    wait_for(lambda: ready.count("featurerollout_notifications_waiting", recipient="slack") == 0, 30.0, "Slack has all")
    assert others.webhook.taken == []
    others.webhook.always = 200
    wait_for(lambda: kinds(others, world) == KINDS, 120.0, "the events of the webhook")
    wait_for(lambda: ready.count("featurerollout_outbox_age_seconds", recipient="webhook") == 0, 30.0, "nothing waits")


def test_a_hold_is_told_although_nothing_is_done(world: World, ready: Operator, others: Others) -> None:
    ready.start(**others.env)
    stages = [stage("ten", 10), stage("half", 50, "60s"), stage("everyone", 100)]
    world.apply(store(), rollout(stages=stages, rows=[row("Low", {"type": "Hold"})]))
    world.wait_row(A, HALF)
    ready.wait_looks(2, verdict="Pass")
    world.traffic.failed = 0.3
    wait_for(lambda: kinds(others, world)[-1:] == ["Hold"], 60.0, "the hold")
    assert others.webhook.events(subject(world))[-1]["data"]["reason"] == "HoldAction"
    wait_for(lambda: others.pagerduty.calls, 30.0, "the incident")
    assert others.pagerduty.calls[0].json["payload"]["severity"] == "warning"
    assert world.row(A) == HALF


def test_two_replicas_and_crashes_between_telling_and_remembering(
    world: World, ready: Operator, second: Operator, others: Others
) -> None:
    """One dies after the webhook has answered, then after Slack has: the other tells it again, and all that follows.

    It is frozen meanwhile, so that it is known who tells what.
    """
    lease = {"lease_name": "feature-rollout-operator", "lease_namespace": world.namespace, **SHORT}
    ready.start(failpoints=[DELIVERY[0]], **lease, **others.of("webhook"))
    wait_for(lambda: ready.count("featurerollout_leader") == 1.0, 30.0, "the first to lead")
    second.start(**lease, **others.of("webhook"), **others.of("slack"), **others.of("pagerduty"))
    assert second.count("featurerollout_leader") == 0.0
    second.freeze()
    stages = [stage("ten", 10, "2s"), stage("half", 50, "120s"), stage("everyone", 100)]
    world.apply(store(), rollout(stages=stages, rows=[disable()], contacts={"slack": "#checkout"}))
    ready.wait_until_dead(60.0)
    ready.start(failpoints=[DELIVERY[0]], **lease, **others.of("slack"))
    ready.wait_until_dead(60.0)
    second.thaw()
    world.wait_row(A, HALF, 60.0)
    second.wait_looks(2, verdict="Pass")
    assert second.count("featurerollout_leader") == 1.0
    world.traffic.failed = 0.3
    # Nothing waits for what the dead have leased.
    world.wait_row(A, OFF)
    wait_for(lambda: kinds(others, world) == KINDS, 90.0, "the events of the webhook")
    operations = [call.json["id"] for call in others.webhook.taken]
    assert [operation for operation in operations if operations.count(operation) > 1] == operations[:1] * 2
    wait_for(lambda: len(others.slack.only.thread) >= 4, 90.0, "the thread")
    first, again, *later = others.slack.only.thread
    assert first == again
    assert len({first, *later}) == len(KINDS)
    wait_for(lambda: others.pagerduty.calls, 30.0, "the incident")
    assert [call.json["event_action"] for call in others.pagerduty.calls] == ["trigger"]
    # And who stands by tells as well: nobody else knows of Apprise.
    ready.start(**lease, **others.of("apprise"))
    wait_for(lambda: len(others.apprise.taken) == 2 * len(KINDS), 60.0, "what a standby tells")
    assert (ready.count("featurerollout_leader"), second.count("featurerollout_leader")) == (0.0, 1.0)
