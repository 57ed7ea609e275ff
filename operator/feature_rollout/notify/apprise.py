"""Apprise, which is an extra: whatever service one of its URLs names.

Such a URL is a secret. The library blocks, and logs what it does: it runs in a thread of its own, and is not heard.

https://github.com/caronc/apprise
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from feature_rollout.core.decision import Verb
from feature_rollout.notify import wording
from feature_rollout.notify.recipient import Sent, Undelivered
from feature_rollout.notify.template import PLAIN, Template
from feature_rollout.ports import Transition

if TYPE_CHECKING:
    from apprise import Apprise as Library

INSTALL: Final = "pip install 'feature-rollout-operator[apprise]'"


class Apprise:
    """One service. `url` is one of Apprise's; raises ValueError, in our words, for one that it cannot use.

    `template` is of the message, before the flags that were changed.
    """

    def __init__(self, name: str, url: str, *, template: Template = PLAIN) -> None:
        self.name = name
        self._template = template
        self._library = _library(url)
        self._thread: threading.Thread | None = None

    async def send(self, transition: Transition, memory: Mapping[str, Any]) -> Sent:
        if self._thread is not None and self._thread.is_alive():
            raise Undelivered("it has not ended the delivery before")
        lines = [self._template.render(transition), *wording.changes(transition)]
        if not await self._notified(wording.title(transition), "\n".join(lines), _type(transition)):
            raise Undelivered("its service cannot be reached, or did not take it")
        return Sent(memory)

    async def _notified(self, title: str, body: str, kind: str) -> bool:
        """Whether the service took it. A thread that hangs is left alone: it ends with the process at the latest."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bool] = loop.create_future()

        def tell(taken: bool) -> None:
            # Nobody may wait for it any more.
            if not answer.done():
                answer.set_result(taken)

        def run() -> None:
            try:
                taken = bool(self._library.notify(body, title, kind, body_format="text"))
            except Exception:  # noqa: BLE001 - whatever a service's plugin raises; its words may have the URL in them
                taken = False
            # The loop may be closed by now.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(tell, taken)

        self._thread = threading.Thread(target=run, name=self.name, daemon=True)
        self._thread.start()
        return await answer


def check(url: str) -> None:
    """Raise ValueError, which does not repeat it, for a URL that Apprise cannot use or when there is no Apprise."""
    _library(url)


def _library(url: str) -> Library:
    """Apprise with that service alone."""
    if importlib.util.find_spec("apprise") is None:
        raise ValueError(f"Apprise is not installed: {INSTALL}")
    import apprise  # noqa: PLC0415 - an extra, and slow to import

    # It says which URLs it calls, and what they answer.
    logger = logging.getLogger("apprise")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    # Without threads of its own, which the end of the process would wait for; those are used where it has a time-out.
    asset = apprise.AppriseAsset(app_id="featurerollout", async_mode=False, http_redirects=False, service_timeout=0)
    service = apprise.Apprise.instantiate(url, asset=asset)
    if service is None:
        raise ValueError("it is no URL that Apprise can use, such as mailto://user:password@example.com")
    library = apprise.Apprise(asset=asset)
    library.add(service)
    return library


def _type(transition: Transition) -> str:
    verb = wording.verb(transition)
    if verb is not None and verb.reverts:
        return "failure"
    if verb is Verb.HOLD:
        return "warning"
    return "success" if verb is Verb.COMPLETE else "info"
