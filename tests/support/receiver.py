"""Somebody who is told of transitions: a real HTTP server in a thread, that does what a test tells it to."""

import base64
import hashlib
import hmac
import json
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

SECRET = base64.b64encode(b"k" * 32).decode()

# An HTTP status with headers, no answer at all, a reset of the connection, or an answer that does not end.
Behaviour = int | tuple[int, dict[str, str]] | Literal["hang", "reset", "endless"]
Answer = Callable[["Call"], Any]


@dataclass(frozen=True)
class Call:
    """A request as it came, in any of its attempts; `status` is None when it got no answer."""

    path: str
    headers: dict[str, str]
    body: bytes
    status: int | None

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Receiver:
    """A context manager. `script` is what the next calls get, one each; then `always`, which is 200.

    `answer` makes the JSON body of a success. `calls` are all, `taken` those that were answered with success.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.script: deque[Behaviour] = deque()
        self.always: Behaviour = 200
        self.answer: Answer | None = None
        self.calls: list[Call] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._handle(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    def release(self) -> None:
        """Close the connections of those that it lets hang."""
        self._closing.set()

    @property
    def taken(self) -> list[Call]:
        with self._lock:
            return [call for call in self.calls if call.status is not None and call.status < 300]

    def events(self, subject: str | None = None) -> list[Any]:
        """What a receiver that dedups by id has seen, in the order of its first coming; each signature is right."""
        found: dict[str, Any] = {}
        for call in self.taken:
            assert is_signed(call), call
            found.setdefault(call.json["id"], call.json)
        return [event for event in found.values() if subject in (None, event.get("subject"))]

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
        with self._lock:
            behaviour = self.script.popleft() if self.script else self.always
            status = behaviour if isinstance(behaviour, int) else behaviour[0] if _is_pair(behaviour) else None
            headers = {name.lower(): value for name, value in handler.headers.items()}
            call = Call(handler.path, headers, body, status)
            self.calls.append(call)
        if behaviour == "hang":
            self._closing.wait()
        elif behaviour == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
        elif behaviour == "endless":
            self._answer(handler, 200, {"Content-Length": str(2**40)}, b"x" * 2**20)
        else:
            extra = behaviour[1] if isinstance(behaviour, tuple) else {}
            content = json.dumps(self.answer(call)).encode() if self.answer and status == 200 else b""
            self._answer(handler, status or 200, {"Content-Length": str(len(content)), **extra}, content)

    def _answer(self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        try:
            handler.wfile.write(content)
        except OSError:
            handler.close_connection = True


def _is_pair(behaviour: Behaviour) -> bool:
    return isinstance(behaviour, tuple)


def is_signed(call: Call, secret: str = SECRET) -> bool:
    """As a receiver does, from the specification of Standard Webhooks and not from our code."""
    signed = f"{call.headers['webhook-id']}.{call.headers['webhook-timestamp']}.".encode() + call.body
    wanted = base64.b64encode(hmac.new(base64.b64decode(secret), signed, hashlib.sha256).digest()).decode()
    return f"v1,{wanted}" in call.headers["webhook-signature"].split(" ")
