"""HTTP for thousands of requests in flight, each with a deadline and a size limit for its whole answer.

The client libraries take 1 ms of processor time for a request and more (httpx 0.28, aiohttp 3.14), and httpx's pool
looks through all of its connections each time: with 2,000 in flight a server that answers after three seconds would
wait for its client. This one takes 0.2 ms. It speaks HTTP/1.1 and TLS, also through a proxy; it follows no redirect and
reads no cookie. What is secret in a header or URL is remembered (`trajkit.quoting`), and no error here holds it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import select
import ssl
import threading
import time
import zlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import SplitResult, quote_from_bytes, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from trajkit import __version__
from trajkit.quoting import hide, quote, remember, without_userinfo

CONNECT = 10.0  # seconds for a connection, at most
MAX_BYTES = 64 * 2**20  # of an answer's body, unpacked
KEEP = 4.0  # seconds that an idle connection is kept: uvicorn closes it after 5, and both at once would be an error
_HEAD = 64 * 2**10  # bytes of an answer's headers; of what is read ahead
_SPARE = 100  # descriptors left for everything else: files of runs/, pipes to workers, an environment's own


class NoAnswer(Exception):
    """No whole answer came. Its text has no secrets."""

    def __init__(self, text: str) -> None:
        super().__init__(hide(text))


class NotThere(NoAnswer):
    """No connection: nothing was sent."""


class Late(NoAnswer):
    """The deadline passed before the answer was whole."""


class TooLarge(NoAnswer):
    """The answer passed the size limit."""


@dataclass(frozen=True)
class Answered:
    """A whole answer."""

    status: int
    body: bytes

    @cached_property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    @property
    def said(self) -> str:
        """The body for an error: short and without secrets."""
        return quote(self.text)

    def json(self) -> Any:
        """The body read as JSON. Raises ValueError (RecursionError where it is nested too deeply is made one)."""
        try:
            return json.loads(self.body)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None


class Client:
    """Connections to servers, kept while they are used. For one event loop.

    `timeout` is in seconds, for one answer from the first byte sent to the last one received; making the connection has
    10 of its own. `max_bytes` bounds an answer's body. `most` connections are open at once, others wait.
    """

    def __init__(
        self,
        headers: Mapping[str, str] | None = None,
        timeout: float = 300.0,
        max_bytes: int = MAX_BYTES,
        most: int = 10**9,
    ) -> None:
        self._headers = {"User-Agent": f"trajkit/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
        self._headers |= headers or {}
        for value in (headers or {}).values():
            remember(value.rpartition(" ")[2])
            if not value.isascii() or not value.isprintable():
                raise ValueError("a header's value can only hold printable ASCII characters")
        self._timeout, self._max_bytes, self._most = timeout, max_bytes, most
        self._free: asyncio.Semaphore | None = None
        self._open = 0
        self._idle: dict[tuple[str, str, int], deque[tuple[float, _Wire]]] = {}

    async def send(self, method: str, url: str, content: Any = None) -> Answered:
        """Ask, with `content` as JSON (None: without a body). Raises NoAnswer, and ValueError for what is no URL."""
        to = _place(url)
        self._free = self._free or asyncio.Semaphore(self._most)
        async with self._free:
            wire = self._reuse(to.origin) or await self._connect(to)
            whole = False
            try:
                async with asyncio.timeout(self._timeout):
                    wire.transport.write(self._request(method, to, content))
                    answered, whole = await _read(wire, method, self._max_bytes)
            except TimeoutError:
                raise Late(f"no whole answer within {self._timeout:g} s") from None
            except (OSError, ssl.SSLError) as error:
                raise NoAnswer(f"{type(error).__name__}: {error}") from None
            finally:
                if whole and not wire.readable:
                    self._idle.setdefault(to.origin, deque()).append((time.monotonic(), wire))
                else:
                    self._drop(wire)
            return answered

    async def close(self) -> None:
        """Close the connections. The next request opens new ones."""
        for idle in self._idle.values():
            for _, wire in idle:
                self._drop(wire)
        self._idle.clear()
        self._free = None
        await asyncio.sleep(0)

    def _reuse(self, origin: tuple[str, str, int]) -> _Wire | None:
        idle = self._idle.get(origin)
        while idle:
            since, wire = idle.pop()
            if not wire.readable and time.monotonic() - since < KEEP:
                return wire
            self._drop(wire)
        return None

    def _drop(self, wire: _Wire) -> None:
        self._open -= 1
        wire.transport.abort()

    async def _connect(self, to: _To) -> _Wire:
        for idle in self._idle.values():
            while idle and (self._open >= self._most or time.monotonic() - idle[0][0] >= KEEP):
                self._drop(idle.popleft()[1])
        self._open += 1
        limit = min(CONNECT, self._timeout)
        try:
            async with asyncio.timeout(limit):
                return await _connected(to)
        except BaseException as error:
            self._open -= 1
            if isinstance(error, TimeoutError):
                raise NotThere(f"no connection within {limit:g} s") from None
            if isinstance(error, OSError):
                raise NotThere(f"{type(error).__name__}: {error}") from None
            raise

    def _request(self, method: str, to: _To, content: Any) -> bytes:
        body = b"" if content is None else json.dumps(content, separators=(",", ":")).encode()
        lines = [f"{method} {to.target} HTTP/1.1", f"Host: {to.host_header}"]
        lines += [f"{name}: {value}" for name, value in (self._headers | to.headers).items()]
        if content is not None:
            lines.append("Content-Type: application/json")
        if content is not None or method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode("ascii") + body


class BlockingClient:
    """`Client` for code that waits for its answer. Its event loop is in a thread, one for all of a process."""

    def __init__(self, *args: Any, **more: Any) -> None:
        self._client = Client(*args, **more)

    def send(self, method: str, url: str, content: Any = None) -> Answered:
        """As `Client.send`."""
        asked = asyncio.run_coroutine_threadsafe(self._client.send(method, url, content), _loop())
        try:
            return asked.result()
        except BaseException:
            asked.cancel()
            raise

    def close(self) -> None:
        """As `Client.close`."""
        asyncio.run_coroutine_threadsafe(self._client.close(), _loop()).result()


def connections_that_fit() -> int:
    """How many connections the process may open beside what is open and what will be (`ulimit -n`). At least 1."""
    try:
        import resource
    except ImportError:  # Windows: sockets are no descriptors there
        return 10**9
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 10**9
    try:
        open_now = len(os.listdir("/proc/self/fd"))
    except OSError:
        open_now = 32
    return max(1, soft - open_now - _SPARE)


def check(url: str) -> None:
    """Raise ValueError, which names the URL without its password, for what is no URL or has a proxy unknown here."""
    _place(url)


# --- where to --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _To:
    """Where a request goes. `proxy` None: to the server itself."""

    url: SplitResult
    origin: tuple[str, str, int]
    host_header: str
    target: str
    headers: dict[str, str]
    proxy: SplitResult | None


_places: dict[str, _To] = {}


def _place(url: str) -> _To:
    found = _places.get(url)
    if found is None:
        if len(_places) > 10_000:
            _places.clear()
        found = _places[url] = _parsed(url)
    return found


def _parsed(url: str) -> _To:
    shown = without_userinfo(url)
    try:
        split = urlsplit(url)
        host, port = split.hostname, split.port
    except ValueError as error:
        raise ValueError(f"{shown}: {quote(str(error))}") from None
    if split.scheme not in ("http", "https") or not host:
        raise ValueError(f"{shown}: it is no http:// or https:// URL")
    default = 443 if split.scheme == "https" else 80
    try:
        name = host if ":" in host or host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        raise ValueError(f"{shown}: it has no host's name") from None
    bracketed = f"[{name}]" if ":" in name else name
    host_header = bracketed if port in (None, default) else f"{bracketed}:{port}"
    path = quote_from_bytes((split.path or "/").encode(), safe="/%:@!$&'()*+,;=~-._")
    target = path + (f"?{quote_from_bytes(split.query.encode(), safe='/%:@!$&()*+,;=~-._?')}" if split.query else "")
    headers = _basic(split, "Authorization")
    proxy = _proxy(split.scheme, name, port)
    if proxy and split.scheme == "http":
        headers |= _basic(proxy, "Proxy-Authorization")
        target = f"http://{host_header}{target}"
    return _To(split, (split.scheme, name, port or default), host_header, target, headers, proxy)


def _proxy(scheme: str, host: str, port: int | None) -> SplitResult | None:
    """The proxy that the environment names for it (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY). None: none."""
    proxies = getproxies()
    named = proxies.get(scheme) or proxies.get("all")
    if not named or proxy_bypass(f"{host}:{port}" if port else host):
        return None
    shown = without_userinfo(named)
    split = urlsplit(named if "://" in named else f"http://{named}")
    if split.scheme != "http" or not split.hostname:
        raise ValueError(f"the proxy {shown} of the environment is none that is spoken to here: it must be http://")
    return split


def _basic(split: SplitResult, header: str) -> dict[str, str]:
    if split.username is None and split.password is None:
        return {}
    pair = f"{unquote(split.username or '')}:{unquote(split.password or '')}"
    value = base64.b64encode(pair.encode()).decode()
    remember(value)
    return {header: f"Basic {value}"}


# --- one connection --------------------------------------------------------------------------------


class _Wire(asyncio.Protocol):
    """A connection and the bytes that came and were not read yet."""

    def __init__(self) -> None:
        self.data, self.ended = bytearray(), False
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # from connection_made on
        self._problem: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.data += data
        if len(self.data) > _HEAD and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self.ended = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended, self._problem = True, exc
        self._wake()

    @property
    def readable(self) -> bool:
        """Whether it has ended, or has bytes that nobody asked for: then it can be used no more."""
        if self.ended or self.data:
            return True
        if not hasattr(select, "poll"):
            return False
        look = select.poll()  # also what the event loop has not seen yet
        look.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(look.poll(0))

    async def more(self) -> bool:
        """Wait for more bytes. False: there are none to come. Raises OSError where the connection broke."""
        if self.ended:
            if self._problem is not None:
                raise ConnectionError(f"the connection broke ({self._problem})")
            return False
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        return True

    async def until(self, mark: bytes) -> bytes:
        """All up to the mark, which is taken away and not given."""
        looked = 0
        while (at := self.data.find(mark, looked)) < 0:
            if len(self.data) > _HEAD:
                raise TooLarge(f"its headers have more than {_HEAD:,} bytes")
            looked = max(0, len(self.data) - len(mark) + 1)
            if not await self.more() and self.data.find(mark, looked) < 0:
                raise NoAnswer("the connection was closed before an answer" + (" was whole" if self.data else " came"))
        found = bytes(self.data[:at])
        del self.data[: at + len(mark)]
        return found

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def _connected(to: _To) -> _Wire:
    loop = asyncio.get_running_loop()
    scheme, host, port = to.origin
    tls = _certificates() if scheme == "https" else None
    if to.proxy is None:
        name = host if tls else None
        _, wire = await loop.create_connection(_Wire, host, port, ssl=tls, server_hostname=name)
        return wire
    assert to.proxy.hostname
    _, wire = await loop.create_connection(_Wire, to.proxy.hostname, to.proxy.port or 80)
    if tls:
        try:
            at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            headers = {"Host": at} | _basic(to.proxy, "Proxy-Authorization")
            lines = [f"CONNECT {at} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
            wire.transport.write("\r\n".join([*lines, "", ""]).encode())
            status, _ = _head(await wire.until(b"\r\n\r\n"))
            if status != 200:
                raise ConnectionError(f"the proxy answers with status {status}")
            transport = await loop.start_tls(wire.transport, wire, tls, server_hostname=host)
            assert isinstance(transport, asyncio.Transport)
            wire.transport = transport
        except BaseException:
            wire.transport.abort()
            raise
    return wire


async def _read(wire: _Wire, method: str, limit: int) -> tuple[Answered, bool]:
    """The answer, and whether the connection can be used again."""
    status, headers = _head(await wire.until(b"\r\n\r\n"))
    while 100 <= status < 200:
        status, headers = _head(await wire.until(b"\r\n\r\n"))
    body, again = _Body(headers.get("content-encoding", "identity").lower(), limit), True
    if method == "HEAD" or status in (204, 304):
        pass
    elif "chunked" in headers.get("transfer-encoding", "").lower():
        while size := _number((await wire.until(b"\r\n")).partition(b";")[0], 16):
            await _take(wire, size, body)
            if await wire.until(b"\r\n"):
                raise NoAnswer("an answer that is no HTTP (a chunk that goes on after its end)")
        while await wire.until(b"\r\n"):
            pass
    elif "content-length" in headers:
        await _take(wire, _number(headers["content-length"].encode(), 10), body)
    else:
        again = False
        while True:
            body.add(wire.data)
            wire.data.clear()
            if not await wire.more():
                break
        body.add(wire.data)
        wire.data.clear()
    return Answered(status, body.whole()), again and "close" not in headers.get("connection", "").lower()


async def _take(wire: _Wire, size: int, body: _Body) -> None:
    while size:
        if not wire.data and not await wire.more() and not wire.data:
            raise NoAnswer("the connection was closed before an answer was whole")
        taken = bytes(wire.data[:size])
        del wire.data[:size]
        size -= len(taken)
        body.add(taken)


def _head(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers, by name in lower case."""
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    status = rest[:3]
    if not version.startswith("HTTP/1.") or len(status) != 3 or not (status.isascii() and status.isdigit()):
        raise NoAnswer(f"an answer that is no HTTP: {quote(first)}")
    headers: dict[str, str] = {"connection": "close"} if version == "HTTP/1.0" else {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(status), headers


def _number(text: bytes, base: int) -> int:
    digits = text.strip().decode("latin-1")
    try:
        if digits[:1] in "+-" or "_" in digits or len(digits) > 20:
            raise ValueError
        return int(digits, base)
    except ValueError:
        raise NoAnswer(f"an answer that is no HTTP (its length is {quote(repr(digits))})") from None


class _Body:
    """A body as it comes, unpacked, up to a limit."""

    def __init__(self, encoding: str, limit: int) -> None:
        self._limit, self._parts = limit, bytearray()
        if encoding not in ("identity", "gzip", "x-gzip", "deflate", ""):
            raise NoAnswer(f"an answer that is compressed as {quote(encoding)}, which was not asked for")
        self._unpack: Any = None if encoding in ("identity", "") else zlib.decompressobj(47)  # gzip or zlib

    def add(self, data: bytes | bytearray) -> None:
        if self._unpack is not None:
            try:
                data = self._unpack.decompress(bytes(data), self._limit - len(self._parts) + 1)
            except zlib.error as error:
                raise NoAnswer(f"an answer that cannot be unpacked ({error})") from None
        self._parts += data
        if len(self._parts) > self._limit:
            raise TooLarge(f"an answer of more than {self._limit:,} bytes")

    def whole(self) -> bytes:
        if self._unpack is not None and not self._unpack.eof:
            raise NoAnswer("an answer that cannot be unpacked (its end is missing)")
        return bytes(self._parts)


_tls: list[ssl.SSLContext] = []


def _certificates() -> ssl.SSLContext:
    if not _tls:  # reading them takes longer than asking
        where = None
        if not (os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")):
            with contextlib.suppress(ImportError):
                import certifi

                where = certifi.where()
        _tls.append(ssl.create_default_context(cafile=where))
    return _tls[0]


# --- for code that waits ---------------------------------------------------------------------------

_loops: dict[int, asyncio.AbstractEventLoop] = {}
_lock = threading.Lock()


def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of this process's thread, which is started by the first call."""
    with _lock:
        loop = _loops.get(os.getpid())
        if loop is None:
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="trajkit-http", daemon=True).start()
        return loop
