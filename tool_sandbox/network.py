"""A window to the network, as narrow as its allowlist: the host fetches, the guest asks.

Off unless asked for. An execution inherits a socket as descriptor 4 and calls `palaestra_fetch`,
which sends one JSON line. A URL is data that leaves the host: an allowlist is an exfiltration
channel of its width.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import Any, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from .errors import BadRequest
from .limits import MiB

_LINE = 8192  # bytes of a question
_REDIRECTS = 5
_PORTS = {"http": 80, "https": 443}
_HEADERS = {"User-Agent": "palaestra", "Accept": "*/*", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Fetch:
    """What guests may fetch.

    Attributes:
        allow: URL prefixes, such as "https://docs.python.org/3/"; each with scheme and host.
        max_bytes: Bytes of all bodies of one execution.
        wall: Seconds of one request, redirects included.
        calls: Requests of one execution.
        cassette: A file in which answers are recorded, and from which they are replayed.

    Raises:
        BadRequest: A prefix that is no http(s) URL, or a number out of range.
    """

    allow: tuple[str, ...]
    max_bytes: int = MiB
    wall: float = 5.0
    calls: int = 16
    cassette: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        for prefix in self.allow:
            if target_of(prefix) is None:
                raise BadRequest(f"Fetch.allow holds {prefix!r}; give http(s)://host/path")
        if not (self.max_bytes > 0 and 0 < self.wall < 3600 and self.calls > 0):
            raise BadRequest("Fetch: max_bytes, wall and calls must be positive")


class Target(NamedTuple):
    """A URL, normalised."""

    scheme: str
    host: str
    port: int
    path: str
    query: str

    @property
    def url(self) -> str:
        """As text."""
        query = f"?{self.query}" if self.query else ""
        return f"{self.scheme}://{self.host}:{self.port}{self.path}{query}"

    def under(self, prefix: Target) -> bool:
        """Whether a prefix allows it: whole path segments count."""
        folder = prefix.path if prefix.path.endswith("/") else f"{prefix.path}/"
        same = self[:3] == prefix[:3]
        return same and (self.path == prefix.path or self.path.startswith(folder))


def target_of(url: str) -> Target | None:
    """The normal form of a URL; None for what could mean two things.

    >>> target_of("HTTPS://Docs.Python.org/3/x?q=1").url
    'https://docs.python.org:443/3/x?q=1'
    >>> target_of("https://docs.python.org/3/%2e%2e/x") is None
    True
    """
    if not url.isascii() or any(ord(c) <= 32 or c in '\\<>"' for c in url):
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    host = parts.hostname
    if parts.scheme not in _PORTS or not host or "@" in parts.netloc:
        return None
    path = parts.path or "/"
    decoded = unquote(unquote(path))
    if any(part in (".", "..") for part in decoded.split("/")) or "\\" in decoded:
        return None
    return Target(parts.scheme, host.rstrip("."), port or _PORTS[parts.scheme], path, parts.query)


class Answer(NamedTuple):
    """What a server said."""

    status: int
    body: bytes
    location: str = ""


Transport = Callable[[Target, str, int, float], Answer]
Resolver = Callable[[str, int], str]


class Refusal(Exception):
    """Why a guest gets no answer."""


def resolve(host: str, port: int) -> str:
    """The one address to connect to.

    Raises:
        Refusal: Unknown, or not an address of the public network.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise Refusal(f"{host} is unknown") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(is_public(address) for address in addresses):
        raise Refusal(f"{host} is not a public address")
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an address belongs to the public network.

    >>> [is_public(a) for a in ("8.8.8.8", "127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1")]
    [True, False, False, False]
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return parsed.is_global and not parsed.is_multicast


def transport(target: Target, address: str, most: int, wall: float) -> Answer:
    """One GET to an address that was resolved before; no proxy, no cookie.

    Raises:
        OSError: The connection failed, or took too long.
        http.client.HTTPException: The server speaks no HTTP.
    """
    deadline = time.monotonic() + wall
    plain = socket.create_connection((address, target.port), timeout=wall)
    connection = http.client.HTTPConnection(target.host, target.port, timeout=wall)
    try:
        connection.sock = plain
        if target.scheme == "https":
            context = ssl.create_default_context()
            connection.sock = context.wrap_socket(plain, server_hostname=target.host)
        path = target.path + (f"?{target.query}" if target.query else "")
        connection.request("GET", path, headers=_HEADERS)
        response = connection.getresponse()
        body = bytearray()
        while len(body) <= most and (piece := response.read1(1 << 16)):
            body += piece
            if time.monotonic() > deadline:
                raise TimeoutError
        return Answer(response.status, bytes(body), response.getheader("Location") or "")
    finally:
        connection.close()
        plain.close()


class Cassette:
    """Answers on file, one JSON object a line."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._lock = threading.Lock()
        self._known: dict[str, Answer] = {}
        if os.path.exists(self._path):
            with open(self._path, encoding="utf-8") as file:
                for line in file:
                    row: dict[str, Any] = json.loads(line)
                    body = base64.b64decode(row["body"])
                    self._known[row["url"]] = Answer(row["status"], body)

    def find(self, url: str) -> Answer | None:
        """The recorded answer."""
        return self._known.get(url)

    def add(self, url: str, answer: Answer) -> None:
        """Records an answer."""
        body = base64.b64encode(answer.body).decode()
        line = json.dumps({"url": url, "status": answer.status, "body": body})
        with self._lock, open(self._path, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")
            self._known[url] = answer


class Broker:
    """Answers the questions of executions; each has a socket and a budget of its own."""

    def __init__(
        self, fetch: Fetch, *, resolver: Resolver = resolve, carrier: Transport = transport
    ) -> None:
        """Opens the cassette.

        Args:
            fetch: What is allowed.
            resolver: Host name to address.
            carrier: One GET.
        """
        self._fetch = fetch
        found = (target_of(prefix) for prefix in fetch.allow)
        self._allow = [target for target in found if target is not None]
        self._cassette = None if fetch.cassette is None else Cassette(fetch.cassette)
        self._resolver = resolver
        self._carrier = carrier

    def open(self) -> int:
        """A descriptor for one execution; whoever takes it closes it."""
        ours, theirs = socket.socketpair()
        thread = threading.Thread(target=self._serve, args=(ours,), daemon=True)
        thread.start()
        return theirs.detach()

    def _serve(self, line: socket.socket) -> None:
        calls, left = self._fetch.calls, self._fetch.max_bytes
        with line, line.makefile("rb") as questions:
            try:
                while question := questions.readline(_LINE):
                    calls -= 1
                    answer = self._answer(question, calls, left)
                    left -= len(answer.body)
                    head = {"status": answer.status, "length": len(answer.body)}
                    line.sendall(json.dumps(head).encode() + b"\n" + answer.body)
            except OSError:
                return  # the execution has ended

    def _answer(self, question: bytes, calls: int, left: int) -> Answer:
        try:
            if calls < 0:
                raise Refusal(f"more than {self._fetch.calls} calls")
            data: object = json.loads(question)
            if not isinstance(data, str):
                raise Refusal("the question is no URL")
            answer = self._get(data, left)
            if len(answer.body) > left:
                raise Refusal(f"more than {self._fetch.max_bytes} bytes")
            return answer
        except Refusal as problem:
            return Answer(0, str(problem).encode())
        except (OSError, http.client.HTTPException):
            return Answer(0, b"the server cannot be reached")
        except (ValueError, RecursionError):
            return Answer(0, b"the question is no JSON")

    def _get(self, url: str, left: int) -> Answer:
        asked = self._checked(url)
        known = self._cassette.find(asked.url) if self._cassette is not None else None
        if known is not None:
            return known
        deadline = time.monotonic() + self._fetch.wall
        target = asked
        for _ in range(_REDIRECTS + 1):
            address = self._resolver(target.host, target.port)
            wall = deadline - time.monotonic()
            if wall <= 0:
                raise Refusal("took too long")
            answer = self._carrier(target, address, left, wall)
            if answer.status not in (301, 302, 303, 307, 308) or not answer.location:
                if self._cassette is not None and len(answer.body) <= left:
                    self._cassette.add(asked.url, answer)
                return answer
            target = self._checked(urljoin(target.url, answer.location))
        raise Refusal("too many redirects")

    def _checked(self, url: str) -> Target:
        target = target_of(url)
        if target is None or not any(target.under(prefix) for prefix in self._allow):
            raise Refusal("this URL is not allowed")
        return target
