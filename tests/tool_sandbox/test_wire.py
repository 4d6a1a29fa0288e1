from __future__ import annotations

import os
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from palaestra.tool_sandbox import wire
from palaestra.tool_sandbox.pieces import Collector

texts = st.text(max_size=20)
orders = st.builds(
    wire.Order,
    code=st.binary(max_size=200),
    wall=st.floats(0.1, 100),
    cpu=st.integers(1, 1 << 31),
    open_files=st.integers(1, 1 << 31),
    output=st.integers(1, 1 << 40),
    output_stop=st.integers(1, 1 << 40),
    mode=st.integers(0, 4),
    language=st.integers(0, 1),
    flags=st.integers(0, 15),
    seed=st.integers().map(lambda n: str(n).encode()),
    stdin=st.binary(max_size=50),
    payload=st.binary(max_size=50),
    files=st.lists(st.tuples(texts, st.binary(max_size=20)), max_size=4).map(tuple),
    fetch=st.lists(texts, max_size=4).map(tuple),
)


@given(orders)
def test_an_order_comes_back_as_it_went(order: wire.Order) -> None:
    assert wire.unpack_order(wire.pack_order(order)) == order


@given(
    st.binary(max_size=50), st.binary(max_size=50), st.binary(max_size=50), st.integers(-65, 255)
)
def test_an_ending_comes_back_as_it_went(out: bytes, err: bytes, rows: bytes, status: int) -> None:
    ending = wire.Ending(1, status, out, err, len(out), len(err) + 3, 1.5, 0.25, 1024, 1, rows)
    order = wire.Order(b"", output=50, flags=wire.ROWS)
    assert wire.unpack_ending(wire.pack_ending(ending), order) == ending


@given(st.binary(max_size=300))
def test_any_bytes_as_an_ending_parse_or_are_malformed(data: bytes) -> None:
    try:
        wire.unpack_ending(data, wire.Order(b""))
    except wire.Malformed:
        return


@given(st.binary(max_size=300))
def test_any_bytes_as_a_structured_body_parse_or_are_malformed(data: bytes) -> None:
    try:
        wire.unpack_json(data)
    except wire.Malformed:
        return


@given(st.binary(max_size=300))
def test_any_bytes_as_a_stream_of_frames_parse_or_are_malformed(data: bytes) -> None:
    pieces = wire.Assembler()
    try:
        for index in range(0, len(data), 7):
            pieces.feed(data[index : index + 7])
    except wire.Malformed:
        return


@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(1, 30))
def test_frames_survive_being_cut_anywhere(bodies: list[bytes], size: int) -> None:
    data = b"".join(wire.pack(wire.RUN, i, body) for i, body in enumerate(bodies))
    pieces, found = wire.Assembler(), list[wire.Frame]()
    for index in range(0, len(data), size):
        found += pieces.feed(data[index : index + size])
    assert found == [wire.Frame(wire.RUN, i, body) for i, body in enumerate(bodies)]


@pytest.mark.parametrize(
    "head",
    [
        b"XX\x01\x02" + bytes(8),
        b"PA\x02\x02" + bytes(8),
        b"PA\x01\x02" + bytes(4) + b"\xff\xff\xff\xff",
        b"PA\x01",
    ],
)
def test_a_wrong_head_is_malformed(head: bytes) -> None:
    with pytest.raises(wire.Malformed):
        wire.head(head)


def test_an_ending_with_more_output_than_was_asked_for_is_malformed() -> None:
    ending = wire.Ending(0, 0, b"x" * 11, b"", 11, 0)
    with pytest.raises(wire.Malformed):
        wire.unpack_ending(wire.pack_ending(ending), wire.Order(b"", output=10))


def test_rows_that_nobody_asked_for_are_malformed() -> None:
    ending = wire.Ending(0, 0, rows=b"x")
    with pytest.raises(wire.Malformed):
        wire.unpack_ending(wire.pack_ending(ending), wire.Order(b""))


def test_json_nested_too_deep_is_malformed() -> None:
    text = b'{"a":' + b"[" * 200 + b"]" * 200 + b"}"
    body = b"\x01\x00" + len(text).to_bytes(4, "little") + text
    with pytest.raises(wire.Malformed, match="deep"):
        wire.unpack_json(body)


def test_a_collector_refuses_files_nobody_asked_for_and_too_much() -> None:
    collector = Collector(2, 10)
    collector.take(wire.pack_piece(1, b"abc"))
    collector.take(wire.pack_piece(1, b"def"))
    assert bytes(collector.files[1]) == b"abcdef"
    for piece in (wire.pack_piece(0, b""), wire.pack_piece(2, b""), wire.pack_piece(1, b"12345")):
        with pytest.raises(wire.Malformed):
            Collector(2, 3).take(piece) if piece[0] == 1 else collector.take(piece)


def test_descriptors_travel_with_the_first_bytes_of_a_long_frame() -> None:
    left, right = socket.socketpair()
    read, write = os.pipe()
    with left, right:
        left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        wire.send_fds(left, wire.pack(wire.RUN, 1, b"x" * 100_000), [write])
        os.close(write)
        frame, fds = wire.read_frame_fds(right, 4)
        assert len(frame.body) == 100_000
        os.write(fds[0], b"hi")
        os.close(fds[0])
        assert os.read(read, 10) == b"hi"
    os.close(read)


def test_a_closed_line_is_a_hang_up() -> None:
    left, right = socket.socketpair()
    left.sendall(b"PA")
    left.close()
    with right, pytest.raises(wire.Hangup):
        wire.read_frame(right)


def test_a_long_list_and_brackets_in_names_are_not_depth() -> None:
    value = {"entries": [["[{" * 200 + '\\"[', "file", 1] for _ in range(5000)]}
    assert wire.unpack_json(wire.pack_json(value))[0] == value


def test_depth_of_hostile_text_is_told_in_linear_time() -> None:
    for text in (b'"' + b'\\"' * 4_000_000, b'"' * 3_000_001, b"[]" * 4_000_000, b"[" * 101):
        body = struct.pack("<HI", 1, len(text)) + text
        with pytest.raises(wire.Malformed):
            wire.unpack_json(body)
