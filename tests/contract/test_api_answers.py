"""What `kube.client.Api` makes of answers, and that it repeats nothing of them."""

import asyncio
import traceback
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from contract.fake_api import FakeApi, rollout
from feature_rollout.kube.client import Api
from feature_rollout.kube.connection import Connection, NoConnection
from feature_rollout.kube.errors import ApiError, ApiUnavailable, Gone, PermissionDenied, Refused, Stale
from feature_rollout.kube.resources import ROLLOUTS

SECRET = "s3cr3t"


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeApi]:
    async with FakeApi(tmp_path).serving() as fake:
        yield fake


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Refused),
        (403, PermissionDenied),
        (404, Gone),
        (409, Stale),
        (413, Refused),
        (422, Refused),
        (429, ApiUnavailable),
        (500, ApiUnavailable),
        (503, ApiUnavailable),
        (504, ApiUnavailable),
    ],
)
async def test_each_code_has_its_error_without_the_body(fake: FakeApi, status: int, error: type[ApiError]) -> None:
    calls: list[tuple[str, str]] = []
    async with Api(fake.connection(), on_request=lambda *call: calls.append(call[:2])) as api:
        fake.answer = web.json_response({"message": SECRET, "reason": f"not a word: {SECRET}"}, status=status)
        with pytest.raises(error) as caught:
            await api.apply_status(ROLLOUTS, rollout("a", 1), {})
    assert caught.value.code == status
    assert str(status) in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value)).replace("SECRET", "")
    assert calls == [("PATCH", str(status))]


async def test_a_word_of_the_api_server_is_repeated(fake: FakeApi) -> None:
    async with Api(fake.connection()) as api:
        fake.answer = web.json_response({"message": SECRET, "reason": "Invalid"}, status=422)
        with pytest.raises(Refused, match="Invalid: 422") as caught:
            await api.apply_status(ROLLOUTS, rollout("a", 1), {})
    assert caught.value.reason == "Invalid"


@pytest.mark.parametrize("body", [SECRET, f"<html>{SECRET}", "[1]", ""])
async def test_an_answer_that_is_no_object_is_unavailable(fake: FakeApi, body: str) -> None:
    async with Api(fake.connection()) as api:
        fake.answer = web.Response(text=body)
        with pytest.raises(ApiUnavailable) as caught:
            await api.get(ROLLOUTS, "shop", "a")
    assert SECRET not in str(caught.value)


async def test_an_answer_that_never_comes_is_cut_off(fake: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(_request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    monkeypatch.setattr(fake, "_watch", lambda request, **_: hang(request))
    async with Api(fake.connection()) as api:
        began = asyncio.get_running_loop().time()
        path = f"/apis/featurerollout.dev/v1alpha1/{ROLLOUTS}"
        with pytest.raises(ApiUnavailable):
            await api.request("GET", path, query={"watch": "true"}, timeout_s=0.1)
        assert asyncio.get_running_loop().time() - began < 1


async def test_401_is_tried_once_more_with_the_credentials_read_anew(fake: FakeApi) -> None:
    async with Api(fake.connection("old")) as api:
        with pytest.raises(Refused):
            await api.served()
        assert fake.tokens_seen == ["old", "old"]
        fake.connection("one")
        assert ROLLOUTS in await api.served()
        assert fake.tokens_seen[2:] == ["old", "one"]


async def test_names_cannot_leave_their_place_in_the_path(fake: FakeApi) -> None:
    async with Api(fake.connection()) as api:
        await api.get(ROLLOUTS, "../../x", "a/../../y?z#")
    _, path = fake.requests[-1]
    assert path.startswith("/apis/featurerollout.dev/v1alpha1/namespaces/../../x/featurerollouts/")
    assert path.count("?") == 1, "decoded by the server, so that it was one part of the path"


async def test_a_call_before_open_or_after_close_is_an_error_and_no_crash(fake: FakeApi) -> None:
    api = Api(fake.connection())
    with pytest.raises(ApiUnavailable, match="not connected"):
        await api.served()
    await api.open()
    await api.close()
    await api.close()
    with pytest.raises(ApiUnavailable, match="not connected"):
        await api.served()


async def test_a_kubeconfig_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NoConnection, match="nowhere"):
        await Api(Connection(kubeconfig=str(tmp_path / "nowhere"))).open()


def proxied(monkeypatch: pytest.MonkeyPatch, proxy: str, *, except_for: str) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("no_proxy", except_for)


async def test_the_environments_proxy_is_the_way(fake: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy is asked with the whole address, which our server takes as well as a path."""
    proxied(monkeypatch, fake.url, except_for="other.invalid")
    fake.url = "http://api.invalid"
    async with Api(fake.connection()) as api:
        assert ROLLOUTS in await api.served()


async def test_it_is_not_asked_where_no_proxy_is_to_be(fake: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    proxied(monkeypatch, "http://127.0.0.1:1", except_for="127.0.0.1")
    async with Api(fake.connection()) as api:
        assert ROLLOUTS in await api.served()


async def test_the_environment_is_read_once_and_not_at_each_request(
    fake: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To look for a proxy and a netrc file, aiohttp starts two jobs in other threads, each time."""
    async with Api(fake.connection()) as api:
        proxied(monkeypatch, "http://127.0.0.1:1", except_for="")
        jobs: list[object] = []
        monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", lambda *job: jobs.append(job))
        assert ROLLOUTS in await api.served()
        assert jobs == []
