"""Slack: one message a rollout that says where it is, and a thread with everything that has happened.

https://docs.slack.dev/reference/methods/chat.postMessage, …/chat.update
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from feature_rollout.api.featurerollout import Contacts
from feature_rollout.core.decision import Verb
from feature_rollout.notify import wording
from feature_rollout.notify.http import Http
from feature_rollout.notify.recipient import Sent, Undelivered
from feature_rollout.notify.template import PLAIN, Template
from feature_rollout.ports import Transition

ADDRESS: Final = "https://slack.com/api"

# A channel by its name or id. Not a person: a manifest must not write to anybody.
CHANNEL: Final = re.compile(r"#[^\s#@<>&,]{1,80}|[CG][A-Z0-9]{8,20}")
_TOKEN: Final = frozenset(
    {"invalid_auth", "not_authed", "token_revoked", "token_expired", "account_inactive", "no_permission"}
    | {"missing_scope", "org_login_required", "team_access_not_granted"}
)
_CHANNEL: Final = frozenset({"channel_not_found", "not_in_channel", "is_archived", "restricted_action"})
# Somebody has deleted the message: another one begins.
_MESSAGE_GONE: Final = frozenset({"message_not_found", "thread_not_found"})
# The workspace does not let messages be edited (any more): the thread has it all the same.
_NOT_EDITABLE: Final = frozenset({"edit_window_closed", "cant_update_message"})
_REFUSED: Final = frozenset({"msg_too_long", "no_text", "invalid_blocks", "invalid_arguments", "invalid_form_data"})


class _SlackError(Exception):
    """Slack's answer is an error; `code` is one of its words."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Slack:
    """One bot. `channel` is for rollouts that name none, or one that the bot cannot write to.

    `contacts` tells whom a rollout names, by namespace and name; `template` is of what is said of a transition.
    """

    name: Final = "slack"

    def __init__(
        self,
        http: Http,
        token: str,
        channel: str,
        contacts: Callable[[str, str], Contacts | None],
        address: str = ADDRESS,
        *,
        template: Template = PLAIN,
    ) -> None:
        self._http = http
        self._token = token
        self._channel = channel
        self._contacts = contacts
        self._address = address.rstrip("/")
        self._template = template

    async def send(self, transition: Transition, memory: Mapping[str, Any]) -> Sent:
        try:
            return await self._send(transition, memory)
        except _SlackError as error:
            if error.code in _MESSAGE_GONE:
                return Sent(whole=False)
            raise _undelivered(error.code) from None

    async def _send(self, transition: Transition, memory: Mapping[str, Any]) -> Sent:
        if transition.place is None:
            # A kill is no rollout's: a message of its own.
            await self._call("chat.postMessage", channel=self._channel, text=self._entry(transition))
            return Sent(memory)
        wanted = self._wanted(transition)
        if not memory.get("ts") or memory.get("wanted") != wanted:
            return await self._begin(transition, wanted)
        await self._update(transition, memory)
        # Last, because there is no way to say it once only.
        text = self._entry(transition)
        await self._call("chat.postMessage", channel=memory["channel"], thread_ts=memory["ts"], text=text)
        return Sent(memory)

    def _wanted(self, transition: Transition) -> str:
        """The channel that the rollout names, if it is one, else the default; of a deleted one as before."""
        place = transition.place
        contacts = self._contacts(place[1], place[2]) if place else None
        named = contacts.slack if contacts is not None else None
        return named if named and CHANNEL.fullmatch(named) else self._channel

    async def _begin(self, transition: Transition, wanted: str) -> Sent:
        """A new message. It is remembered before the thread begins: a crash then repeats no more than its last call."""
        summary = self._summary(transition)
        channels = dict.fromkeys((wanted, self._channel))
        for channel in channels:
            try:
                answer = await self._call("chat.postMessage", channel=channel, text=summary)
            except _SlackError as error:
                if error.code in _CHANNEL and channel != self._channel:
                    continue
                raise
            return Sent({"ts": answer["ts"], "channel": answer["channel"], "wanted": wanted}, whole=False)
        raise AssertionError("the default channel is the last one")

    async def _update(self, transition: Transition, memory: Mapping[str, Any]) -> None:
        try:
            text = self._summary(transition)
            await self._call("chat.update", channel=memory["channel"], ts=memory["ts"], text=text)
        except _SlackError as error:
            if error.code not in _NOT_EDITABLE:
                raise

    def _summary(self, transition: Transition) -> str:
        place = transition.place
        contacts = self._contacts(place[1], place[2]) if place else None
        payload = transition.payload
        lines = [f"{_mark(transition)} *{escaped(wording.title(transition))}*: {self._said(transition)}"]
        if payload.get("stage"):
            lines.append(f"Stage {escaped(str(payload['stage']))}, attempt {payload.get('attempt')}")
        people = contacts.model_dump(include={"team", "email", "runbook"}, exclude_none=True) if contacts else {}
        lines += [f"{label.capitalize()}: {escaped(text)}" for label, text in people.items()]
        return "\n".join(lines)

    def _entry(self, transition: Transition) -> str:
        lines = [f"{_mark(transition)} {self._said(transition)}", *map(escaped, wording.changes(transition))]
        return "\n".join(lines)

    def _said(self, transition: Transition) -> str:
        return self._template.render(transition, escaped)

    async def _call(self, method: str, **arguments: Any) -> dict[str, str]:
        """The answer's `ts` and `channel`; raises Undelivered and _SlackError."""
        # No preview of links, and nothing in a text becomes a mention.
        body = json.dumps({**arguments, "unfurl_links": False, "unfurl_media": False, "parse": "none"}).encode()
        headers = {"Content-Type": "application/json; charset=utf-8", "Authorization": f"Bearer {self._token}"}
        answer = await self._http.post(f"{self._address}/{method}", body, headers, read=True)
        answer.check()
        try:
            found = json.loads(answer.body)
            if found["ok"] is not True:
                raise _SlackError(str(found.get("error")))
            return {"ts": str(found["ts"]), "channel": str(found["channel"])}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Undelivered("its answer is none of the Slack API") from None


def _undelivered(code: str) -> Undelivered:
    """What one of Slack's words means; a word that is not known is not repeated."""
    if code in _TOKEN:
        return Undelivered(f"it refuses the bot's token ({code}): it must be valid and have the scope chat:write")
    if code in _CHANNEL:
        return Undelivered(f"the bot cannot write to the channel ({code}): invite it")
    if code in _REFUSED:
        return Undelivered(f"it refuses the message ({code})", refused=True)
    return Undelivered("it is called too often" if code == "ratelimited" else "it answered with an error")


def _mark(transition: Transition) -> str:
    verb = wording.verb(transition)
    if verb is not None and verb.reverts:
        return ":rotating_light:"
    if verb is Verb.HOLD:
        return ":warning:"
    return ":white_check_mark:" if verb is Verb.COMPLETE else ":information_source:"


def escaped(text: str) -> str:
    """As Slack wants it: what people and manifests say must not become a link or call everybody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
