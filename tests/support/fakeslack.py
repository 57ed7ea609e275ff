"""A Slack workspace behind a `Receiver`: channels that the bot is in, messages, and errors as Slack gives them."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from support.receiver import Call, Receiver

TOKEN = "xoxb-s3cret"


@dataclass
class Message:
    channel: str
    text: str
    thread: list[str] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)


class FakeSlack:
    """`messages` by their ts. `errors` are what the next calls get, by Slack's words."""

    def __init__(self, receiver: Receiver, *channels: str) -> None:
        self.channels = {name: f"C{number:08d}" for number, name in enumerate(channels)}
        self.messages: dict[str, Message] = {}
        self.errors: deque[str] = deque()
        receiver.answer = self._answer

    @property
    def only(self) -> Message:
        (message,) = self.messages.values()
        return message

    def _answer(self, call: Call) -> Any:
        if self.errors:
            error = self.errors.popleft()
            if error:
                return {"ok": False, "error": error}
        if call.headers.get("authorization") != f"Bearer {TOKEN}":
            return {"ok": False, "error": "invalid_auth"}
        asked = call.json
        channel = self.channels.get(asked["channel"], asked["channel"])
        if channel not in self.channels.values():
            return {"ok": False, "error": "channel_not_found"}
        if call.path.endswith("/chat.postMessage"):
            return self._post(channel, asked)
        if call.path.endswith("/chat.update"):
            return self._update(asked)
        return {"ok": False, "error": "unknown_method"}

    def _post(self, channel: str, asked: Any) -> Any:
        ts = f"1767603600.{len(self.messages):06d}"
        if "thread_ts" in asked:
            if asked["thread_ts"] not in self.messages:
                return {"ok": False, "error": "thread_not_found"}
            self.messages[asked["thread_ts"]].thread.append(asked["text"])
            return {"ok": True, "channel": channel, "ts": "1767603601.000000"}
        self.messages[ts] = Message(channel, asked["text"], versions=[asked["text"]])
        return {"ok": True, "channel": channel, "ts": ts}

    def _update(self, asked: Any) -> Any:
        message = self.messages.get(asked["ts"])
        if message is None or message.channel != asked["channel"]:
            return {"ok": False, "error": "message_not_found"}
        message.text = asked["text"]
        message.versions.append(asked["text"])
        return {"ok": True, "channel": message.channel, "ts": asked["ts"]}
