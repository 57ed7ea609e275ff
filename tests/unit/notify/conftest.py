"""A receiver on a real socket, and what is POSTed to it with."""

from collections.abc import AsyncIterator, Iterator

import pytest

from feature_rollout.notify.http import Http
from support.receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    client = Http(timeout_s=5.0)
    yield client
    await client.close()
