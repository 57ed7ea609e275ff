"""PagerDuty, Events API v2: an incident when exposure is taken back or a rollout is stuck, resolved when it goes on.

https://developer.pagerduty.com/docs/events-api-v2-overview
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC
from typing import Any, Final

from feature_rollout.api.featurerollout import Contacts
from feature_rollout.core.decision import Verb
from feature_rollout.core.news import HELD, RECOVER, WAITS
from feature_rollout.notify import wording
from feature_rollout.notify.http import Http
from feature_rollout.notify.recipient import Sent
from feature_rollout.notify.template import PLAIN, Template
from feature_rollout.ports import Transition

ADDRESS: Final = "https://events.pagerduty.com/v2/enqueue"

_KEY_CHARS_MAX: Final = 255
_SUMMARY_CHARS_MAX: Final = 1024
# After these the rollout goes on, or is no more.
_ENDS: Final = frozenset({Verb.ADVANCE, Verb.COMPLETE, Verb.REARM, Verb.RELEASE, RECOVER})


class PagerDuty:
    """One service's integration key. `contacts` tells whom a rollout names, by namespace and name.

    `template` is of an incident's summary, behind the rollout.
    """

    name: Final = "pagerduty"

    def __init__(
        self,
        http: Http,
        routing_key: str,
        contacts: Callable[[str, str], Contacts | None],
        address: str = ADDRESS,
        *,
        template: Template = PLAIN,
    ) -> None:
        self._http = http
        self._routing_key = routing_key
        self._contacts = contacts
        self._address = address
        self._template = template

    async def send(self, transition: Transition, memory: Mapping[str, Any]) -> Sent:
        event = self._event(transition, is_open=bool(memory.get("open")))
        if event is None:
            return Sent(memory)
        body = json.dumps(event, ensure_ascii=False).encode()
        answer = await self._http.post(self._address, body, {"Content-Type": "application/json"})
        answer.check()
        return Sent({"open": event["event_action"] == "trigger"})

    def _event(self, transition: Transition, *, is_open: bool) -> dict[str, Any] | None:
        """What to send; None for what is no incident's business."""
        place = transition.place
        if place is None:
            return None
        head = {"routing_key": self._routing_key, "dedup_key": dedup_key(transition.key)}
        if is_open and transition.kind in _ENDS:
            return {**head, "event_action": "resolve"}
        severity = _severity(transition)
        if severity is None:
            return None
        cluster, namespace, name = place
        summary = f"{wording.title(transition)}: {self._template.render(transition)}"
        payload = {
            "summary": wording.cut(summary, _SUMMARY_CHARS_MAX),
            "source": f"{cluster}/{namespace}",
            "severity": severity,
            "timestamp": transition.at.astimezone(UTC).isoformat(),
            "component": name,
            "group": namespace,
            "class": str(transition.payload.get("reason", "")),
            "custom_details": {
                "stage": transition.payload.get("stage"),
                "attempt": transition.payload.get("attempt"),
                "operation": transition.id,
                "flags": wording.changes(transition),
            },
        }
        return {**head, "event_action": "trigger", "payload": payload, "links": self._links(namespace, name)}

    def _links(self, namespace: str, name: str) -> list[dict[str, str]]:
        contacts = self._contacts(namespace, name)
        runbook = contacts.runbook if contacts is not None else None
        # It refuses an event with any other link.
        if not runbook or not runbook.startswith("https://"):
            return []
        return [{"href": runbook, "text": "Runbook"}]


def _severity(transition: Transition) -> str | None:
    """None for what wakes nobody: what was ordered by a person, who knows of it, and what waits for one."""
    verb, reason = wording.verb(transition), transition.payload.get("reason")
    if verb is Verb.HOLD and reason not in WAITS:
        return "warning" if reason in HELD else "error"
    reverts = verb is not None and verb.reverts and transition.payload.get("actor") == "operator"
    return "critical" if reverts else None


def dedup_key(key: str) -> str:
    """One incident a rollout: the ledger key, or its hash where it is longer than PagerDuty takes."""
    return key if len(key) <= _KEY_CHARS_MAX else hashlib.sha256(key.encode()).hexdigest()
