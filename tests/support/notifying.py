"""One process that drains an outbox to a webhook, for tests to kill: its arguments are settings as JSON.

Also what tests in process need of it.
"""

import asyncio
import base64
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from feature_rollout.notify import drain
from feature_rollout.notify.drain import Line
from feature_rollout.notify.http import Http
from feature_rollout.notify.recipient import Recipient
from feature_rollout.notify.webhook import Webhook
from feature_rollout.ports import Backlog, Outbox
from feature_rollout.store.config import StoreConfig
from feature_rollout.store.deliveries import PostgresOutbox
from support.receiver import SECRET


class Counts:
    """`drain.Counts` that remembers."""

    def __init__(self) -> None:
        self.of: Counter[tuple[str, str]] = Counter()
        self.backlogs: dict[str, Backlog] = {}

    def delivered(self, recipient: str) -> None:
        self.of[recipient, "delivered"] += 1

    def failed(self, recipient: str) -> None:
        self.of[recipient, "failed"] += 1

    def gave_up(self, recipient: str) -> None:
        self.of[recipient, "given_up"] += 1

    def waiting(self, recipient: str, backlog: Backlog) -> None:
        self.backlogs[recipient] = backlog


def webhook(http: Http, url: str) -> Webhook:
    return Webhook(http, url, base64.b64decode(SECRET), lambda: datetime.now(UTC))


@asynccontextmanager
async def draining(outbox: Outbox, *recipients: Recipient, counts: Counts | None = None) -> AsyncIterator[Counts]:
    """Drain it as the operator does, until the end of the block."""
    counts = counts or Counts()
    lines = [Line(recipient, counts) for recipient in recipients]
    await outbox.sweep([line.name for line in lines])
    work = [drain.keep(outbox, lines, counts, counts.waiting), *(drain.drain(outbox, line) for line in lines)]
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    try:
        yield counts
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in ended), ended


async def main(arguments: Sequence[str]) -> None:
    settings = json.loads(arguments[0])
    http = Http()
    outbox = PostgresOutbox(StoreConfig(settings["uri"]), settings["cluster"], lease_s=settings["lease_s"])
    async with draining(outbox, webhook(http, settings["url"])):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
