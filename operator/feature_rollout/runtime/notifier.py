"""Who is told of transitions, by the settings, and the outboxes of all databases in use, drained for them.

Every replica does so: the leases in the database see to it that each transition is told by one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial

from pydantic import ValidationError

from feature_rollout.api.featurerollout import Contacts
from feature_rollout.kube.resources import ROLLOUTS
from feature_rollout.notify.apprise import Apprise
from feature_rollout.notify.drain import Line, drain, keep
from feature_rollout.notify.http import Http
from feature_rollout.notify.pagerduty import PagerDuty
from feature_rollout.notify.recipient import Recipient
from feature_rollout.notify.slack import Slack
from feature_rollout.notify.template import Template
from feature_rollout.notify.webhook import Webhook
from feature_rollout.ports import Backlog
from feature_rollout.runtime.inventory import Inventory
from feature_rollout.runtime.logs import report
from feature_rollout.runtime.settings import Settings, signing_key
from feature_rollout.runtime.telemetry import Telemetry
from feature_rollout.store.config import StoreConfig
from feature_rollout.store.deliveries import PostgresOutbox

log = logging.getLogger(__name__)

# How soon an outbox is drained after its store was opened.
ATTEND_S = 1.0


class Notifier:
    """`run` as a task. `configs` gives the databases that are in use now."""

    def __init__(
        self,
        settings: Settings,
        cluster: str,
        inventory: Inventory,
        telemetry: Telemetry,
        configs: Callable[[], Iterable[StoreConfig]],
    ) -> None:
        self._cluster = cluster
        self._inventory = inventory
        self._configs = configs
        self._counts = _Counts(telemetry)
        self._http = Http()
        self._lines = [Line(recipient, self._counts) for recipient in self._recipients(settings)]
        self._counts.begin(line.name for line in self._lines)
        # By the writer's connection string: FlagStores of the same one have the same outbox.
        self._drains: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Drain each outbox for as long as its database is in use, until cancelled."""
        if self._lines:
            log.info("transitions are told to %s", ", ".join(line.name for line in self._lines))
        try:
            while True:
                await self._attend({config.writer_uri: config for config in self._configs()} if self._lines else {})
                await asyncio.sleep(ATTEND_S)
        finally:
            await self._attend({})
            await self._http.close()

    async def _attend(self, wanted: Mapping[str, StoreConfig]) -> None:
        ended = [uri for uri, task in self._drains.items() if uri not in wanted or task.done()]
        tasks = [self._drains.pop(uri) for uri in ended]
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                report(log, "an outbox is drained anew", result)
        for uri in wanted.keys() - self._drains.keys():
            self._drains[uri] = asyncio.create_task(self._drain(wanted[uri]), name="notifications")

    async def _drain(self, config: StoreConfig) -> None:
        outbox, uri = PostgresOutbox(config, self._cluster), config.writer_uri
        waiting = partial(self._counts.waiting, uri)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(keep(outbox, self._lines, self._counts, waiting))
                for line in self._lines:
                    tasks.create_task(drain(outbox, line))
        finally:
            self._counts.forget(uri)
            await outbox.close()

    def _recipients(self, settings: Settings) -> Iterable[Recipient]:
        template = Template(settings.message_template)
        if settings.webhook_url is not None and settings.webhook_secret is not None:
            url, key = settings.webhook_url.get_secret_value(), signing_key(settings.webhook_secret)
            yield Webhook(self._http, url, key, lambda: datetime.now(UTC))
        if settings.slack_token is not None:
            token = settings.slack_token.get_secret_value()
            yield Slack(
                self._http, token, settings.slack_channel, self._contacts, settings.slack_address, template=template
            )
        if settings.pagerduty_routing_key is not None:
            routing_key = settings.pagerduty_routing_key.get_secret_value()
            yield PagerDuty(self._http, routing_key, self._contacts, settings.pagerduty_address, template=template)
        if settings.apprise_urls is not None:
            # One recipient each: a service that is away is waited for by itself.
            for number, url in enumerate(settings.apprise_urls.get_secret_value().split(), 1):
                yield Apprise(f"apprise-{number}", url, template=template)

    def _contacts(self, namespace: str, name: str) -> Contacts | None:
        """What the rollout says of them now; None for one that is gone or says nonsense."""
        rollout = self._inventory.get(ROLLOUTS, namespace, name) or {}
        spec = rollout.get("spec")
        try:
            return Contacts.model_validate(spec["contacts"]) if isinstance(spec, dict) and "contacts" in spec else None
        except ValidationError:
            return None


class _Counts:
    """`drain.Counts` on Prometheus metrics; what waits is summed over all databases."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._backlogs: dict[tuple[str, str], Backlog] = {}

    def begin(self, recipients: Iterable[str]) -> None:
        """A counter that begins with its first increment shows no increase to Prometheus."""
        for recipient in recipients:
            for outcome in ("delivered", "failed", "given_up"):
                self._telemetry.notifications.labels(recipient, outcome)

    def delivered(self, recipient: str) -> None:
        self._telemetry.notifications.labels(recipient, "delivered").inc()

    def failed(self, recipient: str) -> None:
        self._telemetry.notifications.labels(recipient, "failed").inc()

    def gave_up(self, recipient: str) -> None:
        self._telemetry.notifications.labels(recipient, "given_up").inc()

    def waiting(self, database: str, recipient: str, backlog: Backlog) -> None:
        self._backlogs[database, recipient] = backlog
        self._measure(recipient)

    def forget(self, database: str) -> None:
        """A database is in use no more."""
        for key in [key for key in self._backlogs if key[0] == database]:
            del self._backlogs[key]
            self._measure(key[1])

    def _measure(self, recipient: str) -> None:
        backlogs = self._of(recipient)
        self._telemetry.notifications_waiting.labels(recipient).set(sum(backlog.waiting for backlog in backlogs))
        # Asked for when it is scraped: it grows also while the database is away.
        self._telemetry.outbox_age_seconds.labels(recipient).set_function(lambda: self._age_s(recipient))

    def _age_s(self, recipient: str) -> float:
        oldest = [backlog.oldest_at for backlog in self._of(recipient) if backlog.oldest_at is not None]
        return max((datetime.now(UTC) - min(oldest)).total_seconds(), 0.0) if oldest else 0.0

    def _of(self, recipient: str) -> list[Backlog]:
        return [backlog for (_, known), backlog in self._backlogs.items() if known == recipient]
