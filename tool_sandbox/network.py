"""A window to the network, as narrow as its allowlist: the host fetches, the guest asks.

Off unless asked for. An execution inherits a socket as descriptor 4 and calls `palaestra_fetch`,
which sends one JSON line. A URL is data that leaves the host: an allowlist is an exfiltration
channel of its width.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

from . import wire
from .cassette import Answer, Cassette
from .errors import BadRequest
from .limits import MiB
from .lines import line_for

_LINE = 8192  # bytes of a question
_REDIRECTS = 5
_DECODINGS = 5  # a path that is encoded more often is refused
_PORTS = {"http": 80, "https": 443}
# Refused besides what `ipaddress` knows, which differs between versions of Python: protocol
# assignments and 6to4 relays; addresses that stand for an IPv4 address somewhere else (compatible,
# NAT64, 6to4, Teredo).
_SPECIAL = [ipaddress.ip_network(text) for text in (
    *("192.0.0.0/24", "192.88.99.0/24", "::/96", "64:ff9b::/96", "64:ff9b:1::/48"),
    *("2002::/16", "2001::/32"),
)]  # fmt: skip
_HEADERS = {"User-Agent": "palaestra", "Accept": "*/*", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Fetch:
    """What guests may fetch.

    Attributes:
        allow: URL prefixes, such as "https://docs.python.org/3/"; each with scheme and host.
        max_bytes: Bytes of all bodies of one execution, or of one call of a session.
        wall: Seconds of one request, redirects included.
        calls: Requests of one execution, or of one call of a session.
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
        if isinstance(self.allow, str) or not isinstance(self.allow, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise BadRequest(f"Fetch.allow is {self.allow!r}; give a tuple of URL prefixes")
        for prefix in self.allow:
            target = target_of(prefix)
            if target is None or target.query or "?" in prefix or "#" in prefix:
                raise BadRequest(f"Fetch.allow holds {prefix!r}; give http(s)://host/path")
        bounds = {"max_bytes": 15 * MiB, "wall": 3600, "calls": 1_000_000}
        for name, most in bounds.items():
            value: object = getattr(self, name)
            kinds = (int, float) if name == "wall" else (int,)
            if isinstance(value, bool) or not isinstance(value, kinds) or not 0 < value <= most:
                raise BadRequest(f"Fetch.{name} is {value!r}; give more than 0 and at most {most}")


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
    if not isinstance(url, str) or not url.isascii():  # pyright: ignore[reportUnnecessaryIsInstance]
        return None
    if any(c <= " " or c in '\\<>"\x7f' for c in url):
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
    if port == 0 or not _is_plain(path):
        return None
    return Target(parts.scheme, host.rstrip("."), port or _PORTS[parts.scheme], path, parts.query)


def _is_plain(path: str) -> bool:
    """Whether no server, however often it decodes, finds another folder in a path than we do."""
    for _ in range(_DECODINGS):
        try:
            decoded = unquote(path, errors="strict")
        except UnicodeDecodeError:
            return False  # overlong forms of dots and slashes are such
        parts = decoded.replace("\\", "/").split("/")
        if any(part.partition(";")[0] in (".", "..") for part in parts):
            return False
        if "\\" in decoded or any(c < " " or c == "\x7f" for c in decoded):
            return False
        if decoded == path:
            return True
        path = decoded
    return False


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
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = parsed.ipv4_mapped or parsed
    if any(parsed in network for network in _SPECIAL):
        return False
    return parsed.is_global and not (parsed.is_multicast or _is_site_local(parsed))


def _is_site_local(parsed: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return isinstance(parsed, ipaddress.IPv6Address) and parsed.is_site_local


def transport(target: Target, address: str, most: int, wall: float) -> Answer:
    """One GET to an address that was resolved before; no proxy, no cookie.

    Raises:
        OSError: The connection failed, or took too long.
        http.client.HTTPException: The server speaks no HTTP, or hung up in the middle.
    """
    deadline = time.monotonic() + wall
    connection = http.client.HTTPConnection(target.host, target.port)
    line = connection.sock = socket.create_connection((address, target.port), timeout=wall)
    if target.scheme == "https":
        line = connection.sock = ssl.create_default_context().wrap_socket(
            line, server_hostname=target.host, do_handshake_on_connect=False
        )
    # A time-out of the socket begins anew with every byte; this one does not.
    over = threading.Event()
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, (line, over))
    timer.daemon = True
    timer.start()
    try:
        return _get(connection, target, most)
    finally:
        timer.cancel()
        timer.join()
        connection.close()
        if over.is_set():  # whatever came of it: half a head reads like a whole one
            raise TimeoutError


def _cut(line: socket.socket, over: threading.Event) -> None:
    over.set()
    with contextlib.suppress(OSError):
        socket.socket.shutdown(line, socket.SHUT_RDWR)  # a TLS one's own would pull its rug away


def _get(connection: http.client.HTTPConnection, target: Target, most: int) -> Answer:
    if isinstance(connection.sock, ssl.SSLSocket):
        connection.sock.do_handshake()
    path = target.path + (f"?{target.query}" if target.query else "")
    connection.request("GET", path, headers=_HEADERS)
    response = connection.getresponse()
    body = bytearray()
    while len(body) <= most and (piece := response.read1(1 << 16)):
        body += piece
    if len(body) <= most and response.length:
        raise http.client.IncompleteRead(bytes(body), response.length)
    return Answer(response.status, bytes(body), response.getheader("Location") or "")


def _url_in(question: bytes) -> str:
    try:
        data: object = json.loads(question)
    except (ValueError, RecursionError):
        raise Refusal("the question is no JSON") from None
    if not isinstance(data, str):
        raise Refusal("the question is no URL")
    return data


def _join(base: str, location: str) -> str:
    try:
        return urljoin(base, location)
    except ValueError:
        return ""  # no URL, and so not allowed


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
        ours, theirs = line_for("to the broker")
        thread = threading.Thread(target=self._serve, args=(ours,), daemon=True)
        thread.start()
        return theirs.detach()

    @contextlib.contextmanager
    def lend(self) -> Generator[int]:
        """A descriptor for one call of a session, where programs outlive their call.

        With the call the line ends, however many copies of the descriptor are left over there.
        """
        ours, theirs = line_for("to the broker")
        name = "palaestra-fetch"
        threading.Thread(target=self._serve, args=(ours,), name=name, daemon=True).start()
        try:
            with theirs:
                yield theirs.fileno()
        finally:
            with contextlib.suppress(OSError):  # the other side has closed it
                ours.shutdown(socket.SHUT_RDWR)

    def _serve(self, line: socket.socket) -> None:
        calls, left = self._fetch.calls, self._fetch.max_bytes
        with line, line.makefile("rb") as questions:
            try:
                while question := questions.readline(_LINE):
                    calls -= 1
                    answer = self._answer(question, calls, left)
                    left -= len(answer.body)
                    head = {"status": answer.status, "length": len(answer.body)}
                    told = json.dumps(head).encode() + b"\n" + answer.body
                    line.sendall(told, wire.NO_SIGNAL)
            except OSError:
                return  # the execution has ended

    def _answer(self, question: bytes, calls: int, left: int) -> Answer:
        try:
            if calls < 0:
                raise Refusal(f"more than {self._fetch.calls} calls")
            answer = self._get(_url_in(question), left)
            if len(answer.body) > left:
                raise Refusal(f"more than {self._fetch.max_bytes} bytes")
            return answer
        except Refusal as problem:
            return Answer(0, str(problem).encode())
        except (OSError, ValueError, http.client.HTTPException):
            return Answer(0, b"the server cannot be reached")

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
                    return self._cassette.add(asked.url, answer)
                return answer
            target = self._checked(_join(target.url, answer.location))
        raise Refusal("too many redirects")

    def _checked(self, url: str) -> Target:
        target = target_of(url)
        if target is None or not any(target.under(prefix) for prefix in self._allow):
            raise Refusal("this URL is not allowed")
        return target
