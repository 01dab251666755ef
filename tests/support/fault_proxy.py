"""A proxy in front of an HTTP or S3 server that fails on request: errors, silence, cut bodies.

    with FaultProxy("http://127.0.0.1:9000") as proxy:
        proxy.fault = lambda request: Fault(status=503) if request.number == 0 else None
        ... AWS_ENDPOINT=proxy.url ...

`fault` is asked for every request, and may keep state; `chaos(seed, share)` is one that fails at
random. What was asked and what was answered is in `proxy.seen`.
"""

import http.client
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

_PIECE = 16 * 1024
_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """What goes wrong with one request; several may go together."""

    status: int = 0
    """Answer with this status in place of the server's answer."""

    drop: bool = False
    """Close the connection without an answer."""

    carried_out: bool = False
    """With `status` or `drop`: the server does what was asked first, and the client never knows."""

    cut: float | None = None
    """Close the connection after this share of the answer's body."""

    taken: float | None = None
    """Close the connection after this share of the request's body: an upload that is cut short."""

    wait_s: float = 0.0
    """Be silent for so long before anything is answered."""

    bytes_per_s: float = 0.0
    """Take the request's body, and give the answer's, no faster; 0 is at once."""

    ignore: tuple[str, ...] = ()
    """Request headers that the server never sees, as if it did not know them."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks."""

    number: int
    method: str
    path: str
    size_bytes: int
    headers: dict[str, str]


Faults = Callable[[Request], Fault | None]


def chaos(seed: int, share: float, *, slow_s: float = 0.0) -> Faults:
    """Return faults of every kind for that share of the requests, the same for the same seed."""
    chance, lock = random.Random(seed), threading.Lock()
    kinds = [
        Fault(status=503),
        Fault(status=500, carried_out=True),
        Fault(drop=True),
        Fault(drop=True, carried_out=True),
        Fault(taken=0.5),
        Fault(cut=0.5),
        Fault(status=409),
        Fault(status=429),
        Fault(wait_s=slow_s),
    ]

    def fault(_request: Request) -> Fault | None:
        with lock:
            return chance.choice(kinds) if chance.random() < share else None

    return fault


class FaultProxy:
    """Listens on a port of its own until the `with` ends."""

    def __init__(self, upstream: str) -> None:
        """Stand in front of the server at this URL."""
        self.fault: Faults = lambda _request: None
        self.seen: list[tuple[Request, int]] = []
        """Requests with the status that was answered, 0 for none."""
        parts = urlsplit(upstream)
        self._upstream = (str(parts.hostname), parts.port or 80)
        self._lock = threading.Lock()
        self._count = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None: ...

            def __getattr__(self, name: str) -> object:
                if not name.startswith("do_"):
                    raise AttributeError(name)
                return lambda: proxy._serve(self)

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Clients that go away are what this is for."""

        self._server = Server(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        """Where clients ask."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def count(self, method: str) -> int:
        """Return how many requests of that method there were."""
        return sum(request.method == method for request, _ in self.seen)

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        size = int(handler.headers.get("Content-Length") or 0)
        with self._lock:
            request = Request(
                self._count, handler.command, handler.path, size, dict(handler.headers)
            )
            self._count += 1
        fault = self.fault(request) or Fault()
        if fault.taken is not None:
            _take(handler, int(fault.taken * size), fault.bytes_per_s)
            self.seen.append((request, 0))
            _hang_up(handler)
            return
        body = _take(handler, size, fault.bytes_per_s)
        time.sleep(fault.wait_s)
        failing = bool(fault.drop or fault.status)
        answer = None
        if not failing or fault.carried_out:
            answer = self._ask(handler, body, fault.ignore)
        status = 0 if fault.drop else fault.status or (answer[0] if answer else 0)
        self.seen.append((request, status))
        if fault.drop:
            _hang_up(handler)
        elif fault.status or answer is None:
            told = f"<Error><Code>Fault{fault.status}</Code><Message>by request</Message></Error>"
            headers = [("Content-Type", "application/xml")]
            _answer(handler, fault.status, headers, told.encode(), Fault())
        else:
            _answer(handler, *answer, fault)

    def _ask(
        self, handler: BaseHTTPRequestHandler, body: bytes, ignore: tuple[str, ...]
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        left_out = {name.lower() for name in ignore} | _HOP
        headers = {k: v for k, v in handler.headers.items() if k.lower() not in left_out}
        connection = http.client.HTTPConnection(*self._upstream, timeout=60)
        try:
            connection.request(handler.command, handler.path, body=body, headers=headers)
            answer = connection.getresponse()
            data = answer.read()
            kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in _HOP]
            return answer.status, kept, data
        finally:
            connection.close()


def _take(handler: BaseHTTPRequestHandler, size: int, bytes_per_s: float) -> bytes:
    pieces = []
    while size > 0:
        piece = handler.rfile.read(min(_PIECE, size))
        if not piece:
            break
        pieces.append(piece)
        size -= len(piece)
        if bytes_per_s:
            time.sleep(len(piece) / bytes_per_s)
    return b"".join(pieces)


def _answer(
    handler: BaseHTTPRequestHandler,
    status: int,
    headers: list[tuple[str, str]],
    body: bytes,
    fault: Fault,
) -> None:
    handler.send_response_only(status)
    for name, value in headers:
        if name.lower() != "content-length":
            handler.send_header(name, value)
    length = next((v for k, v in headers if k.lower() == "content-length"), str(len(body)))
    handler.send_header("Content-Length", length if handler.command == "HEAD" else str(len(body)))
    handler.end_headers()
    if handler.command == "HEAD":
        return
    end = len(body) if fault.cut is None else int(fault.cut * len(body))
    step = _PIECE if fault.bytes_per_s else max(1, end)
    for start in range(0, end, step):
        piece = body[start : min(start + step, end)]
        handler.wfile.write(piece)
        if fault.bytes_per_s:
            time.sleep(len(piece) / fault.bytes_per_s)
    if fault.cut is not None:
        _hang_up(handler)


def _hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
