"""A service with counters that a Prometheus scrapes: so many requests a second, of which so many fail."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class Exporter:
    """A context manager. `failed` is the share of requests that fail, `per_second` their number; both may be changed.

    Counters go on by the clock when they are scraped, so nothing has to run in between.
    """

    def __init__(self, *, per_second: float = 200.0) -> None:
        self.per_second = per_second
        self.failed = 0.0
        self._lock = threading.Lock()
        self._counted_s = time.monotonic()
        self._requests = self._failures = 0.0
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = exporter._text().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                """Nothing on stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.port = self._server.server_port

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _text(self) -> str:
        with self._lock:
            now_s = time.monotonic()
            count = (now_s - self._counted_s) * self.per_second
            self._counted_s = now_s
            self._requests += count
            self._failures += count * self.failed
            return (
                "# TYPE http_requests_total counter\n"
                f'http_requests_total{{service="checkout",code="200"}} {self._requests - self._failures}\n'
                f'http_requests_total{{service="checkout",code="500"}} {self._failures}\n'
                "# TYPE queue_seconds gauge\n"
                f"queue_seconds {0.1 + self.failed}\n"
            )
