"""Texts and schemas as spaces."""

import doctest
import json
import pickle
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces as gym
from gymnasium.spaces import utils
from gymnasium.vector.utils import batch_space
from hypothesis import given
from hypothesis import strategies as st
from palaestra.envs import spaces, text_space
from palaestra.envs.spaces import TextSpace, codec_of, space_of

INT = {"type": "integer"}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(TEXTS)
def test_every_text_that_utf8_can_hold_is_inside(text: str) -> None:
    space = TextSpace(8)
    assert text in space
    flat: Any = utils.flatten(space, text)
    assert utils.unflatten(space, flat) == text


@pytest.mark.parametrize("value", ["\ud800", "x" * 9, 3, None, b"x", ["x"]])
def test_other_values_are_outside(value: Any) -> None:
    assert value not in TextSpace(8)


def test_a_shortest_length_is_kept() -> None:
    space = TextSpace(8, min_length=3, seed=0)
    assert "ab" not in space
    assert all(space.sample() in space for _ in range(50))


def test_samples_are_half_examples_and_depend_on_the_seed() -> None:
    space = TextSpace(100, examples=["alpha", "x" * 101])
    space.seed(3)
    drawn = [space.sample() for _ in range(200)]
    space.seed(3)
    assert drawn == [space.sample() for _ in range(200)]
    assert 60 < drawn.count("alpha") < 140
    assert max(map(len, drawn)) <= 64
    assert space.examples == ("alpha",)


def test_a_length_can_be_asked_for_and_characters_cannot_be_masked() -> None:
    space = TextSpace(10, seed=0)
    assert len(space.sample((4, None))) == 4
    with pytest.raises(ValueError, match="no mask of characters"):
        space.sample((4, np.ones(3, np.int8)))


def test_text_spaces_compare_pickle_copy_and_batch() -> None:
    space = TextSpace(10, examples=["a"])
    assert space == TextSpace(10) != TextSpace(11)
    assert hash(space) == hash(TextSpace(10))
    for copy in (pickle.loads(pickle.dumps(space)), deepcopy(space)):
        assert copy == space
        assert "é" in copy
        assert copy.examples == ("a",)
    assert ("a", "é") in batch_space(space, 2)
    assert utils.flatdim(space) == 10


SCHEMAS: list[tuple[Any, Any]] = [
    ({"type": "boolean"}, gym.Discrete(2)),
    ({"enum": ["a", "b", 3]}, gym.Discrete(3)),
    ({"const": "x"}, gym.Discrete(1)),
    ({"type": "null"}, gym.Discrete(1)),
    ({**INT, "minimum": 1, "maximum": 6}, gym.Discrete(6, start=1)),
    ({**INT, "exclusiveMinimum": 0, "exclusiveMaximum": 3}, gym.Discrete(2, start=1)),
    ({**INT, "minimum": 0}, gym.Box(0, 2**53, (1,), np.int64)),
    ({"type": "number", "minimum": -1, "maximum": 1}, gym.Box(-1, 1, (1,), np.float32)),
    ({"type": "string", "maxLength": 5}, TextSpace(5)),
    ({"type": "string"}, TextSpace(2048)),
    ({"type": "array", "items": {"type": "boolean"}}, gym.Sequence(gym.Discrete(2))),
    ({"type": "object", "properties": {}}, gym.Discrete(1)),
    ({"type": ["integer", "null"], "minimum": 0, "maximum": 1},
     gym.OneOf((gym.Discrete(2), gym.Discrete(1)))),
    ({"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "boolean"}},
      "required": ["a"]},
     gym.Dict({"a": gym.Discrete(2), "b": gym.OneOf((gym.Discrete(1), gym.Discrete(2)))})),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, TextSpace(2048)),
    ({}, TextSpace(2048)),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "space"), SCHEMAS)
def test_each_kind_of_schema_has_its_space(schema: Any, space: Any) -> None:
    assert space_of(schema) == space


@pytest.mark.parametrize("schema", [schema for schema, _ in SCHEMAS])
def test_decoding_never_fails_and_encoding_is_its_inverse_env_space2_3(schema: Any) -> None:
    codec = codec_of(schema)
    space = codec.space()
    space.seed(1)
    for _ in range(30):
        value = codec.decode(space.sample())
        json.dumps(value)
        member = codec.encode(value)
        assert member in space
        assert codec.decode(member) == value


def test_references_are_followed() -> None:
    schema = {
        "type": "object",
        "properties": {"p": {"$ref": "#/$defs/Point"}},
        "required": ["p"],
        "$defs": {
            "Point": {"type": "object", "properties": {"x": {**INT, "minimum": 0, "maximum": 3}},
                      "required": ["x"]}
        },
    }  # fmt: skip
    assert codec_of(schema).decode({"p": {"x": np.int64(2)}}) == {"p": {"x": 2}}


def test_a_number_stays_inside_its_bounds_though_float32_rounds() -> None:
    codec = codec_of({"type": "number", "minimum": 0, "maximum": 0.1})
    assert codec.decode(np.array([0.1], np.float32)) == 0.1
    step = codec_of({"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25})
    assert step.decode(np.array([0.3], np.float32)) == 0.25


def test_a_value_outside_an_enum_is_named() -> None:
    with pytest.raises(ValueError, match="'z' is none of"):
        codec_of({"enum": ["a"]}).encode("z")


def test_true_is_not_one() -> None:
    codec = codec_of({"enum": [1, True]})
    assert codec.decode(codec.encode(True)) is True
    assert codec.decode(codec.encode(1)) == 1


def test_the_examples_of_the_docstrings_hold() -> None:
    assert doctest.testmod(spaces).failed == 0
    assert doctest.testmod(text_space).failed == 0
