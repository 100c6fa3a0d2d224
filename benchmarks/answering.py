"""A server of chat completions that does nothing but wait: so little of the processor's time that a client's shows.

    python benchmarks/answering.py SECONDS     prints its port

It answers each request after SECONDS, however many there are.
"""

from __future__ import annotations

import asyncio
import json
import sys

CHOICE = {"message": {"role": "assistant", "content": "click[Back to Search]"}, "finish_reason": "stop"}
BODY = json.dumps({"object": "list", "data": [{"id": "waits"}], "choices": [CHOICE]}).encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


class Waits(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.data = transport, b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, end, body = self.data.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if end and len(body) >= int(length or 0):
            self.data = body[int(length or 0) :]
            seconds = float(sys.argv[1]) if head.startswith(b"POST") else 0
            asyncio.get_running_loop().call_later(seconds, self.answer)

    def answer(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(ANSWER)  # type: ignore[attr-defined]


async def serve() -> None:
    """Until it is killed."""
    server = await asyncio.get_running_loop().create_server(Waits, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
