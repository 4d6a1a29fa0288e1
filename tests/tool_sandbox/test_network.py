from __future__ import annotations

import math
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from palaestra.testing.fakes import answering, ask
from palaestra.tool_sandbox import (
    BadRequest,
    Fetch,
    Limits,
    Sandbox,
    Session,
    UnsafeSandboxWarning,
)
from palaestra.tool_sandbox import network as net
from palaestra.tool_sandbox.cassette import Answer
from palaestra.tool_sandbox.network import Broker, Target, target_of

DOCS = "https://docs.example.org/3/"
LONG = Limits(wall=60.0)
PAGE = {"https://docs.example.org:443/3/a": Answer(200, b"page")}


def test_what_is_allowed_is_fetched_and_nothing_else() -> None:
    served = answering(Fetch((DOCS,)), PAGE)
    assert ask(served, DOCS + "a", "https://docs.example.org/2/a") == [
        (200, b"page"),
        (0, b"this URL is not allowed"),
    ]


@pytest.mark.parametrize(
    "url",
    [
        "https://docs.example.org/3/../2/a",
        "https://docs.example.org/3/%2e%2e/2/a",
        "https://docs.example.org/3/%252e%252e/2/a",
        "https://docs.example.org/30/a",
        "https://docs.example.org/3\\..\\a",
        "https://user@docs.example.org/3/a",
        "https://docs.example.org:444/3/a",
        "http://docs.example.org/3/a",
        "https://docs.example.org.evil.org/3/a",
        "https://evil.org/https://docs.example.org/3/a",
        "file:///etc/passwd",
        "https://docs.example.org/3/a b",
        "https://docs.example.org/3/\x00",
        "https://docs.example.org/3/%25252e%25252e/2/a",
        "https://docs.example.org/3/" + "%" + "25" * 9 + "2e%2e/a",
        "https://docs.example.org/3/..;/2/a",
        "https://docs.example.org/3/..;x=1/2/a",
        "https://docs.example.org/3/%2e%2e%2f2/a",
        "https://docs.example.org/3/..%5c2/a",
        "https://docs.example.org/3/%c0%ae%c0%ae/2/a",
        "https://docs.example.org/3/%0d%0aHost:%20evil",
        "https://docs.example.org/3/%00",
        "https://docs.example.org/3/\r\nHost: evil",
        "https://docs.example.org/3/\x7f",
        "https://docs.example.org/3/\u2025/a",
        "https://docs.example.org:0/3/a",
        "https://docs.example.org:+443/3/a",
        "https://docs.example.org:443@evil.org/3/a",
        "https://docs.example.org\\@evil.org/3/a",
        "https://docs.example.org%2eevil.org/3/a",
        "https://docs.example.org%00.evil.org/3/a",
        "https://docs.example.org#@evil.org/3/a",
        "https://docs.example.org?@evil.org/3/a",
        "https:docs.example.org/3/a",
        "https:///docs.example.org/3/a",
        "//docs.example.org/3/a",
        "https://2130706433/3/a",
        "https://0x7f.1/3/a",
        "https://0177.0.0.1/3/a",
        "https://[::ffff:127.0.0.1]/3/a",
        "javascript:https://docs.example.org/3/a",
        "https://[::1",
        "",
    ],
)
def test_urls_that_look_like_it_are_refused(url: str) -> None:
    assert ask(answering(Fetch((DOCS,)), PAGE), url) == [(0, b"this URL is not allowed")]


def test_redirects_are_checked_again() -> None:
    answers = {
        "https://docs.example.org:443/3/in": Answer(302, b"", "/3/a"),
        "https://docs.example.org:443/3/out": Answer(302, b"", "http://169.254.169.254/"),
        "https://docs.example.org:443/3/loop": Answer(302, b"", "/3/loop"),
        **PAGE,
    }
    served = answering(Fetch((DOCS,), calls=50), answers)
    assert ask(served, DOCS + "in", DOCS + "out", DOCS + "loop") == [
        (200, b"page"),
        (0, b"this URL is not allowed"),
        (0, b"too many redirects"),
    ]


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1/3/a",
        "http://docs.example.org/3/a",
        "//169.254.169.254/latest/meta-data",
        "../2/a",
        "/2/a",
        "/3/%2e%2e/2/a",
        "https://docs.example.org@127.0.0.1/3/a",
        "https://docs.example.org:8443/3/a",
        "/3/a\r\nX: y",
        "file:///etc/passwd",
        "http://[",
        "\xff",
        "gopher://docs.example.org/3/a",
    ],
)
def test_a_redirect_leads_nowhere_else(location: str) -> None:
    answers = {"https://docs.example.org:443/3/r": Answer(302, b"", location), **PAGE}
    assert ask(answering(Fetch((DOCS,)), answers), DOCS + "r") == [(0, b"this URL is not allowed")]


def test_a_redirect_to_a_name_of_a_private_address_is_refused() -> None:
    fetch = Fetch((DOCS, "https://inner.example.org/"))
    answers = {"https://docs.example.org:443/3/r": Answer(302, b"", "https://inner.example.org/")}

    def resolve(host: str, port: int) -> str:
        if host.startswith("inner"):
            raise net.Refusal(f"{host} is not a public address")
        return "203.0.113.5"

    def carry(target: Target, address: str, most: int, wall: float) -> Answer:
        return answers[target.url]

    served = Broker(fetch, resolver=resolve, carrier=carry)
    assert ask(served, DOCS + "r") == [(0, b"inner.example.org is not a public address")]


def test_the_address_that_was_checked_is_the_one_connected_to() -> None:
    asked: list[str] = []
    used: list[str] = []

    def resolve(host: str, port: int) -> str:
        asked.append(host)
        return f"203.0.113.{len(asked)}"

    def carry(target: Target, address: str, most: int, wall: float) -> Answer:
        used.append(address)
        return Answer(200, b"x")

    served = Broker(Fetch((DOCS,)), resolver=resolve, carrier=carry)
    ask(served, DOCS + "a", DOCS + "b")
    assert asked == ["docs.example.org"] * 2
    assert used == ["203.0.113.1", "203.0.113.2"]


def test_calls_and_bytes_are_counted() -> None:
    served = answering(Fetch((DOCS,), calls=2, max_bytes=6), PAGE)
    assert ask(served, DOCS + "a", DOCS + "a", DOCS + "a") == [
        (200, b"page"),
        (0, b"more than 6 bytes"),
        (0, b"more than 2 calls"),
    ]


@pytest.mark.parametrize("question", [b"{}", b"nonsense", b"[" * 5000, b"\xff", b"1"])
def test_questions_without_sense_get_an_answer(question: bytes) -> None:
    assert ask(answering(Fetch((DOCS,)), PAGE), question)[0][0] == 0


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "224.0.0.1", "0.0.0.0"),
        *("100.64.0.1", "172.16.5.4", "192.0.0.8", "198.18.0.1", "240.0.0.1", "255.255.255.255"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1"),
        *("64:ff9b:1::a00:1", "2002:7f00:1::", "2001:0:7f00:1::", "2001:db8::1"),
    ],
)
def test_addresses_that_are_not_public_are_refused(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    entry = (socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 80))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [entry])  # pyright: ignore
    with pytest.raises(net.Refusal, match="not a public address"):
        net.resolve("docs.example.org", 80)


def test_one_private_address_among_several_is_enough_to_refuse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries = [
        (socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 80))
        for address in ("8.8.8.8", "127.0.0.1")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)  # pyright: ignore
    with pytest.raises(net.Refusal, match="not a public address"):
        net.resolve("docs.example.org", 80)


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f000001", "0177.1"])
def test_names_and_numbers_of_this_machine_are_refused(host: str) -> None:
    with pytest.raises(net.Refusal):
        net.resolve(host, 80)


@pytest.mark.parametrize("address", ["8.8.8.8", "::ffff:8.8.8.8", "2606:4700::1111"])
def test_addresses_that_are_public_are_taken(address: str) -> None:
    assert net.is_public(address)


@pytest.mark.parametrize(
    "arguments",
    [
        {"allow": "https://docs.example.org/"},
        {"allow": 5},
        {"allow": (5,)},
        {"allow": ("https://docs.example.org/?q=",)},
        {"allow": ("https://docs.example.org/#a",)},
        *({"max_bytes": value} for value in (0, -1, math.nan, 1.5, "1", True, 1 << 40)),
        *({"wall": value} for value in (0, -1, math.nan, math.inf, "1", None)),
        *({"calls": value} for value in (0, -1, math.nan, 1.5, None)),
    ],
)
def test_a_window_that_cannot_be_is_refused(arguments: dict[str, Any]) -> None:
    merged: dict[str, Any] = {"allow": (DOCS,), **arguments}
    with pytest.raises(BadRequest, match="Fetch"):
        Fetch(**merged)


@pytest.mark.parametrize("prefix", ["docs.example.org", "ftp://x/", "https://", "https://a/../b"])
def test_prefixes_that_are_no_urls_are_refused(prefix: str) -> None:
    with pytest.raises(BadRequest, match="allow"):
        Fetch((prefix,))


@given(st.text(max_size=40))
def test_any_text_as_a_url_is_normal_or_nothing(text: str) -> None:
    target = target_of(text)
    if target is not None:
        assert target_of(target.url) == target


class Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/ok" else 404)
        self.end_headers()
        self.wfile.write(b"hello " + self.headers["User-Agent"].encode())

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a local server, which counts as public."""
    monkeypatch.setattr(net, "is_public", lambda address: True)  # pyright: ignore
    server = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.linux
def test_a_guest_fetches_through_the_host(cells: Sandbox, server: str) -> None:
    assert cells.isolation.level == "full"
    code = (
        f"print(palaestra_fetch('{server}ok'))\n"
        f"try: palaestra_fetch('{server}no')\n"
        "except OSError as e: print(e)\n"
        "import socket\ntry: socket.create_connection(('127.0.0.1', 80))\n"
        "except OSError: print('closed')"
    )
    fetch = Fetch((server,))
    with Sandbox("cell", workers=1, limits=LONG, preload=(), network=fetch) as sandbox:
        assert sandbox.execute(code).stdout == "b'hello palaestra'\nstatus 404\nclosed\n"


@pytest.fixture
def online(cells: Sandbox, server: str) -> Iterator[Session]:
    """A session that may fetch twice a call; `url` is the server's address."""
    assert cells.isolation.level == "full"
    fetch = Fetch((server,), calls=2)
    sandbox = Sandbox("cell", workers=1, limits=LONG, preload=(), network=fetch)
    with sandbox, sandbox.session() as session:
        session.execute(f"url = '{server}'")
        yield session


@pytest.mark.linux
def test_a_session_fetches_in_every_call_and_each_has_a_budget(online: Session) -> None:
    for _ in range(2):
        result = online.execute("for _ in range(3): print(palaestra_fetch(url + 'ok'))")
        assert result.stdout == "b'hello palaestra'\n" * 2
        assert "more than 2 calls" in result.stderr
    assert "not allowed" in online.execute("palaestra_fetch('https://evil.org/')").stderr


@pytest.mark.linux
def test_a_function_kept_from_an_earlier_call_still_fetches(online: Session) -> None:
    online.execute("kept = palaestra_fetch")
    assert online.execute("kept(url + 'ok')").stdout == "b'hello palaestra'\n"


@pytest.mark.linux
def test_branches_of_a_session_fetch_too(online: Session) -> None:
    online.execute("page = palaestra_fetch(url + 'ok')")
    snapshot = online.snapshot()
    with online.fork() as branch:
        assert branch.execute("palaestra_fetch(url + 'ok') == page").stdout == "True\n"
    online.restore(snapshot)
    assert online.execute("palaestra_fetch(url + 'ok') == page").stdout == "True\n"


@pytest.mark.linux
def test_a_line_to_the_host_ends_with_its_call(online: Session) -> None:
    online.execute("import os, socket, json\nold = socket.socket(fileno=os.dup(4))")
    late = "old.sendall(json.dumps(url + 'ok').encode() + b'\\n'); old.recv(9)"
    assert "Broken pipe" in online.execute(late).stderr
    for index in range(20):
        online.execute(f"held_{index} = os.dup(4)")
    for thread in threading.enumerate():
        if thread.name == "palaestra-fetch":
            thread.join(30)
            assert not thread.is_alive()


@pytest.mark.linux
def test_an_interrupted_fetch_spoils_no_later_one(
    online: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived, go_on = threading.Event(), threading.Event()
    answer = Server.do_GET

    def slow(self: Server) -> None:
        arrived.set()
        go_on.wait(120)
        answer(self)

    with monkeypatch.context() as patched:
        patched.setattr(Server, "do_GET", slow)
        for wall in (0.5, 5.0, 50.0):  # enough for the question to arrive
            assert online.execute("palaestra_fetch(url + 'ok')", wall=wall).reason == "timeout"
            if arrived.is_set():
                break
        assert arrived.is_set()
    go_on.set()
    assert online.execute("palaestra_fetch(url + 'no')").stderr.endswith("status 404\n")
    assert online.execute("palaestra_fetch(url + 'ok')").stdout == "b'hello palaestra'\n"


@pytest.mark.linux
def test_a_sessions_shell_has_no_line_to_the_host(online: Session) -> None:
    assert online.shell("ls -l /proc/self/fd/4").exit_code != 0


@pytest.mark.linux
def test_without_it_there_is_no_such_function(cells: Sandbox) -> None:
    assert "NameError" in cells.execute("palaestra_fetch('x')").stderr


def fetches_in_a_session(sandbox: Sandbox, server: str) -> None:
    with sandbox, sandbox.session() as session:
        for _ in range(2):
            shown = session.execute(f"palaestra_fetch('{server}ok')").stdout
            assert shown == "b'hello palaestra'\n"
        assert "not allowed" in session.execute("palaestra_fetch('https://evil.org/')").stderr


@pytest.mark.linux
def test_a_session_of_the_bare_backend_fetches(server: str) -> None:
    with pytest.warns(UnsafeSandboxWarning):
        sandbox = Sandbox(
            "process", minimum="none", workers=1, limits=LONG, network=Fetch((server,))
        )
    fetches_in_a_session(sandbox, server)


@pytest.mark.slow
@pytest.mark.docker
def test_a_session_in_a_container_fetches(
    engine: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", engine)
    sandbox = Sandbox("docker", workers=1, limits=LONG, network=Fetch((server,)))
    fetches_in_a_session(sandbox, server)
