"""A server for the tests that sends any bytes at all, as slowly as it likes, in a thread of this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Conversation = Callable[[socket.socket, bytes], bool]
"""Answers one request (its bytes). True: another one may come on this connection."""


class Raw:
    """Connections are answered by `answer`, each in a thread. `requests` and `connections` are what came."""

    def __init__(self, answer: Conversation) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            again = True
            while again and (request := _request(connection)):
                self.requests.append(request)
                again = self._answer(connection, request)


@contextmanager
def raw_server(answer: Conversation) -> Iterator[Raw]:
    """A `Raw` server for as long as the block runs."""
    server = Raw(answer)
    try:
        yield server
    finally:
        server.close()


def whole(body: bytes, status: int = 200, headers: str = "") -> bytes:
    """An answer as it should be."""
    return f"HTTP/1.1 {status} x\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def trickle(connection: socket.socket, data: bytes) -> bool:
    """Send it again and again, byte by byte, for as long as the other end listens."""
    gone = threading.Event()
    while True:
        for byte in data:
            connection.sendall(bytes([byte]))
            gone.wait(0.01)


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := connection.recv(65536)):
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
    while len(body) < length:
        more = connection.recv(65536)
        body, data = body + more, data + more
    return data
