"""A webhook: each transition as a CloudEvent, signed as Standard Webhooks says.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md (structured mode, JSON)
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from feature_rollout.notify.http import Http
from feature_rollout.notify.recipient import Sent
from feature_rollout.ports import Transition

TYPE: Final = "dev.featurerollout."


class Webhook:
    """POSTs to one address. `secret` is the key of the signatures, as bytes."""

    name: Final = "webhook"

    def __init__(self, http: Http, url: str, secret: bytes, now: Callable[[], datetime]) -> None:
        self._http = http
        self._url = url
        self._secret = secret
        self._now = now

    async def send(self, transition: Transition, memory: Mapping[str, Any]) -> Sent:
        body = json.dumps(event(transition), ensure_ascii=False, separators=(",", ":")).encode()
        answer = await self._http.post(self._url, body, self._headers(transition, body))
        answer.check()
        return Sent(memory)

    def _headers(self, transition: Transition, body: bytes) -> dict[str, str]:
        # The event's id may hold what a header must not, and full stops, which part what is signed.
        identity = hashlib.sha256(transition.id.encode()).hexdigest()[:32]
        timestamp = str(int(self._now().timestamp()))
        return {
            "Content-Type": "application/cloudevents+json; charset=utf-8",
            "webhook-id": identity,
            "webhook-timestamp": timestamp,
            "webhook-signature": sign(self._secret, identity, timestamp, body),
        }


def sign(secret: bytes, identity: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 of `identity.timestamp.body`, as `v1,` and Base64."""
    digest = hmac.digest(secret, f"{identity}.{timestamp}.".encode() + body, "sha256")
    return f"v1,{base64.b64encode(digest).decode()}"


def event(transition: Transition) -> dict[str, Any]:
    """The CloudEvent; the same for every attempt."""
    place = transition.place
    # A kill is written straight into the database: it is known to no cluster.
    source = f"/clusters/{quote(place[0], safe='')}" if place else "/"
    return {
        "specversion": "1.0",
        "id": transition.id,
        "source": f"//featurerollout.dev{source}",
        "type": TYPE + transition.kind,
        **({"subject": f"{place[1]}/{place[2]}"} if place else {}),
        "time": transition.at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        # The CloudEvents extension "sequence": its texts are in the order of what happened.
        "sequence": f"{transition.number:020d}",
        "datacontenttype": "application/json",
        "data": transition.payload,
    }
