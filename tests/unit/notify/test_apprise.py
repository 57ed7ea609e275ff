"""Apprise: what a service gets, through the library and a real server; and that no URL is said."""

import asyncio
import logging
from collections.abc import Iterator
from io import StringIO

import pytest

from feature_rollout.notify.apprise import Apprise
from feature_rollout.notify.recipient import Sent, Undelivered
from feature_rollout.runtime import logs
from support.receiver import Receiver
from support.transitions import OFF, percent, transition
from support.waiting import wait_for_async

REVERT = transition(
    "DisableFlags",
    4,
    message="error-rate was 3%, limit 1% (High)",
    flags={"new_checkout": {"before": percent(50), "after": OFF}},
)


@pytest.fixture
def said() -> Iterator[StringIO]:
    """All that is logged at the lowest level, as the operator logs it."""
    stream = StringIO()
    handler = logs.set_up("text", "DEBUG", stream)
    yield stream
    logging.getLogger().removeHandler(handler)


def recipient(receiver: Receiver) -> Apprise:
    return Apprise("apprise-1", f"json://user:hunter2@127.0.0.1:{receiver.port}/hooks/t0psecret?rto=60")


async def test_a_revert_is_told_in_words(receiver: Receiver) -> None:
    assert await recipient(receiver).send(REVERT, {}) == Sent()
    (call,) = receiver.calls
    assert call.path == "/hooks/t0psecret"
    told = {key: call.json[key] for key in ("title", "message", "type")}
    assert told == {
        "title": "shop/new-checkout",
        "message": "error-rate was 3%, limit 1% (High)\nnew_checkout: 50 % of everyone → off",
        "type": "failure",
    }


@pytest.mark.parametrize(
    ("kind", "type_"), [("Advance", "info"), ("Complete", "success"), ("Hold", "warning"), ("Kill", "info")]
)
async def test_services_show_what_is_bad(receiver: Receiver, kind: str, type_: str) -> None:
    await recipient(receiver).send(transition(kind, key="kill" if kind == "Kill" else "prod/shop/a"), {})
    assert receiver.calls[0].json["type"] == type_


async def test_what_a_text_says_is_a_text(receiver: Receiver) -> None:
    """Neither markup nor an escape of it is made into anything by the library."""
    hostile = r"${APPRISE} {{ 7 * 7 }} <script> \n %(asctime)s"
    await recipient(receiver).send(transition("Pause", message=hostile, flags={}), {})
    assert receiver.calls[0].json["message"] == hostile


@pytest.mark.parametrize("behaviour", [500, (307, {"Location": "/elsewhere"}), "reset", 429])
async def test_a_service_that_does_not_take_it(receiver: Receiver, said: StringIO, behaviour) -> None:
    receiver.always = behaviour
    with pytest.raises(Undelivered, match="cannot be reached, or did not take it") as caught:
        await recipient(receiver).send(REVERT, {})
    assert len(receiver.calls) == 1
    for secret in ("hunter2", "t0psecret", str(receiver.port)):
        assert secret not in said.getvalue() + str(caught.value)


async def test_one_that_hangs_is_left_alone(receiver: Receiver) -> None:
    receiver.always = "hang"
    hanging = recipient(receiver)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await hanging.send(REVERT, {})
    with pytest.raises(Undelivered, match="has not ended the delivery before"):
        await hanging.send(REVERT, {})
    receiver.release()
    receiver.always = 200

    async def taken() -> bool:
        try:
            return await hanging.send(REVERT, {}) == Sent()
        except Undelivered:
            return False

    await wait_for_async(taken)


@pytest.mark.parametrize("url", ["", "t0psecret", "nonsense://t0psecret@host", "json://"])
def test_a_url_that_it_cannot_use(url: str, said: StringIO) -> None:
    with pytest.raises(ValueError, match="no URL that Apprise can use") as caught:
        Apprise("apprise-1", url)
    assert "t0psecret" not in said.getvalue() + str(caught.value)
