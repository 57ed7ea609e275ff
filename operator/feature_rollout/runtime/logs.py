"""Logging: lines for people or JSON lines, on standard error, in UTC, without passwords.

The fields `rollout`, `stage` and `operation` come from `about`, and from `extra={…}` where nothing is reconciled.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import IO, Literal

from feature_rollout.about import fields
from feature_rollout.kube.errors import ApiError
from feature_rollout.ports import Problem

FIELDS = ("rollout", "stage", "operation")
TEXT_CHARS_MAX = 16_384
FRAMES_MAX = 12

# A last net, for what libraries say: no code of ours puts a secret into a message. Bounded, so that no message takes
# long; greedy up to the last @, because a password that was not percent-encoded may have one in it.
_IN_URI = re.compile(r"(://[^\s:/@\"']{0,256}):[^\s\"'<>]{1,512}@")
_IN_DSN = re.compile(
    r"\b(password|sslpassword|passwd|token)(\s*[=:]\s*)('(?:[^'\\]|\\.){0,512}'|[^\s'\",&;]{1,512})", re.IGNORECASE
)
# kopf: "GET https://… -> APIForbiddenError('what the API server wrote', {…})".
_QUOTED_ERROR = re.compile(r" -> (\w+)\(.*", re.DOTALL)
# kopf says this of every request and every retry while the API server is away; `reachable` says it once.
_RETRIED = re.compile(
    r"Request attempt #\d+ failed; (?:TCP closed; |SSL closed; )?will re(?!try: .* -> APIForbiddenError)"
)
_BEARER = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9+/._~=-]{8,}", re.IGNORECASE)


def redact(text: str) -> str:
    """The text without the passwords of URIs and connection strings, and without bearer tokens."""
    text = _IN_URI.sub(r"\1:***@", text)
    text = _IN_DSN.sub(r"\1\2***", text)
    return _BEARER.sub(r"\1 ***", text)


def describe(error: BaseException) -> str:
    """What went wrong and where, for a log.

    The words of an error are repeated only where they are ours: those of a database or
    HTTP library may quote a row, a query or an address with its password (S17).
    """
    name = type(error).__name__
    if isinstance(error, ApiError | Problem):
        return f"{name}: {error}"
    # Places only, no lines of source.
    places = traceback.extract_tb(error.__traceback__)[-FRAMES_MAX:]
    frames = "".join(f"\n  {place.filename}:{place.lineno} in {place.name}" for place in places)
    causes = "".join(f", from {type(cause).__name__}" for cause in (error.__cause__,) if cause is not None)
    return f"{name}{causes}{frames}"


def report(log: logging.Logger, what: str, error: BaseException, *, rollout: str | None = None) -> None:
    """Log an error as `describe` tells it. `Logger.exception` would print its words and those of its causes."""
    log.error("%s: %s", what, describe(error), extra={"rollout": rollout})


class RedactingFormatter(logging.Formatter):
    """Redacts the finished line, so that it covers messages, arguments, fields and tracebacks of every library."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        told = "".join(f" {name}={value}" for name, value in _fields(record))
        head, newline, rest = line.partition("\n")
        return redact(_cut(f"{head}{told}{newline}{rest}"))

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802 - the base's
        return _time(record)


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    of_task = fields()
    for name in FIELDS:
        value = getattr(record, name, None) or of_task.get(name)
        if value:
            # A key of the ledger has the cluster in front.
            yield name, "/".join(str(value).rsplit("/", 2)[-2:]) if name == "rollout" else str(value)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(_cut(record.getMessage())),
        }
        entry |= {name: redact(value) for name, value in _fields(record)}
        if record.exc_info:
            entry["exception"] = redact(_cut(self.formatException(record.exc_info)))
        return json.dumps(entry, ensure_ascii=False)


class _Others(logging.Filter):
    """Takes servers' words out of what libraries say (S17): they quote answers and errors whole."""

    def filter(self, record: logging.LogRecord) -> bool:
        library = record.name.partition(".")[0]
        if library == "opentelemetry":
            # What it inserts are a collector's words, or values of variables; numbers are the status and the pause.
            if isinstance(record.args, Mapping):
                record.args = {name: _numbers_only(arg) for name, arg in record.args.items()}
            else:
                record.args = tuple(_numbers_only(arg) for arg in record.args or ())
            record.exc_info, record.exc_text = None, None
        if library not in {"kopf", "asyncio"}:
            return True
        message = record.getMessage()
        # It runs in a thread of its own on purpose, and says each time that this is why it hears no signals.
        if "not in the main thread" in message or _RETRIED.match(message):
            return False
        message = _QUOTED_ERROR.sub(r" -> \1", message).partition("\n")[0]
        if record.exc_info and record.exc_info[1] is not None:
            message = f"{message.partition(': ')[0]}: {describe(record.exc_info[1])}"
        record.msg, record.args, record.exc_info, record.exc_text = message, None, None, None
        return True


def _numbers_only(arg: object) -> object:
    return arg if isinstance(arg, int | float) else "…"


def set_up(log_format: Literal["text", "json"], level: str, stream: IO[str] | None = None) -> logging.Handler:
    """Make this the program's only logging; return the handler, for tests to remove."""
    handler = logging.StreamHandler(stream or sys.stderr)
    text = RedactingFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if log_format == "json" else text)
    handler.addFilter(_Others())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    # What libraries do is of interest only when it fails.
    for name in ("kopf", "aiohttp", "asyncio", "kubernetes", "oauthlib", "psycopg", "requests_oauthlib", "urllib3"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(capture=True)
    return handler


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARS_MAX else text[:TEXT_CHARS_MAX] + "…"
