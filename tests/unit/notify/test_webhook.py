"""The CloudEvent and its signature, as docs/notifications.md shows them."""

import base64
import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from feature_rollout.core.decision import Verb
from feature_rollout.core.news import RECOVER
from feature_rollout.notify.http import Http
from feature_rollout.notify.webhook import Webhook, event, sign
from feature_rollout.store.kill import KILL_VERB
from support.receiver import SECRET, Receiver
from support.transitions import OFF, percent, transition

PAGE = (Path(__file__).parents[3] / "docs" / "notifications.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def is_genuine() -> Callable[..., bool]:
    names: dict[str, Any] = {}
    exec(block("python"), names)
    return names["is_genuine"]  # type: ignore[no-any-return]


def test_the_signature_is_that_of_the_specification() -> None:
    # The example of Standard Webhooks.
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    signature = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body)
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_the_documented_check_takes_what_is_sent_and_nothing_else(
    http: Http, receiver: Receiver, is_genuine: Callable[..., bool]
) -> None:
    webhook = Webhook(http, receiver.url, base64.b64decode(SECRET), lambda: datetime.now(UTC))
    await webhook.send(transition(), {})
    old = Webhook(http, receiver.url, base64.b64decode(SECRET), lambda: datetime.now(UTC) - timedelta(hours=1))
    await old.send(transition(), {})
    genuine, late = receiver.calls
    assert is_genuine(genuine.headers, genuine.body, SECRET)
    assert is_genuine(genuine.headers, genuine.body, f"whsec_{SECRET}")
    assert not is_genuine(genuine.headers, genuine.body + b" ", SECRET)
    assert not is_genuine(genuine.headers, genuine.body, base64.b64encode(b"x" * 32).decode())
    assert not is_genuine({**genuine.headers, "webhook-timestamp": str(int(time.time()) + 1)}, genuine.body, SECRET)
    assert not is_genuine(late.headers, late.body, SECRET)
    # An attempt has its own time and signature, and the same id and content.
    assert late.headers["webhook-id"] == genuine.headers["webhook-id"]
    assert late.body == genuine.body


def test_the_documented_event_is_what_is_sent() -> None:
    shown = json.loads(block("json"))
    flags = {"new_checkout": {"before": percent(50), "after": {**OFF, "percentage": "50"}}}
    made = transition("DisableFlags", 7, **{**shown["data"], "flags": flags})
    sent = event(made)
    assert sent.keys() == shown.keys()
    for changing in ("sequence",):
        assert len(sent.pop(changing)) == len(shown.pop(changing))
    assert sent == shown


def test_the_documented_types_exist() -> None:
    for verb in (*Verb, RECOVER, KILL_VERB):
        if verb is not Verb.WAIT:
            assert f"`{verb}`" in PAGE


def test_an_event_of_a_kill_and_of_odd_names() -> None:
    kill = event(transition("Kill", key="kill"))
    assert "subject" not in kill
    assert kill["source"] == "//featurerollout.dev/"
    odd = event(transition(key="eu west/ü/shop/r"))
    assert (odd["source"], odd["subject"]) == ("//featurerollout.dev/clusters/eu%20west%2F%C3%BC", "shop/r")
