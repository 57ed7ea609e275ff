"""Slack: one message a rollout that is kept up to date, a thread, and what Slack says when it does not like it."""

from collections.abc import Mapping
from typing import Any

import pytest

from feature_rollout.api.featurerollout import Contacts
from feature_rollout.notify.http import Http
from feature_rollout.notify.recipient import Undelivered
from feature_rollout.notify.slack import Slack
from feature_rollout.ports import Transition
from support.fakeslack import TOKEN, FakeSlack
from support.receiver import Receiver
from support.transitions import OFF, percent, transition

Memory = Mapping[str, Any]


class Bot:
    """A Slack recipient and what the rollout says of its contacts; `tell` does what the drain does."""

    def __init__(self, http: Http, receiver: Receiver, token: str = TOKEN) -> None:
        self.contacts: Contacts | None = None
        self.slack = Slack(http, token, "#rollouts", lambda *_: self.contacts, receiver.url + "/api")

    async def tell(self, *transitions: Transition, memory: Memory | None = None) -> Memory:
        memory = memory or {}
        for one in transitions:
            for _ in range(4):
                sent = await self.slack.send(one, memory)
                memory = sent.memory
                if sent.whole:
                    break
            else:
                pytest.fail("it is never whole")
        return memory


@pytest.fixture
def workspace(receiver: Receiver) -> FakeSlack:
    return FakeSlack(receiver, "#rollouts", "#deployment-notifications")


@pytest.fixture
def bot(http: Http, receiver: Receiver, workspace: FakeSlack) -> Bot:
    return Bot(http, receiver)


async def test_one_message_that_says_where_it_is_and_a_thread_of_all(bot: Bot, workspace: FakeSlack) -> None:
    half = {"new_checkout": {"before": percent(5), "after": percent(50, "admin")}}
    off = {"new_checkout": {"before": percent(50, "admin"), "after": OFF}}
    await bot.tell(
        transition(),
        transition("Advance", 2, stage="half", flags=half),
        transition("DisableFlags", 3, stage="half", flags=off, message="error-rate was 3%, limit 1% (High)."),
    )
    message = workspace.only
    assert message.text.splitlines() == [
        ":rotating_light: *shop/new-checkout*: error-rate was 3%, limit 1% (High).",
        "Stage half, attempt 1",
    ]
    assert message.thread == [
        ":information_source: Step 1 was made.\nnew_checkout: off → 5 % of everyone",
        ":information_source: Step 2 was made.\nnew_checkout: 5 % of everyone → 50 % of admin",
        ":rotating_light: error-rate was 3%, limit 1% (High).\nnew_checkout: 50 % of admin → off",
    ]


async def test_the_channel_and_the_people_are_those_of_the_rollout(bot: Bot, workspace: FakeSlack) -> None:
    bot.contacts = Contacts(team="checkout", slack="#deployment-notifications", runbook="https://example.com/r?a=1&b=2")
    memory = await bot.tell(transition())
    message = workspace.only
    assert message.channel == workspace.channels["#deployment-notifications"]
    assert message.text.splitlines()[2:] == ["Team: checkout", "Runbook: https://example.com/r?a=1&amp;b=2"]
    # Another channel is another message; the first stays as it was.
    bot.contacts = Contacts(slack="#rollouts")
    await bot.tell(transition(number=2), memory=memory)
    assert [found.channel for found in workspace.messages.values()] == [
        workspace.channels["#deployment-notifications"],
        workspace.channels["#rollouts"],
    ]


@pytest.mark.parametrize("named", ["#not-invited", "@ceo", "U0123456789", "#a b", "https://evil.example"])
async def test_a_channel_that_cannot_be_written_to_is_the_default_one(
    bot: Bot, workspace: FakeSlack, receiver: Receiver, named: str
) -> None:
    bot.contacts = Contacts(slack=named)
    memory = await bot.tell(transition())
    await bot.tell(transition(number=2), memory=memory)
    assert workspace.only.channel == workspace.channels["#rollouts"]
    assert len(workspace.only.thread) == 2
    # Only what is a channel's name or id is asked of Slack at all.
    asked = {call.json["channel"] for call in receiver.calls}
    assert (named in asked) is (named == "#not-invited")


async def test_what_people_and_manifests_say_becomes_no_mention(bot: Bot, workspace: FakeSlack) -> None:
    said = 'Paused by mallory: "<!channel> & <https://evil.example|click>"'
    await bot.tell(transition("Pause", message=said))
    for text in (workspace.only.text, *workspace.only.thread):
        assert "<" not in text
        assert "&lt;!channel&gt; &amp; " in text


async def test_a_kill_is_a_message_of_its_own(bot: Bot, workspace: FakeSlack) -> None:
    flags = {"new_checkout": {"before": percent(50), "after": OFF}}
    memory = await bot.tell(transition("Kill", key="kill", actor="alice", message="orders are lost", flags=flags))
    assert memory == {}
    message = workspace.only
    assert message.text == (
        ":information_source: alice switched off new_checkout: orders are lost\nnew_checkout: 50 % of everyone → off"
    )


async def test_a_message_that_was_deleted_begins_anew(bot: Bot, workspace: FakeSlack) -> None:
    memory = await bot.tell(transition())
    workspace.messages.clear()
    await bot.tell(transition(number=2), memory=memory)
    assert [text.splitlines()[0] for text in workspace.only.thread] == [":information_source: Step 2 was made."]


async def test_where_messages_cannot_be_edited_the_thread_goes_on(bot: Bot, workspace: FakeSlack) -> None:
    memory = await bot.tell(transition())
    workspace.errors.append("edit_window_closed")
    await bot.tell(transition(number=2), memory=memory)
    assert len(workspace.only.thread) == 2


async def test_after_a_crash_at_most_the_last_call_is_repeated(
    bot: Bot, workspace: FakeSlack, receiver: Receiver
) -> None:
    memory = await bot.tell(transition())
    second = transition(number=2)
    # The thread's message is not answered: its delivery begins again, and the message is not posted again.
    workspace.errors.extend(["", "internal_error"])
    with pytest.raises(Undelivered):
        await bot.tell(second, memory=memory)
    await bot.tell(second, memory=memory)
    assert len(workspace.only.thread) == 2
    assert len(workspace.only.versions) == 4


@pytest.mark.parametrize(
    ("error", "says", "refused"),
    [
        ("invalid_auth", "refuses the bot's token (invalid_auth)", False),
        ("missing_scope", "chat:write", False),
        ("not_in_channel", "invite it", False),
        ("msg_too_long", "refuses the message", True),
        ("ratelimited", "called too often", False),
        ("internal_error", "it answered with an error", False),
        ("s3cret-of-the-server", "it answered with an error", False),
    ],
)
async def test_what_slack_says(bot: Bot, workspace: FakeSlack, error: str, says: str, refused: bool) -> None:
    workspace.errors.append(error)
    with pytest.raises(Undelivered) as caught:
        await bot.tell(transition())
    assert says in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.refused is refused


async def test_429_and_nonsense(bot: Bot, receiver: Receiver) -> None:
    receiver.script.append((429, {"Retry-After": "30"}))
    with pytest.raises(Undelivered) as caught:
        await bot.tell(transition())
    assert caught.value.retry_after_s == 30
    for nonsense in ([], {"ok": True}, {"ok": "yes"}, None, "hello", {"ok": False}):
        receiver.answer = lambda _, answer=nonsense: answer
        with pytest.raises(Undelivered) as caught:
            await bot.tell(transition())
        assert str(caught.value) in ("its answer is none of the Slack API", "it answered with an error")
