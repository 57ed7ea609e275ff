"""One POST with everything bounded: no redirect followed, certificates checked, nothing compressed.

Each has a connection of its own: a POST on one that had ended while it was idle cannot be
told from one that was received.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp

from feature_rollout.notify.recipient import Undelivered

TIMEOUT_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 64 * 1024
RETRY_AFTER_S_MAX: Final = 3600.0

_HEADERS: Final = {"Accept-Encoding": "identity", "User-Agent": "featurerollout"}
_STATES: Final = {
    401: "it wants other credentials",
    403: "it forbids the call",
    404: "there is nothing at its address",
    408: "it has waited too long for the call",
    410: "there is nothing at its address any more",
    429: "it is called too often",
}
# Of these it says that the content is at fault.
_REFUSED: Final = frozenset({400, 413, 422})


@dataclass(frozen=True, slots=True)
class Answer:
    """`body` is what was read of it, at most as much as was asked for."""

    status: int
    body: bytes
    retry_after_s: float | None

    def check(self) -> None:
        """Raise Undelivered for anything but a success."""
        if not 200 <= self.status < 300:
            raise failure(self)


class Http:
    """What all recipients POST with. The constructor connects to nothing; `tls` is for tests."""

    def __init__(self, *, timeout_s: float = TIMEOUT_S, tls: ssl.SSLContext | None = None) -> None:
        self._timeout_s = timeout_s
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], *, read: bool = False) -> Answer:
        """Send it; raises Undelivered when there is no answer. `read`: its body is wanted too."""
        try:
            async with asyncio.timeout(self._timeout_s):
                call = self._connected().post(url, data=body, headers={**_HEADERS, **headers}, allow_redirects=False)
                async with call as response:
                    content = await _body(response) if read else b""
                    return Answer(response.status, content, _retry_after(response.headers.get("Retry-After")))
        except TimeoutError:
            raise Undelivered(f"no answer in {self._timeout_s:g} s") from None
        except aiohttp.ClientConnectorCertificateError:
            raise Undelivered("its certificate is not trusted") from None
        except aiohttp.ClientConnectorDNSError:
            raise Undelivered("its host name cannot be resolved") from None
        except aiohttp.ClientConnectorError:
            raise Undelivered("it cannot be reached, or it refused the connection") from None
        except (aiohttp.ClientError, ValueError, OSError):
            raise Undelivered("the connection was lost before its answer") from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(force_close=True, ssl=self._tls or True)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        return self._session


async def _body(response: aiohttp.ClientResponse) -> bytes:
    chunks, size = [], 0
    async for chunk in response.content.iter_chunked(8192):
        chunks.append(chunk)
        size += len(chunk)
        if size > ANSWER_BYTES_MAX:
            raise Undelivered(f"its answer is longer than {ANSWER_BYTES_MAX // 1024} KiB")
    return b"".join(chunks)


def _retry_after(value: str | None) -> float | None:
    """Seconds, of a number or a date; None for what is neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            when = parsedate_to_datetime(value)
        except ValueError:
            return None
        when = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        seconds = (when - datetime.now(UTC)).total_seconds()
    # Not `max(…)` of a NaN, which is whatever stands first.
    return min(seconds, RETRY_AFTER_S_MAX) if seconds > 0 else None


def failure(answer: Answer) -> Undelivered:
    """What an answer that is no success means; no text of it is repeated."""
    hint = f": {_STATES[answer.status]}" if answer.status in _STATES else ""
    if 300 <= answer.status < 400:
        hint = ": it redirects, which is not followed"
    refused = answer.status in _REFUSED
    return Undelivered(f"it answered HTTP {answer.status}{hint}", refused=refused, retry_after_s=answer.retry_after_s)
