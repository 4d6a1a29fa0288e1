"""Typed settings from plain tables: help, bounds and nearest names of frozen dataclasses."""

from __future__ import annotations

import difflib
import functools
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, Literal, NamedTuple, cast, get_args, get_origin, get_type_hints


class ConfigError(ValueError):
    """A setting that cannot be used; the text says what was got, what was wanted, what to do."""


class Bounds(NamedTuple):
    """The numbers a setting may take; ``above`` and ``below`` are not taken themselves."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def hold(self, value: float) -> bool:
        """Whether ``value`` is finite and within the bounds."""
        return (isinstance(value, int) or math.isfinite(value)) and not (
            (self.low is not None and value < self.low)
            or (self.high is not None and value > self.high)
            or (self.above is not None and value <= self.above)
            or (self.below is not None and value >= self.below)
        )

    def __str__(self) -> str:
        signs = ((">=", self.low), (">", self.above), ("<=", self.high), ("<", self.below))
        parts = [f"{sign} {bound:g}" for sign, bound in signs if bound is not None]
        return " and ".join(parts) or "finite"


class Marker(NamedTuple):
    """A word about a field: ``open`` takes every other key of its table, ``hidden`` is unlisted."""

    name: Literal["open", "hidden"]


OPEN = Marker("open")
HIDDEN = Marker("hidden")


class Leaf(NamedTuple):
    """One setting: its dotted key, type, default, help and bounds."""

    key: str
    type: Any
    default: Any
    help: str
    bounds: Bounds | None = None
    hidden: bool = False

    @property
    def wanted(self) -> str:
        """The type in words, with its bounds."""
        words = _words(self.type)
        return f"{words} {self.bounds}" if self.bounds else words


class Schema(NamedTuple):
    """The settings of one dataclass tree: leaves by dotted key, and its open tables."""

    leaves: Mapping[str, Leaf]
    open: Mapping[str, str]  # dotted table -> name of the field that takes the other keys


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in get_args(kind))
    if get_origin(kind) is tuple:
        inside = get_args(kind)
        if inside[-1] is Ellipsis:
            return "a list of tables"
        return f"a list of {len(inside)} numbers"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return names.get(kind, str(kind))


def _default(item: Field[Any]) -> Any:
    if item.default is not MISSING:
        return item.default
    return item.default_factory() if item.default_factory is not MISSING else MISSING


@functools.cache
def schema(tree: type, prefix: str = "") -> Schema:
    """The settings of a dataclass: fields that are ``Annotated`` or dataclasses themselves.

    Args:
        tree: a dataclass; a field without ``Annotated`` that is no dataclass is no setting.
        prefix: dotted table the dataclass stands in, with its closing dot.
    """
    leaves: dict[str, Leaf] = {}
    tables: dict[str, str] = {}
    hints = get_type_hints(tree, include_extras=True)
    for item in fields(tree):
        hint = hints[item.name]
        if isinstance(hint, type) and is_dataclass(hint):
            inner = schema(hint, f"{prefix}{item.name}.")
            leaves.update(inner.leaves)
            tables.update(inner.open)
        elif get_origin(hint) is Annotated:
            kind, *notes = get_args(hint)
            if OPEN in notes:
                tables[prefix] = item.name
                continue
            bounds = next((note for note in notes if isinstance(note, Bounds)), None)
            key = prefix + item.name
            leaves[key] = Leaf(
                key, kind, _default(item), str(notes[0]), bounds, hidden=HIDDEN in notes
            )
    return Schema(leaves, tables)


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys; lists stay whole.

    >>> flatten({"env": {"reward": {"tests": 0}}, "seed": 1})
    {'env.reward.tests': 0, 'seed': 1}
    """
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            flat.update(flatten(cast(Mapping[str, Any], value), f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested tables; the inverse of ``flatten``.

    Raises:
        ConfigError: one key is a value and a table at once.
    """
    root: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        table = root
        for name in path:
            inner: object = table.setdefault(name, {})
            if not isinstance(inner, dict):
                raise ConfigError(f'"{key}" is inside "{name}", which has a value of its own')
            table = cast(dict[str, Any], inner)
        table[last] = value
    return root


def nearest(name: str, known: Iterable[str]) -> str:
    """`` Did you mean "..."?`` with the nearest known name, or nothing."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not close:
        tails = {key.rpartition(".")[2]: key for key in reversed(names)}
        match = difflib.get_close_matches(name.rpartition(".")[2], list(tails), n=1, cutoff=0.75)
        close = [tails[found] for found in match]
    return f' Did you mean "{close[0]}"?' if close else ""


def unknown(key: str, known: Sequence[str], source: str) -> ConfigError:
    """The error for a key that no table has."""
    hint = nearest(key, known)
    if not hint:
        section = key.partition(".")[0] + "."
        inside = [name for name in known if name.startswith(section)]
        listed = inside or sorted({name.partition(".")[0] for name in known})
        hint = " Known here: " + ", ".join(listed) + "."
    return ConfigError(f'{source}: unknown key "{key}".{hint}')


def _refuse(leaf: Leaf, value: object, source: str) -> ConfigError:
    shown = f'"{value}"' if isinstance(value, str) else repr(value)
    hint = ""
    if get_origin(leaf.type) is Literal and isinstance(value, str):
        hint = nearest(value, [str(choice) for choice in get_args(leaf.type)])
    kind = {True: "true", False: "false"}[value] if isinstance(value, bool) else shown
    return ConfigError(f"{source}: {leaf.key} is {kind}; give {leaf.wanted} ({leaf.help}).{hint}")


def checked(leaf: Leaf, value: Any, source: str) -> Any:
    """``value`` of a TOML file as the leaf's type.

    Raises:
        ConfigError: it has another type or is out of bounds.
    """
    kind = leaf.type
    if get_origin(kind) is Literal:
        fits = value in get_args(kind)
    elif get_origin(kind) is tuple:
        return _checked_list(leaf, value, source)
    elif kind is bool or kind is str:
        fits = isinstance(value, kind)
    elif kind is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        value = float(value) if fits else value
    else:
        fits = isinstance(value, int) and not isinstance(value, bool)
    if not fits or (leaf.bounds is not None and not leaf.bounds.hold(value)):
        raise _refuse(leaf, value, source)
    return value


def _checked_list(leaf: Leaf, value: Any, source: str) -> tuple[Any, ...]:
    inside = get_args(leaf.type)
    open_end = inside[-1] is Ellipsis
    if not isinstance(value, list | tuple):
        raise _refuse(leaf, value, source)
    items = tuple(cast(Sequence[Any], value))
    kinds = inside[:1] * len(items) if open_end else inside
    if len(items) != len(kinds) or (open_end and not all(isinstance(i, Mapping) for i in items)):
        raise _refuse(leaf, list(items), source)
    if open_end:
        places = [f"{source}, {leaf.key}[{index}]" for index in range(len(items))]
        return tuple(map(build, kinds, items, places))
    single = [leaf._replace(key=f"{leaf.key}[{i}]", type=kind) for i, kind in enumerate(kinds)]
    return tuple(checked(each, item, source) for each, item in zip(single, items, strict=True))


def literal(text: str) -> Any:
    """A word of the command line as a TOML value, or as the text it is.

    >>> literal("2"), literal("true"), literal("../tasks.jsonl"), literal("[1, 2]")
    (2, True, '../tasks.jsonl', [1, 2])
    """
    try:
        value = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    plain = isinstance(value.get("value"), bool | int | float | str | list | dict)
    return value["value"] if plain and len(value) == 1 else text


def parsed(leaf: Leaf, text: str, source: str) -> Any:
    """A word of the command line as the leaf's type.

    Raises:
        ConfigError: the word cannot be read as that type or is out of bounds.
    """
    kind = leaf.type
    if kind is str or get_origin(kind) is Literal:
        return checked(leaf, text, source)
    if kind is bool:
        word = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
        return checked(leaf, word.get(text.lower(), text), source)
    if get_origin(kind) is tuple:
        return checked(leaf, literal(text if text.startswith("[") else f"[{text}]"), source)
    try:
        number = kind(text)
    except ValueError:
        raise _refuse(leaf, text, source) from None
    return checked(leaf, number, source)


def build(tree: type, table: Mapping[str, Any], source: str) -> Any:
    """A dataclass from a nested table; keys left out take their defaults.

    Args:
        tree: the dataclass.
        table: as ``tomllib`` reads it.
        source: where the table stands, for the errors.

    Raises:
        ConfigError: unknown key, wrong type, or a value out of bounds.
    """
    known = schema(tree)
    hints = get_type_hints(tree, include_extras=True)
    values: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, value in table.items():
        hint = hints.get(name)
        if isinstance(hint, type) and is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{source}: {name} is {value!r}; give a table [{name}].")
            values[name] = build(hint, cast(Mapping[str, Any], value), source)
        elif name in known.leaves:
            values[name] = checked(known.leaves[name], value, source)
        elif "" in known.open:
            rest[name] = value
        else:
            raise unknown(name, list(known.leaves), source)
    if "" in known.open:
        values[known.open[""]] = rest
    missing = [key for key, leaf in known.leaves.items() if leaf.default is MISSING]
    absent = [key for key in missing if key not in values]
    if absent:
        raise ConfigError(
            f"{source}: {absent[0]} is missing; give {known.leaves[absent[0]].wanted}."
        )
    return tree(**values)


def table_of(value: object) -> dict[str, Any]:
    """A dataclass as the nested table ``build`` reads; the inverse of ``build``."""
    tree = type(value)
    known = schema(tree)
    hints = get_type_hints(tree, include_extras=True)
    table: dict[str, Any] = {}
    for name, hint in hints.items():
        inner = getattr(value, name)
        if known.open.get("") == name:
            table.update(inner)
        elif isinstance(hint, type) and is_dataclass(hint):
            table[name] = table_of(inner)
        elif name in known.leaves:
            table[name] = _plain(inner)
    return table


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in cast(Sequence[Any], value)]
    return value if isinstance(value, bool | int | float | str) else table_of(value)
