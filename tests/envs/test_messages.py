"""Values that agents, tools and environments exchange."""

import doctest
import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from palaestra.envs import messages, pictures
from palaestra.envs.messages import Credit, Image, Message, Problem, ToolCall, ToolResult


def plain(height: int, width: int, channels: int, byte: int) -> Image:
    """A picture of one colour."""
    return Image((height, width, channels), bytes([byte]) * (height * width * channels))


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
CODES = st.sampled_from(["malformed", "unknown_tool", "failed"])
PROBLEMS = st.none() | st.builds(Problem, CODES, st.text(max_size=9), st.text(max_size=9))
IMAGES = st.builds(
    plain,
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([1, 3, 4]),
    st.integers(0, 255),
)


@st.composite
def said(draw: Any) -> Message:
    """Any message: spans are apart, in order, inside the content."""
    content = draw(st.text(max_size=20))
    cuts = sorted(draw(st.lists(st.integers(0, len(content)), max_size=6, unique=True)))
    spans = [(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False)]
    arguments = st.dictionaries(st.text(max_size=3), JSONS, max_size=2)
    calls = [
        ToolCall(f"c{i}", draw(st.text(max_size=5)), draw(arguments), span, draw(PROBLEMS))
        for i, span in enumerate(spans)
    ]
    return Message(
        draw(st.sampled_from(["system", "user", "assistant", "tool"])),
        content,
        tuple(calls),
        draw(st.none() | st.text(max_size=4)),
        tuple(draw(st.lists(IMAGES, max_size=2))),
        draw(st.text(max_size=10)),
    )


@given(said())
def test_the_openai_form_is_an_inverse_on_every_message_env_msg1(message: Message) -> None:
    row = json.loads(json.dumps(message.to_openai()))
    assert Message.from_openai(row) == message


def test_the_openai_form_does_not_say_a_call_twice() -> None:
    call = ToolCall("c0", "add", {"a": 1}, (4, 9))
    row = Message("assistant", "so: <...>", (call,)).to_openai()
    assert row["content"] == "so: "
    assert row["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}


def test_foreign_messages_are_read() -> None:
    row = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "x", "function": {"name": "f", "arguments": "{}"}}],
    }
    assert Message.from_openai(row) == Message("assistant", "", (ToolCall("x", "f", {}, (0, 0)),))


@pytest.mark.parametrize("arguments", ["{oops", "[1]"])
def test_foreign_arguments_that_are_no_object_become_a_problem(arguments: str) -> None:
    row = {"role": "assistant", "content": "", "tool_calls": [
        {"id": "x", "function": {"name": "f", "arguments": arguments}}]}  # fmt: skip
    [call] = Message.from_openai(row).calls
    assert call.problem is not None
    assert call.problem.code == "malformed"


def test_values_compare_hash_and_pickle() -> None:
    values = [
        Problem("failed", "a", "b"),
        ToolResult("c0", "x", True),
        Credit("success", 1.0, "c0"),
        Image((1, 1, 3), b"abc"),
    ]
    for value in values:
        assert pickle.loads(pickle.dumps(value)) == value
        assert hash(value) == hash(pickle.loads(pickle.dumps(value)))


def test_a_problem_reads_as_detail_and_hint() -> None:
    assert Problem("failed", "It broke.", "Mend it.").text == "It broke. Mend it."
    assert Problem("failed", "It broke.").text == "It broke."


def test_a_picture_is_a_copy_of_an_array() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    image = Image.of(array)
    array[:] = 0
    assert image.array[1, 3, 2] == 23
    assert Image.of(array[:, :, 0]).shape == (2, 4, 1)


@pytest.mark.parametrize("array", [np.zeros((2, 2, 3)), np.zeros((2, 2, 2), np.uint8)])
def test_other_arrays_are_no_pictures(array: Any) -> None:
    with pytest.raises(ValueError, match="give uint8 of shape"):
        Image.of(array)


@pytest.mark.parametrize("url", ["http://x/y.png", "data:image/jpeg;base64,AA=="])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="give a data URL"):
        pictures.from_data_url(url)


def test_the_examples_of_the_docstrings_hold() -> None:
    assert doctest.testmod(messages).failed == 0
