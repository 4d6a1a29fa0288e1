"""Type hints and docstrings as JSON schemas."""

from __future__ import annotations

import copy
import doctest
import functools
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, Optional, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st
from palaestra.envs import schemas
from palaestra.envs.schemas import SchemaError, hint_of, schema_of, signature_of
from pydantic import Field


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: float
    y: float = 0.0


def plain(query: str, k: int = 3, deep: bool = False, near: float = 1.0) -> str:
    """Search the library.

    It is a large one.

    Args:
        query: what to look for,
            in words
        k: number of passages
        deep: search the text, too
        near: how near

    Returns:
        the passages
    """
    return query * k


def containers(
    names: list[str],
    table: dict[str, int],
    pair: tuple[int, str],
    rows: list[dict[str, list[float]]],
    anything: Any,
    bare: list,  # pyright: ignore[reportMissingTypeArgument, reportUnknownParameterType]
) -> None:
    """Take containers.

    Args:
        names: a
        table: b
        pair: c
        rows: d
        anything: e
        bare: f
    """


def unions(
    maybe: int | None,
    old: Optional[str],  # noqa: UP045
    either: Union[int, str],  # noqa: UP007
    mixed: int | list[str],
    choice: Literal["a", "b"],
    both: Literal[1, "b"],
    colour: Colour,
    perhaps: Literal["a"] | None = None,
) -> None:
    """Take unions.

    Args:
        maybe: a
        old: b
        either: c
        mixed: d
        choice: e
        both: f
        colour: g
        perhaps: h
    """


def nothing() -> str:
    """Say hello."""
    return "hello"


FUNCTIONS: list[Any] = [plain, containers, unions, nothing]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_schema_is_that_of_transformers(function: Any) -> None:
    utils = pytest.importorskip("transformers.utils")
    theirs = copy.deepcopy(utils.get_json_schema(function))["function"]
    theirs.pop("return", None)  # servers refuse the key, and templates pass it over
    ours = signature_of(function)
    parameters = dict(ours.parameters)
    assert parameters.pop("additionalProperties") is False
    mine = {"name": ours.name, "description": ours.description, "parameters": parameters}
    assert mine == theirs


hints = st.recursive(
    st.sampled_from([int, float, str, bool, Any, Literal["a", "b"], Literal[1, 2], Colour]),
    lambda inner: st.one_of(
        inner.map(lambda h: list[h]),
        inner.map(lambda h: dict[str, h]),
        inner.map(lambda h: h | None if h is not Any else h),
        st.tuples(inner, inner).map(lambda pair: tuple[pair]),
    ),
    max_leaves=5,
)


@given(hints)
def test_any_hint_that_transformers_reads_gives_its_schema(hint: Any) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    assert schema_of(hint) == utils._parse_type_hint(hint)


def test_defaults_make_arguments_optional_and_no_others_pass() -> None:
    read = signature_of(plain)
    assert read.required == ("query",)
    assert read.parameters["required"] == ["query"]
    assert read.parameters["additionalProperties"] is False
    assert "required" not in signature_of(nothing).parameters


def test_bounds_come_from_annotated() -> None:
    assert schema_of(Annotated[int, Field(ge=1, le=10)]) == {
        "type": "integer",
        "minimum": 1,
        "maximum": 10,
    }
    assert schema_of(Annotated[str, Field(min_length=1, max_length=5, pattern="a+")]) == {
        "type": "string",
        "minLength": 1,
        "maxLength": 5,
        "pattern": "a+",
    }
    assert schema_of(Annotated[list[int], Field(max_length=2, description="two")]) == {
        "type": "array",
        "items": {"type": "integer"},
        "maxItems": 2,
        "description": "two",
    }
    assert schema_of(Annotated[float, Field(gt=0, lt=1), "a share"]) == {
        "type": "number",
        "exclusiveMinimum": 0,
        "exclusiveMaximum": 1,
        "description": "a share",
    }


def test_records_become_objects() -> None:
    assert schema_of(list[Point])["items"] == {
        "type": "object",
        "properties": {"x": {"type": "number"}, "y": {"type": "number"}},
        "required": ["x"],
        "additionalProperties": False,
    }


def test_self_is_no_argument() -> None:
    class Env:
        def go(self, where: str) -> str:
            """Go."""
            return where

    read = signature_of(Env.go)
    assert read.method
    assert list(read.hints) == ["where"]
    assert not signature_of(plain).method


def no_hint(a) -> None:  # pyright: ignore[reportMissingParameterType, reportUnknownParameterType]
    pass


def many(*a: int) -> None:
    pass


def only(a: int, /) -> None:
    pass


def odd(a: functools.partial[int]) -> None:
    pass


def empty(a: Literal[b"x"]) -> None:
    pass


REFUSED: list[tuple[Any, str]] = [
    (no_hint, "'a' has no type hint; write `a: str`"),
    (many, r"takes \*a; a tool's arguments have names"),
    (only, "'a' is positional only"),
    (odd, "argument 'a': got .*partial.* take int, float"),
    (empty, "the choices .* are not all text"),
]


@pytest.mark.parametrize(("function", "words"), REFUSED)
def test_what_json_cannot_say_is_refused(function: Any, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        signature_of(function)


def test_a_hint_whose_name_is_unknown_is_refused() -> None:
    def lost(a: Nowhere) -> None:  # type: ignore  # noqa: F821
        pass

    with pytest.raises(SchemaError, match="define its name at module level"):
        signature_of(lost)  # pyright: ignore[reportUnknownArgumentType]


def test_the_docstring_gives_descriptions_in_either_google_style() -> None:
    text = "Do it.\n\nMore.\n\nArgs:\n  a (int): one:\n    and on\n  b: two\n\nRaises:\n  E: x"
    assert schemas.read_docstring(text) == (
        "Do it.\n\nMore.",
        {"a": "one: and on", "b": "two"},
    )
    assert schemas.read_docstring("") == ("", {})


@given(st.text())
def test_any_docstring_can_be_read(text: str) -> None:
    schemas.read_docstring(text)
    schemas.read_docstring(f"A.\n\nArgs:\n{text}")


@pytest.mark.parametrize("hint", [int, str, bool, list[int], int | None, Literal["a", 1]])
def test_a_foreign_schema_gives_a_hint_with_that_schema(hint: Any) -> None:
    assert schema_of(hint_of(schema_of(hint))) == schema_of(hint)


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(schemas).failed == 0
