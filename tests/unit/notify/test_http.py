"""One POST: nothing about it is without a bound, and nothing that a server says is repeated."""

import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from feature_rollout.notify.http import Http
from feature_rollout.notify.recipient import Undelivered
from support.receiver import Receiver
from support.tls import Authority, openssl_or_skip


async def undelivered(http: Http, url: str, *, read: bool = False) -> Undelivered:
    with pytest.raises(Undelivered) as caught:
        (await http.post(url, b"{}", {}, read=read)).check()
    assert caught.value.__cause__ is None
    return caught.value


@pytest.mark.parametrize(
    ("status", "says", "refused"),
    [
        (500, "HTTP 500", False),
        (401, "other credentials", False),
        (404, "nothing at its address", False),
        (410, "any more", False),
        (400, "HTTP 400", True),
        (413, "HTTP 413", True),
        (422, "HTTP 422", True),
    ],
)
async def test_what_a_status_means(http: Http, status: int, says: str, refused: bool) -> None:
    with Receiver() as receiver:
        receiver.always = status
        failure = await undelivered(http, receiver.url)
    assert says in str(failure)
    assert failure.refused is refused


async def test_a_redirect_is_not_followed(http: Http) -> None:
    with Receiver() as other, Receiver() as receiver:
        receiver.always = (307, {"Location": other.url})
        assert "redirects" in str(await undelivered(http, receiver.url))
        assert other.calls == []


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("7", 7), ("99999999", 3600), ("-1", None), ("nan", None), ("soon", None), ("inf", 3600)],
)
async def test_retry_after(http: Http, value: str, seconds: float | None) -> None:
    with Receiver() as receiver:
        receiver.always = (429, {"Retry-After": value})
        assert (await undelivered(http, receiver.url)).retry_after_s == seconds


async def test_retry_after_as_a_date(http: Http) -> None:
    with Receiver() as receiver:
        at = datetime.now(UTC) + timedelta(minutes=20)
        receiver.always = (503, {"Retry-After": format_datetime(at, usegmt=True)})
        found = (await undelivered(http, receiver.url)).retry_after_s
        assert found is not None
        assert 900 < found < 1300
        receiver.always = (503, {"Retry-After": "Mon, 05 Jan 2026 09:00:00 GMT"})
        assert (await undelivered(http, receiver.url)).retry_after_s is None


async def test_an_answer_without_an_end_is_not_read(http: Http) -> None:
    with Receiver() as receiver:
        receiver.always = "endless"
        assert "longer than 64 KiB" in str(await undelivered(http, receiver.url, read=True))
        # Who wants no body reads none.
        assert (await http.post(receiver.url, b"{}", {})).status == 200


async def test_a_server_that_hangs_or_is_not_there() -> None:
    http = Http(timeout_s=0.3)
    with Receiver() as receiver:
        receiver.always = "hang"
        assert str(await undelivered(http, receiver.url)) == "no answer in 0.3 s"
        receiver.always = "reset"
        assert "connection was lost" in str(await undelivered(http, receiver.url))
        gone = receiver.url
    assert "cannot be reached" in str(await undelivered(http, gone))
    await http.close()
    http = Http()
    assert "host name cannot be resolved" in str(await undelivered(http, "http://nobody.invalid/"))
    await http.close()


async def test_certificates_are_checked(tmp_path: Path, http: Http) -> None:
    openssl_or_skip()
    authority = Authority(tmp_path / "ca")
    for name, content in zip(("crt", "key"), authority.issue("127.0.0.1"), strict=True):
        (tmp_path / name).write_text(content)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    trusting = Http(tls=ssl.create_default_context(cadata=authority.certificate))
    with Receiver(server) as receiver:
        assert str(await undelivered(http, receiver.url)) == "its certificate is not trusted"
        # Another host's certificate: it is for a DNS name, and this is an address.
        assert str(await undelivered(trusting, receiver.url)) == "its certificate is not trusted"
        assert receiver.calls == []
        by_name = receiver.url.replace("127.0.0.1", "localhost")
        for suffix, content in zip(("crt", "key"), authority.issue("localhost"), strict=True):
            (tmp_path / suffix).write_text(content)
        server.load_cert_chain(tmp_path / "crt", tmp_path / "key")
        assert (await trusting.post(by_name, b"{}", {})).status == 200
    await trusting.close()
