"""JSON schemas as Gymnasium spaces."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from gymnasium import Space

from .encoding import TEXT, Anything, Codec, Listed, Listing, Real, Record, Union, Whole, Words
from .messages import JSON
from .text_space import TextSpace

__all__ = ["Codec", "TextSpace", "codec_of", "space_of"]

Schema = Mapping[str, JSON]
SAFE = 1 << 53  # integers beyond have no exact JSON number in many readers


def space_of(schema: Schema) -> Space[Any]:
    """Returns a new space of the values a JSON schema allows.

    Example:
        >>> space_of({"type": "integer", "minimum": 1, "maximum": 6})
        Discrete(6, start=1)
    """
    return codec_of(schema).space()


def codec_of(schema: Schema, root: Schema | None = None) -> Codec:
    """Returns the codec of a JSON schema.

    Args:
        schema: the schema; `pattern` and `format` bound no type: they are left to validation.
        root: where `$ref` looks; by default `schema` itself.
    """
    root = schema if root is None else root
    if "$ref" in schema:
        return codec_of(referred(root, schema["$ref"]), root)
    if "const" in schema:
        return Listed((schema["const"],))
    if "enum" in schema:
        return Listed(tuple(schema["enum"]))
    kind = schema.get("type")
    branches = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(kind, list):
        branches = [{**schema, "type": each} for each in cast(list[str], kind)]
    if branches:
        return Union(tuple(codec_of(branch, root) for branch in branches))
    if kind == "boolean":
        return Listed((False, True))
    if kind == "null":
        return Listed((None,))
    if kind in ("integer", "number"):
        return bounded_number(schema, kind)
    if kind == "string":
        return Words(int(schema.get("minLength", 0)), int(schema.get("maxLength", TEXT)))
    if kind == "array":
        item = codec_of(schema.get("items") or {}, root)
        return Listing(item, int(schema.get("minItems", 0)), schema.get("maxItems"))
    if kind == "object":
        return record(schema, root)
    return Anything()


def referred(root: Schema, reference: str) -> Schema:
    """Returns the schema a local `$ref` points to."""
    found: Any = root
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


def bounded_number(schema: Schema, kind: str) -> Codec:
    """Returns the codec of an integer or a number."""
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if kind == "integer":
        low = -SAFE if low is None else math.ceil(low)
        high = SAFE if high is None else math.floor(high)
        low = low if above is None else max(low, math.floor(above) + 1)
        high = high if below is None else min(high, math.ceil(below) - 1)
        return Whole(low, high)
    low = -math.inf if low is None else float(low)
    high = math.inf if high is None else float(high)
    low = low if above is None else max(low, math.nextafter(above, math.inf))
    high = high if below is None else min(high, math.nextafter(below, -math.inf))
    return Real(low, high, schema.get("multipleOf"))


def record(schema: Schema, root: Schema) -> Codec:
    """Returns the codec of an object."""
    properties: Mapping[str, Schema] = schema.get("properties") or {}
    extra = schema.get("additionalProperties")
    if not properties and isinstance(extra, Mapping | bool) and extra is not False:
        return Anything({})
    required: Sequence[str] = schema.get("required") or ()
    return Record(tuple((n, codec_of(s, root), n in required) for n, s in properties.items()))
