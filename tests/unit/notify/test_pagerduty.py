"""PagerDuty: an incident when exposure was taken back, over when the rollout goes on."""

from collections.abc import Mapping
from typing import Any

import pytest

from feature_rollout.api.featurerollout import Contacts
from feature_rollout.notify.http import Http
from feature_rollout.notify.pagerduty import PagerDuty, dedup_key
from feature_rollout.notify.recipient import Undelivered
from feature_rollout.ports import Transition
from support.receiver import Receiver
from support.transitions import KEY, OFF, percent, transition

ROUTING_KEY = "r" * 32
REVERT = {
    "reason": "FlagsDisabled",
    "message": "Flags were disabled: error-rate was 3%, limit 1% (High)",
    "flags": {"new_checkout": {"before": percent(50), "after": OFF}},
}


class Service:
    def __init__(self, http: Http, receiver: Receiver) -> None:
        self.contacts: Contacts | None = None
        self.recipient = PagerDuty(http, ROUTING_KEY, lambda *_: self.contacts, receiver.url + "/v2/enqueue")
        self.memory: Mapping[str, Any] = {}

    async def tell(self, *transitions: Transition) -> None:
        for one in transitions:
            self.memory = (await self.recipient.send(one, self.memory)).memory


@pytest.fixture
def service(http: Http, receiver: Receiver) -> Service:
    receiver.always = 202
    return Service(http, receiver)


def sent(receiver: Receiver) -> list[tuple[str, str]]:
    return [(call.json["event_action"], call.json["dedup_key"]) for call in receiver.calls]


async def test_a_revert_is_an_incident(service: Service, receiver: Receiver) -> None:
    service.contacts = Contacts(runbook="https://example.com/runbook")
    await service.tell(transition("DisableFlags", 4, stage="half", **REVERT))
    (call,) = receiver.calls
    assert call.path == "/v2/enqueue"
    assert call.json == {
        "routing_key": ROUTING_KEY,
        "dedup_key": KEY,
        "event_action": "trigger",
        "payload": {
            "summary": "shop/new-checkout: Flags were disabled: error-rate was 3%, limit 1% (High)",
            "source": "prod/shop",
            "severity": "critical",
            "timestamp": "2026-01-05T09:00:00+00:00",
            "component": "new-checkout",
            "group": "shop",
            "class": "FlagsDisabled",
            "custom_details": {
                "stage": "half",
                "attempt": 1,
                "operation": f"{KEY}@4",
                "flags": ["new_checkout: 50 % of everyone → off"],
            },
        },
        "links": [{"href": "https://example.com/runbook", "text": "Runbook"}],
    }


@pytest.mark.parametrize("end", ["Rearm", "Release", "Advance", "Complete", "Recover"])
async def test_it_is_resolved_once_when_the_rollout_goes_on(service: Service, receiver: Receiver, end: str) -> None:
    await service.tell(
        transition("Advance"),
        transition("ReducePercentage", 2, **REVERT),
        transition("DisableFlags", 3, **REVERT),
        transition("Refuse", 4),
        transition(end, 5),
        transition("Advance", 6),
    )
    assert sent(receiver) == [("trigger", KEY), ("trigger", KEY), ("resolve", KEY)]


async def test_what_a_person_has_ordered_wakes_nobody(service: Service, receiver: Receiver) -> None:
    kill = transition("Kill", 3, key="kill", actor="alice")
    await service.tell(transition("DisableFlags", 2, **REVERT, actor="alice"), kill, transition("Pause", 4))
    assert receiver.calls == []


@pytest.mark.parametrize(
    ("reason", "severity"),
    [
        ("HoldAction", "warning"),
        ("StageOverdue", "error"),
        ("InvalidPlan", "error"),
        ("AwaitingApproval", None),
        ("AwaitingConfirmation", None),
        ("ManualChange", None),
    ],
)
async def test_a_hold(service: Service, receiver: Receiver, reason: str, severity: str | None) -> None:
    await service.tell(transition("Hold", 2, reason=reason, flags={}), transition("Recover", 3, flags={}))
    if severity is None:
        assert receiver.calls == []
    else:
        assert receiver.calls[0].json["payload"]["severity"] == severity
        assert [action for action, _ in sent(receiver)] == ["trigger", "resolve"]


async def test_links_that_it_would_refuse_are_left_out(service: Service, receiver: Receiver) -> None:
    service.contacts = Contacts(runbook="see the wiki")
    await service.tell(transition("DisableFlags", 2, **REVERT))
    assert receiver.calls[0].json["links"] == []


async def test_long_texts_and_keys_fit(service: Service, receiver: Receiver) -> None:
    key = f"{'c' * 253}/{'n' * 63}/{'r' * 253}"
    await service.tell(transition("DisableFlags", 2, key=key, **{**REVERT, "message": "m" * 9000}))
    event = receiver.calls[0].json
    assert len(event["payload"]["summary"]) == 1024
    assert event["dedup_key"] == dedup_key(key)
    assert len(event["dedup_key"]) <= 255


async def test_a_refusal(service: Service, receiver: Receiver) -> None:
    receiver.always = 400
    with pytest.raises(Undelivered) as caught:
        await service.tell(transition("DisableFlags", 2, **REVERT))
    assert caught.value.refused
    assert service.memory == {}
