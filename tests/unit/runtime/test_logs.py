import asyncio
import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from feature_rollout.about import about
from feature_rollout.kube.errors import ApiUnavailable
from feature_rollout.ports import Problem
from feature_rollout.runtime import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def written(log_format: str, *args: object, level: str = "INFO", **kwargs: object) -> str:
    stream = io.StringIO()
    logs.set_up("json" if log_format == "json" else "text", level, stream)
    logging.getLogger("feature_rollout.test").warning(*args, **kwargs)  # type: ignore[arg-type]
    return stream.getvalue()


SECRETS = [
    "postgresql://flags:s3cr3t@db/shop",
    "postgresql://:s3cr3t@db/shop",
    "postgresql://flags:s3cr3t@with@s3cr3t/in@db/shop",
    "https://user:s3cr3t@hooks.example.com/x and redis://a:s3cr3t@b",
    "host=db password=s3cr3t user=flags",
    "password='s3cr3t it is' user=flags",
    "Authorization: Bearer s3cr3t-token-1",
]


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("secret", SECRETS)
def test_no_password_is_written(log_format: str, secret: str) -> None:
    for line in (
        written(log_format, secret),
        written(log_format, "at %s", secret),
        written(log_format, "x", extra={"operation": secret}),
        written(log_format, "failed", exc_info=ValueError(secret)),
    ):
        assert "s3cr3t" not in line
        assert "***" in line


def test_what_is_no_secret_stays() -> None:
    text = "GET https://127.0.0.1:6443/apis/a?b=c of mail@example.com, 10:30 @ stage one"
    assert logs.redact(text) == text


def test_a_long_line_takes_no_time_and_is_cut() -> None:
    line = written("text", "%s", "://a:" * 100_000)
    assert len(line) < 17_000


def test_text_has_the_time_in_utc_and_the_fields() -> None:
    line = written("text", "advanced to %s", "canary", extra={"rollout": "shop/checkout", "stage": "canary"})
    time, rest = line.split(" ", 1)
    assert abs((datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()) < 5
    assert time.endswith("Z")
    assert rest == "WARNING feature_rollout.test: advanced to canary rollout=shop/checkout stage=canary\n"


def test_json_is_one_object_a_line() -> None:
    line = written("json", "two\nlines", extra={"rollout": "shop/checkout", "operation": "k:7"}, exc_info=OSError("x"))
    assert line.count("\n") == 1
    entry = json.loads(line)
    assert entry["message"] == "two\nlines"
    assert entry["level"] == "WARNING"
    assert entry["rollout"] == "shop/checkout"
    assert entry["operation"] == "k:7"
    assert "OSError" in entry["exception"]
    assert "stage" not in entry


def test_kopf_is_heard_only_when_something_is_wrong() -> None:
    stream = io.StringIO()
    logs.set_up("text", "DEBUG", stream)
    logging.getLogger("kopf.objects").info("handling")
    logging.getLogger("kopf._core.reactor.running").warning("OS signals are ignored: running not in the main thread.")
    assert stream.getvalue() == ""
    logging.getLogger("kopf._core.reactor.running").warning("something")
    assert "something" in stream.getvalue()


def test_only_our_own_errors_are_quoted() -> None:
    assert logs.describe(ApiUnavailable("GET /x", 503)) == "ApiUnavailable: GET /x: 503"
    assert logs.describe(Problem("Conflict", "owned by another")) == "Problem: Conflict: owned by another"

    def fails() -> None:
        raise RuntimeError("s3cr3t query") from KeyError("s3cr3t row")

    with pytest.raises(RuntimeError) as caught:
        fails()
    described = logs.describe(caught.value)
    assert described.startswith("RuntimeError, from KeyError\n")
    assert "in fails" in described
    assert "s3cr3t" not in described


def test_the_words_of_the_api_server_are_not_repeated_by_kopf() -> None:
    stream = io.StringIO()
    logs.set_up("text", "INFO", stream)
    kopf = logging.getLogger("kopf._cogs.clients.api")
    kopf.error(
        "Request attempt #1 failed; will retry: GET https://h/apis -> APIForbiddenError('s3cr3t', {'a': 's3cr3t'})"
    )
    kopf.error("Request attempt #9 failed; will retry: GET https://h/apis -> ClientConnectorError('s3cr3t')")
    kopf.error("Request attempt #1 failed; TCP closed; will re-authenticate: GET https://h/apis")
    kopf.error("The orchestrator has failed: s3cr3t", exc_info=RuntimeError("s3cr3t"))
    asyncio_says = "Task exception was never retrieved\nfuture: <Task exception=OSError('s3cr3t')>"
    logging.getLogger("asyncio").error(asyncio_says, exc_info=OSError("s3cr3t"))
    logging.getLogger("asyncio").error(asyncio_says)
    text = stream.getvalue()
    assert "s3cr3t" not in text
    assert "GET https://h/apis -> APIForbiddenError\n" in text
    # Missing rights are told each time, an API server that is away is not.
    assert text.count("Request attempt") == 1
    assert "The orchestrator has failed: RuntimeError\n" in text
    assert "Task exception was never retrieved" in text


def test_what_a_collector_of_traces_says_is_not_repeated() -> None:
    stream = io.StringIO()
    logs.set_up("text", "INFO", stream)
    log = logging.getLogger("opentelemetry.exporter.otlp")
    log.error(
        "Failed to export %s batch code: %s, reason: %s", "spans", 401, "s3cr3t is wrong", exc_info=OSError("s3cr3t")
    )
    assert "Failed to export … batch code: 401, reason: …" in stream.getvalue()
    log.error("code %(code)d: %(reason)s", {"code": 403, "reason": "s3cr3t is wrong"})
    assert "code 403: …" in stream.getvalue()
    assert "s3cr3t" not in stream.getvalue()


async def test_what_a_task_is_about_is_said_by_whoever_logs_in_it_and_in_those_that_it_starts() -> None:
    stream = io.StringIO()
    logs.set_up("json", "INFO", stream)

    async def asks() -> None:
        logging.getLogger("feature_rollout.metrics").warning("no answer")

    with about(rollout="shop/checkout", stage=""):
        with about(stage="ten", operation="cluster/shop/checkout@7"):
            started = asyncio.create_task(asks())
        logging.getLogger("feature_rollout.store").warning("two", extra={"stage": "its own"})
    await started
    logging.getLogger("feature_rollout.runtime").warning("three", extra={"rollout": "cluster/shop/checkout"})
    said = [{name: line.get(name) for name in logs.FIELDS} for line in map(json.loads, stream.getvalue().splitlines())]
    assert said == [
        {"rollout": "shop/checkout", "stage": "its own", "operation": None},
        {"rollout": "shop/checkout", "stage": "ten", "operation": "cluster/shop/checkout@7"},
        {"rollout": "shop/checkout", "stage": None, "operation": None},
    ]
