"""A server on this machine that answers by a script, and keeps what it was sent."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator

Send = Callable[[Callable[[bytes], None]], None]


class Server:
    """``answer`` gets a function that sends bytes; each request is answered by it, and kept whole in ``heard``."""

    def __init__(self, answer: Send):
        self.answer, self.heard = answer, bytearray()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                self._hear(connection)
                self.answer(connection.sendall)

    def _hear(self, connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            if not (part := connection.recv(65536)):
                return
            request += part
        head, _, body = request.partition(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        while len(body) < length:
            body += connection.recv(65536)
        self.heard += head + body

    def close(self) -> None:
        """Whoever waits for a connection is woken: to close a socket alone leaves its thread waiting for ever."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@contextlib.contextmanager
def serving(answer: Send) -> Iterator[Server]:
    server = Server(answer)
    try:
        yield server
    finally:
        server.close()


def http(body: bytes, status: str = "200 OK", headers: str = "") -> Send:
    """A whole answer over a connection that is closed behind it."""
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n".encode()
    return lambda send: send(head + body)


def vectors(width: int, count: int = 1) -> bytes:
    return json.dumps({"data": [{"index": at, "embedding": [0.5] * width} for at in range(count)]}).encode()
