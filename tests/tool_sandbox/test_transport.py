"""One GET against servers that misbehave: cut off at the wall, at the budget, in the middle."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import socket
import threading

import pytest
from palaestra.tool_sandbox import network as net
from palaestra.tool_sandbox.cassette import Answer
from palaestra.tool_sandbox.network import Target


class Talker:
    """A server that says what it is told to, then goes on for as long as it is listened to."""

    def __init__(self, head: bytes, drip: bytes = b"") -> None:
        self._head, self._drip = head, drip
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        left = threading.Event()
        with contextlib.suppress(OSError), self._listener.accept()[0] as line:
            line.recv(1 << 16)
            line.sendall(self._head)
            while self._drip and not left.wait(0.01):
                line.sendall(self._drip)

    def get(self, most: int, wall: float) -> Answer:
        try:
            return net.transport(
                Target("http", "127.0.0.1", self.port, "/", ""), "127.0.0.1", most, wall
            )
        finally:
            with contextlib.suppress(OSError):  # also where nobody came: it waits no longer
                self._listener.shutdown(socket.SHUT_RDWR)
            self._thread.join()
            self._listener.close()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("head", "drip"),
    [
        (b"", b"H"),
        (OK, b"X-A: b\r\n"),
        (OK + b"X-A: ", b"a"),
        (OK + b"\r\n", b"x"),
        (OK + b"Content-Length: 1000000\r\n\r\n", b"x"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"T: x\r\n"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["status", "headers", "header", "body", "length", "chunks", "trailers", "continue"],
)
def test_a_server_that_goes_on_for_ever_is_cut_off(head: bytes, drip: bytes) -> None:
    with pytest.raises((TimeoutError, http.client.HTTPException)):
        Talker(head, drip).get(1 << 20, 0.2)


def test_more_than_the_budget_is_not_read() -> None:
    answer = Talker(OK + b"\r\n", b"x" * (1 << 16)).get(100_000, 30.0)
    assert 100_000 < len(answer.body) <= 100_000 + (1 << 16)


@pytest.mark.parametrize(
    "head",
    [
        OK + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
        OK + b"X: a\r\n" * 5_000 + b"\r\n",
        OK + b"Content-Length: 10\r\n\r\nshort",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        OK + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        b"\x16\x03\x01\x00\xa5nonsense\r\n\r\n",
        b"",
    ],
    ids=["long header", "many headers", "cut", "cut chunk", "no chunk", "noise", "nothing"],
)
def test_an_answer_that_is_no_whole_answer_is_none(head: bytes) -> None:
    with pytest.raises((OSError, http.client.HTTPException, ValueError)):
        Talker(head).get(1 << 20, 30.0)


def test_what_is_packed_stays_packed() -> None:
    bomb = gzip.compress(b"\0" * (1 << 24))
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    assert Talker(head + bomb).get(1 << 20, 30.0).body == bomb


def test_no_proxy_and_no_cookie_of_ours_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/")
    assert Talker(OK + b"Content-Length: 2\r\n\r\nok").get(10, 30.0).body == b"ok"
