from __future__ import annotations

import json
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from palaestra.tool_sandbox import BadRequest, Fetch, Sandbox
from palaestra.tool_sandbox import network as net
from palaestra.tool_sandbox.network import Answer, Broker, Target, target_of

DOCS = "https://docs.example.org/3/"


def ask(broker: Broker, *questions: str | bytes) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    with socket.socket(fileno=broker.open()) as line, line.makefile("rb") as answers:
        for question in questions:
            data = question if isinstance(question, bytes) else json.dumps(question).encode()
            line.sendall(data + b"\n")
            head = json.loads(answers.readline())
            found.append((head["status"], answers.read(head["length"])))
    return found


def broker(fetch: Fetch, answers: dict[str, Answer]) -> Broker:
    def carry(target: Target, address: str, most: int, wall: float) -> Answer:
        return answers[target.url]

    return Broker(fetch, resolver=lambda host, port: "203.0.113.5", carrier=carry)


PAGE = {"https://docs.example.org:443/3/a": Answer(200, b"page")}


def test_what_is_allowed_is_fetched_and_nothing_else() -> None:
    served = broker(Fetch((DOCS,)), PAGE)
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
        "https://[::1",
        "",
    ],
)
def test_urls_that_look_like_it_are_refused(url: str) -> None:
    assert ask(broker(Fetch((DOCS,)), PAGE), url) == [(0, b"this URL is not allowed")]


def test_redirects_are_checked_again() -> None:
    answers = {
        "https://docs.example.org:443/3/in": Answer(302, b"", "/3/a"),
        "https://docs.example.org:443/3/out": Answer(302, b"", "http://169.254.169.254/"),
        "https://docs.example.org:443/3/loop": Answer(302, b"", "/3/loop"),
        **PAGE,
    }
    served = broker(Fetch((DOCS,)), answers)
    assert ask(served, DOCS + "in", DOCS + "out", DOCS + "loop") == [
        (200, b"page"),
        (0, b"this URL is not allowed"),
        (0, b"too many redirects"),
    ]


def test_calls_and_bytes_are_counted() -> None:
    served = broker(Fetch((DOCS,), calls=2, max_bytes=6), PAGE)
    assert ask(served, DOCS + "a", DOCS + "a", DOCS + "a") == [
        (200, b"page"),
        (0, b"more than 6 bytes"),
        (0, b"more than 2 calls"),
    ]


@pytest.mark.parametrize("question", [b"{}", b"nonsense", b"[" * 5000, b"\xff", b"1"])
def test_questions_without_sense_get_an_answer(question: bytes) -> None:
    assert ask(broker(Fetch((DOCS,)), PAGE), question)[0][0] == 0


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "::1", "fe80::1", "224.0.0.1"],
)
def test_addresses_that_are_not_public_are_refused(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    entry = (socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 80))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [entry])  # pyright: ignore
    with pytest.raises(net.Refusal, match="not a public address"):
        net.resolve("docs.example.org", 80)


def test_a_cassette_records_and_replays(tmp_path: Path) -> None:
    fetch = Fetch((DOCS,), cassette=tmp_path / "tape")
    assert ask(broker(fetch, PAGE), DOCS + "a") == [(200, b"page")]
    assert ask(broker(fetch, {}), DOCS + "a") == [(200, b"page")]


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


@pytest.mark.linux
def test_a_guest_fetches_through_the_host(cells: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cells.isolation.level == "full"
    server = HTTPServer(("127.0.0.1", 0), Server)
    port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(net, "is_public", lambda address: True)  # pyright: ignore
    fetch = Fetch((f"http://127.0.0.1:{port}/",))
    try:
        with Sandbox("cell", workers=1, preload=(), network=fetch) as sandbox:
            code = (
                f"print(palaestra_fetch('http://127.0.0.1:{port}/ok'))\n"
                f"try: palaestra_fetch('http://127.0.0.1:{port}/no')\n"
                "except OSError as e: print(e)\n"
                "import socket\ntry: socket.create_connection(('127.0.0.1', 80))\n"
                "except OSError: print('closed')"
            )
            result = sandbox.execute(code)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert result.stdout == "b'hello palaestra'\nstatus 404\nclosed\n"
    assert os.getpid()


@pytest.mark.linux
def test_without_it_there_is_no_such_function(cells: Sandbox) -> None:
    assert "NameError" in cells.execute("palaestra_fetch('x')").stderr
