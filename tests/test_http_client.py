"""The HTTP client: whole answers in every framing, and what is none ends as an error in time and within its size."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_server import raw_server, trickle, whole

from trajkit.exploration import http_client
from trajkit.exploration.http_client import Answered, BlockingClient, Client, Late, NoAnswer, NotThere, TooLarge

BODY = json.dumps({"text": "naïve 北京"}).encode()
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(autouse=True)
def without_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    http_client._places.clear()


def ask(url: str, *, method: str = "POST", content: Any = None, **more: Any) -> Answered:
    async def go() -> Answered:
        client = Client(**more)
        try:
            return await client.send(method, url, content)
        finally:
            await client.close()

    return asyncio.run(go())


def sends(data: bytes) -> Callable[[socket.socket, bytes], bool]:
    """Answers every request with these bytes, and closes."""

    def answer(connection: socket.socket, request: bytes) -> bool:
        connection.sendall(data)
        return False

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        whole(BODY),
        whole(gzip.compress(BODY), headers="Content-Encoding: gzip\r\n"),
        CHUNKED + b"5;x=y\r\n%s\r\n%x\r\n%s\r\n0\r\nTrailer: x\r\n\r\n" % (BODY[:5], len(BODY) - 5, BODY[5:]),
        b"HTTP/1.0 200 OK\r\n\r\n" + BODY,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + whole(BODY),
    ],
    ids=["length", "gzip", "chunked", "closed", "interim"],
)
def test_an_answer_in_every_framing(answer: bytes) -> None:
    with raw_server(sends(answer)) as server:
        got = ask(server.url + "/a b?c=d e", content={"é": 1}, headers={"X-Key": "secret"})
    assert (got.status, got.json()) == (200, json.loads(BODY))
    (request,) = server.requests
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /a%20b?c=d%20e HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"X-Key: secret" in head and json.loads(body) == {"é": 1}


@pytest.mark.parametrize(
    "data",
    [b"HTTP/1.1 200 OK\r\nX: y\r\n", CHUNKED + b"1\r\nx\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"],
    ids=["head", "chunk", "body"],
)
def test_bytes_that_trickle_do_not_move_the_deadline(data: bytes) -> None:
    with raw_server(lambda connection, request: trickle(connection, data)) as server:
        with pytest.raises(Late, match=r"no whole answer within 0\.3 s"):
            ask(server.url, timeout=0.3)
        with pytest.raises(Late):
            BlockingClient(timeout=0.3).send("GET", server.url)


@pytest.mark.parametrize(
    "answer",
    [
        whole(b"x" * 5000),
        CHUNKED + b"a\r\n0123456789\r\n" * 5000,
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000,
        whole(gzip.compress(b"\0" * 10**8), headers="Content-Encoding: gzip\r\n"),
    ],
    ids=["length", "chunked", "closed", "bomb"],
)
def test_an_answer_has_a_size_limit(answer: bytes) -> None:
    with raw_server(sends(answer)) as server, pytest.raises(TooLarge, match="more than 1,000 bytes"):
        ask(server.url, max_bytes=1000)


def test_headers_have_a_size_limit() -> None:
    with raw_server(sends(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 10**5)) as server, pytest.raises(TooLarge):
        ask(server.url)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x16\x03\x01\x02\x00",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfew",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"2\r\nabcd\r\n",
        CHUNKED + b"2\r\nab\r\n",
        whole(b"nothing packed", headers="Content-Encoding: gzip\r\n"),
        whole(gzip.compress(BODY)[:-9], headers="Content-Encoding: gzip\r\n"),
        whole(b"x", headers="Content-Encoding: br\r\n"),
    ],
)
def test_what_is_no_answer_is_an_error(answer: bytes) -> None:
    with raw_server(sends(answer)) as server, pytest.raises(NoAnswer):
        ask(server.url)


@given(st.lists(st.sampled_from([CHUNKED, whole(b"ab")]) | st.binary(max_size=40), max_size=4))
def test_any_bytes_are_an_answer_or_an_error(parts: list[bytes]) -> None:
    with raw_server(sends(b"".join(parts))) as server, suppress(NoAnswer):
        ask(server.url)


def test_connections_are_kept_and_what_comes_unasked_is_never_an_answer() -> None:
    answers = [whole(b"1"), whole(b"2"), whole(b"3") + whole(b"unasked"), whole(b"4")]

    def answer(connection: socket.socket, request: bytes) -> bool:
        connection.sendall(answers[len(server.requests) - 1])
        return True

    async def go() -> list[bytes]:
        client = Client()
        got = [(await client.send("GET", server.url)).body for _ in answers]
        await client.close()
        return got

    with raw_server(answer) as server:
        assert asyncio.run(go()) == [b"1", b"2", b"3", b"4"]
        assert server.connections == 2  # the third answer's connection is not used again


def test_no_more_connections_than_are_allowed() -> None:
    open_now, most, lock, three = 0, 0, threading.Lock(), threading.Barrier(3)

    def answer(connection: socket.socket, request: bytes) -> bool:
        nonlocal open_now, most
        with lock:
            open_now += 1
            most = max(most, open_now)
        three.wait(30)  # until all three that are allowed are there
        with lock:
            open_now -= 1
        connection.sendall(whole(b"x"))
        return True

    async def go() -> None:
        client = Client(most=3)
        await asyncio.gather(*(client.send("GET", server.url) for _ in range(12)))
        await client.close()

    with raw_server(answer) as server:
        asyncio.run(go())
        assert most == server.connections == 3


def test_where_nobody_listens_and_what_is_no_url() -> None:
    with raw_server(sends(b"")) as server:
        pass
    with pytest.raises(NotThere, match="ConnectionRefusedError"):
        ask(server.url)
    for wrong in ("localhost:80", "ftp://x/", "http://", "http://x:99999/", "http://[/v1", "http://user:pass@:1/"):
        with pytest.raises(ValueError) as raised:
            ask(wrong)
        assert "pass" not in str(raised.value)


def test_a_password_in_the_url_is_sent_and_not_shown() -> None:
    with raw_server(sends(whole(b"you are someone:pa%40ss-word, c29tZW9uZTpwYUBzcy13b3Jk", 500))) as server:
        got = ask(server.url.replace("//", "//someone:pa%40ss-word@"))
    assert b"Authorization: Basic c29tZW9uZTpwYUBzcy13b3Jk\r\n" in server.requests[0]
    assert got.said == "you are [API key], [API key]"


def test_a_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_server(sends(whole(b"from the proxy"))) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:password@"))
        assert ask("http://nowhere.invalid/v1").body == b"from the proxy"
        assert proxy.requests[0].startswith(b"POST http://nowhere.invalid/v1 HTTP/1.1\r\nHost: nowhere.invalid\r\n")
        assert b"Proxy-Authorization: Basic bWU6cGFzc3dvcmQ=\r\n" in proxy.requests[0]
        monkeypatch.setenv("no_proxy", "nowhere.invalid")
        http_client._places.clear()
        with pytest.raises(NotThere):
            ask("http://nowhere.invalid/v1")


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes its certificate with openssl")
def test_tls_directly_and_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += [
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        str(tmp_path / "key"),
        "-out",
        str(tmp_path / "cert"),
    ]
    subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")

    def speak(connection: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(connection, server_side=True) as wrapped:
            wrapped.recv(65536)
            wrapped.sendall(whole(b"in private"))

    def answer(connection: socket.socket, request: bytes) -> bool:
        assert request.startswith(b"CONNECT localhost:9 HTTP/1.1\r\n")
        connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        speak(connection)
        return False

    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=lambda: [speak(listening.accept()[0]) for _ in range(2)], daemon=True).start()
    url = f"https://localhost:{listening.getsockname()[1]}/"
    monkeypatch.setattr(http_client, "_tls", [])
    with pytest.raises(NotThere, match="CERTIFICATE_VERIFY_FAILED"):
        ask(url)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
    monkeypatch.setattr(http_client, "_tls", [])
    assert ask(url).body == b"in private"
    listening.close()
    with raw_server(answer) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        assert ask("https://localhost:9/").body == b"in private"
        http_client._places.clear()
