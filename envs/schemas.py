"""Type hints and docstrings as JSON schemas."""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
from collections.abc import Callable, Collection, Mapping
from enum import Enum
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from .messages import JSON

__all__ = ["SchemaError", "Signature", "hint_of", "read_docstring", "schema_of", "signature_of"]

Schema = dict[str, JSON]

_BASIC: Mapping[object, Schema] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    list: {"type": "array"},
    tuple: {"type": "array"},
    dict: {"type": "object"},
    Any: {},
}
_SCALARS = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
_HINTS: Mapping[str, Any] = {
    "integer": int,
    "number": float,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "array": list[Any],
    "object": dict[str, Any],
}
# attribute of a constraint (annotated_types, pydantic) -> key of the schema, by type of value
_BOUNDS: Mapping[str, Mapping[str, str]] = {
    "ge": dict.fromkeys(("integer", "number"), "minimum"),
    "gt": dict.fromkeys(("integer", "number"), "exclusiveMinimum"),
    "le": dict.fromkeys(("integer", "number"), "maximum"),
    "lt": dict.fromkeys(("integer", "number"), "exclusiveMaximum"),
    "multiple_of": dict.fromkeys(("integer", "number"), "multipleOf"),
    "pattern": {"string": "pattern"},
    "min_length": {"string": "minLength", "array": "minItems", "object": "minProperties"},
    "max_length": {"string": "maxLength", "array": "maxItems", "object": "maxProperties"},
}


class SchemaError(TypeError):
    """A function that cannot be offered as a tool, because its arguments cannot be described."""


class Signature(NamedTuple):
    """What a function takes, as a tool offers it.

    Attributes:
        name: the function's name.
        description: the docstring up to its first section.
        parameters: JSON schema of the arguments.
        hints: type hint of each argument, `Annotated` kept.
        required: names without a default.
        method: whether the first parameter is an unannotated `self`.
    """

    name: str
    description: str
    parameters: Schema
    hints: Mapping[str, Any]
    required: tuple[str, ...]
    method: bool


def signature_of(function: Callable[..., Any]) -> Signature:
    """Read a function's hints, defaults and Google-style docstring.

    Raises:
        SchemaError: Where a parameter has no hint, or one that JSON cannot express.

    >>> def add(a: int, b: int = 0) -> int:
    ...     '''Add two numbers.
    ...
    ...     Args:
    ...         a: the first
    ...     '''
    >>> signature_of(add).parameters["properties"]["a"], signature_of(add).required
    ({'type': 'integer', 'description': 'the first'}, ('a',))
    """
    name = getattr(function, "__name__", "tool")
    parameters = list(inspect.signature(function).parameters.values())
    empty = inspect.Parameter.empty
    method = bool(parameters) and parameters[0].name == "self" and parameters[0].annotation is empty
    description, texts = read_docstring(inspect.getdoc(function) or "")
    hints = _hints(function, name)
    taken: dict[str, Any] = {}
    properties: Schema = {}
    for parameter in parameters[method:]:
        _check(parameter, name)
        hint = taken[parameter.name] = hints[parameter.name]
        try:
            properties[parameter.name] = schema_of(hint)
        except SchemaError as error:
            raise SchemaError(f"{name}: argument {parameter.name!r}: {error}") from None
        if text := texts.get(parameter.name):
            properties[parameter.name]["description"] = text
    required = tuple(p.name for p in parameters[method:] if p.default is empty)
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = list(required)
    schema["additionalProperties"] = False
    return Signature(name, description, schema, taken, required, method)


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except NameError as error:
        raise SchemaError(
            f"{name}: a type hint cannot be read ({error}); define its name at module level"
        ) from None


def _check(parameter: inspect.Parameter, name: str) -> None:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise SchemaError(
            f"{name} takes *{parameter.name}; a tool's arguments have names: list them one by one"
        )
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise SchemaError(f"{name}: {parameter.name!r} is positional only; remove the '/'")
    if parameter.annotation is parameter.empty:
        raise SchemaError(
            f"{name}: argument {parameter.name!r} has no type hint; write `{parameter.name}: str`, "
            "or the type it has"
        )


def schema_of(hint: Any) -> Schema:
    """Return the JSON schema of one type hint, as `transformers.utils.get_json_schema` writes it.

    Beyond that function it reads `Annotated` (pydantic's `Field`, annotated_types, a plain string
    as description) and dataclasses.

    >>> schema_of(list[int] | None)
    {'type': 'array', 'items': {'type': 'integer'}, 'nullable': True}
    """
    origin: Any = get_origin(hint)
    args: Any = get_args(hint)
    if origin is Annotated:
        return _annotated(schema_of(args[0]), args[1:])
    if origin is None:
        return _bare(hint)
    if origin in (Union, types.UnionType):
        return _union(args)
    if origin is Literal:
        return _enumeration(list(args))
    if origin is list:
        return {"type": "array", "items": schema_of(args[0])}
    if origin is tuple and len(args) > 1 and ... not in args:
        return {"type": "array", "prefixItems": [schema_of(arg) for arg in args]}
    if origin is dict and args[0] is str:
        return {"type": "object", "additionalProperties": schema_of(args[1])}
    raise _refusal(hint)


def _refusal(hint: object) -> SchemaError:
    return SchemaError(
        f"got {hint!r}, which JSON cannot express; take int, float, str, bool, None, Literal, an "
        "Enum, list, dict[str, ...], tuple[A, B], a union of these, or a dataclass"
    )


def _bare(hint: Any) -> Schema:
    try:
        basic = _BASIC.get(hint)
    except TypeError:  # not hashable: no hint at all
        basic = None
    if basic is not None:
        return dict(basic)
    if not isinstance(hint, type):
        raise _refusal(hint)
    kind = cast(type[Any], hint)
    if issubclass(kind, Enum):
        return _enumeration([member.value for member in kind])
    if dataclasses.is_dataclass(kind):
        missing = dataclasses.MISSING
        fields = dataclasses.fields(kind)
        bare = [f for f in fields if f.default is missing and f.default_factory is missing]
        return _record(kind, [field.name for field in bare])
    raise _refusal(kind)


def _record(hint: type, required: list[str]) -> Schema:
    hints = get_type_hints(hint, include_extras=True)
    properties = {key: schema_of(value) for key, value in hints.items()}
    schema: Schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    schema["additionalProperties"] = False
    return schema


def _enumeration(values: list[Any]) -> Schema:
    if not values or any(type(value) not in _SCALARS for value in values):
        raise SchemaError(f"the choices {values!r} are not all text, numbers, true, false or null")
    kinds = list(dict.fromkeys(_SCALARS[type(value)] for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}


def _union(args: tuple[Any, ...]) -> Schema:
    schemas = [schema_of(arg) for arg in args if arg is not type(None)]
    schema: Schema
    if len(schemas) == 1:
        schema = schemas[0]
    elif all(s.keys() == {"type"} and isinstance(s["type"], str) for s in schemas):
        kinds = sorted({s["type"] for s in schemas})
        schema = {"type": kinds[0] if len(kinds) == 1 else kinds}
    else:
        schema = {"anyOf": schemas}
    if type(None) in args:
        schema["nullable"] = True
    return schema


def _annotated(schema: Schema, extras: tuple[Any, ...]) -> Schema:
    for extra in extras:
        if isinstance(extra, str):
            schema["description"] = extra
            continue
        if text := getattr(extra, "description", None):
            schema["description"] = text
        for constraint in getattr(extra, "metadata", (extra,)):
            _bound(schema, constraint)
    return schema


def _bound(schema: Schema, constraint: object) -> None:
    kind = schema.get("type")
    for attribute, keys in _BOUNDS.items():
        value = getattr(constraint, attribute, None)
        if value is not None and isinstance(kind, str) and kind in keys:
            schema[keys[kind]] = value


class Shortcut:
    """Says of most good values, without pydantic, that they are good as they stand."""

    __slots__ = ("bounds", "kinds", "required")

    def __init__(self, hints: Mapping[str, Any], required: Collection[str]) -> None:
        self.required = tuple(required)
        self.kinds: dict[str, type] = {}
        self.bounds: list[tuple[str, bool, float, float]] = []  # name, of its length, low, high
        for name, hint in hints.items():
            base: Any = get_args(hint)[0] if get_origin(hint) is Annotated else hint
            if base not in (str, int, float, bool):
                continue
            schema = schema_of(hint)
            low, high = ("minLength", "maxLength") if base is str else ("minimum", "maximum")
            if schema.keys() <= {"type", "description", low, high}:
                self.kinds[name] = base
                bounds = (schema.get(low, -math.inf), schema.get(high, math.inf))
                if bounds != (-math.inf, math.inf):
                    self.bounds.append((name, base is str, *bounds))

    def fits(self, values: Mapping[str, JSON]) -> bool:
        """Whether all values are there, of plain types and in bounds; False: look closer."""
        kinds = self.kinds
        for name, value in values.items():
            if type(value) is not kinds.get(name):
                return False
        for name in self.required:
            if name not in values:
                return False
        for name, length, low, high in self.bounds:
            if name in values:
                value = values[name]
                if not low <= (len(value) if length else value) <= high:
                    return False
        return True


def hint_of(schema: Mapping[str, JSON]) -> Any:
    """Return a type hint that accepts what `schema` accepts, bounds apart: for foreign schemas.

    >>> hint_of({"type": "array", "items": {"type": "integer"}})
    list[int]
    """
    if "enum" in schema:
        return Literal[tuple(schema["enum"])]
    kind: Any = schema.get("type")
    hint: Any
    if "anyOf" in schema:
        hint = _either([hint_of(part) for part in schema["anyOf"]])
    elif isinstance(kind, list):
        hint = _either([_HINTS.get(k, Any) for k in cast(list[str], kind)])
    elif kind == "array" and "items" in schema:
        hint = list[hint_of(schema["items"])]
    else:
        hint = _HINTS.get(kind, Any)
    return hint | None if schema.get("nullable") else hint


def _either(hints: list[Any]) -> Any:
    return Union[tuple(hints)]  # noqa: UP007  # the members are known only now


def read_docstring(text: str) -> tuple[str, dict[str, str]]:
    r"""Split a Google-style docstring into its description and the texts of its arguments.

    >>> read_docstring("Search.\n\nArgs:\n    query: what to\n        look for\n    k: number")
    ('Search.', {'query': 'what to look for', 'k': 'number'})
    """
    lines = text.strip().split("\n")
    heads = [i for i, line in enumerate(lines) if line.strip() in _SECTIONS]
    description = "\n".join(lines[: heads[0]] if heads else lines).strip()
    begin = next((i for i in heads if lines[i].strip() == "Args:"), None)
    if begin is None:
        return description, {}
    stop = next((i for i in heads if i > begin), len(lines))
    return description, _arguments([line for line in lines[begin + 1 : stop] if line.strip()])


_SECTIONS = frozenset(
    f"{name}:" for name in ("Args", "Returns", "Raises", "Yields", "Example", "Examples", "Note")
)


def _arguments(lines: list[str]) -> dict[str, str]:
    """Return the text of each `name: text` or `name (type): text`, deeper lines joined to it."""
    texts: dict[str, str] = {}
    name, margin = "", -1
    for line in lines:
        depth = len(line) - len(line.lstrip())
        head, colon, rest = line.strip().partition(":")
        head = head.partition(" (")[0].lstrip("*")
        if colon and head.isidentifier() and (margin < 0 or depth <= margin):
            name, margin = head, depth
            texts[name] = rest.strip()
        elif name:
            texts[name] = f"{texts[name]} {line.strip()}".strip()
    return texts
