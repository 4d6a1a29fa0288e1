"""JSON values as members of Gymnasium spaces, there and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
from gymnasium import Space
from gymnasium import spaces as gym

from .messages import JSON
from .text_space import TextSpace

__all__ = [
    "TEXT",
    "Anything",
    "Codec",
    "Listed",
    "Listing",
    "Real",
    "Record",
    "Union",
    "Whole",
    "Words",
]

LARGEST = 1 << 16  # values of an integer that is still a Discrete
TEXT = 2048  # characters of a string without maxLength
ABSENT = object()  # an optional field that is not there


class Codec(Protocol):
    """A schema as a space, with the way there and back."""

    def space(self) -> Space[Any]:
        """Returns a new space of the schema's values."""
        ...

    def fits(self, value: JSON) -> bool:
        """Whether `encode` takes this value."""
        ...

    def encode(self, value: JSON) -> Any:
        """Returns the member of the space that stands for a value."""
        ...

    def decode(self, member: Any) -> JSON:
        """Returns the value a member stands for; never fails on a member."""
        ...

    def values(self) -> list[JSON] | None:
        """Returns all values; None where there are too many to list."""
        ...


@dataclass(frozen=True)
class Listed:
    """One of a list of values."""

    choices: tuple[JSON, ...]

    def space(self) -> Space[Any]:
        """A number for each value."""
        return gym.Discrete(len(self.choices))

    def fits(self, value: JSON) -> bool:
        """Whether the value is listed; True is not 1 here."""
        return any(type(c) is type(value) and c == value for c in self.choices)

    def encode(self, value: JSON) -> Any:
        """The value's place."""
        for place, choice in enumerate(self.choices):
            if type(choice) is type(value) and choice == value:
                return np.int64(place)
        raise ValueError(f"{value!r} is none of {list(self.choices)!r}")

    def decode(self, member: Any) -> JSON:
        """The value at a place."""
        return self.choices[int(member)]

    def values(self) -> list[JSON] | None:
        """The list."""
        return list(self.choices)


@dataclass(frozen=True)
class Whole:
    """A whole number between two bounds."""

    low: int
    high: int

    @property
    def few(self) -> bool:
        """Whether it is a Discrete."""
        return self.high - self.low < LARGEST

    def space(self) -> Space[Any]:
        """A Discrete where there are few, else one cell of a Box."""
        if self.few:
            return gym.Discrete(self.high - self.low + 1, start=self.low)
        return gym.Box(self.low, self.high, (1,), np.int64)

    def fits(self, value: JSON) -> bool:
        """Whether it is an integer inside the bounds."""
        return type(value) is int and self.low <= value <= self.high

    def encode(self, value: JSON) -> Any:
        """The number."""
        return np.int64(value) if self.few else np.array([value], np.int64)

    def decode(self, member: Any) -> JSON:
        """The number."""
        return int(member) if self.few else int(member[0])

    def values(self) -> list[JSON] | None:
        """All of them, where there are few."""
        return list(range(self.low, self.high + 1)) if self.few else None


@dataclass(frozen=True)
class Real:
    """A number between two bounds, at the resolution of float32."""

    low: float
    high: float
    step: float | None = None

    def space(self) -> Space[Any]:
        """One cell of a Box."""
        return gym.Box(self.low, self.high, (1,), np.float32)

    def fits(self, value: JSON) -> bool:
        """Whether it is a number inside the bounds."""
        return type(value) in (int, float) and self.low <= value <= self.high

    def encode(self, value: JSON) -> Any:
        """The number, rounded to float32."""
        return np.array([value], np.float32)

    def decode(self, member: Any) -> JSON:
        """The number, put back inside the bounds that float32 may have left by rounding."""
        value = float(member[0])
        if self.step:
            value = round(value / self.step) * self.step
        return min(max(value, self.low), self.high)

    def values(self) -> list[JSON] | None:
        """Too many."""
        return None


@dataclass(frozen=True)
class Words:
    """A text of bounded length."""

    least: int
    most: int

    def space(self) -> Space[Any]:
        """A TextSpace."""
        return TextSpace(self.most, min_length=self.least)

    def fits(self, value: JSON) -> bool:
        """Whether it is a text of that length."""
        return isinstance(value, str) and self.least <= len(value) <= self.most

    def encode(self, value: JSON) -> Any:
        """The text."""
        return value

    def decode(self, member: Any) -> JSON:
        """The text."""
        return member

    def values(self) -> list[JSON] | None:
        """Too many."""
        return None


@dataclass(frozen=True)
class Anything:
    """A value without a narrower schema, as JSON text.

    Attributes:
        empty: what a text that is no JSON stands for; None: the text itself.
    """

    empty: JSON = None

    def space(self) -> Space[Any]:
        """A TextSpace."""
        return TextSpace(TEXT)

    def fits(self, value: JSON) -> bool:
        """Whether its JSON is short enough (and it is an object, where one is wanted)."""
        return len(json.dumps(value)) <= TEXT and (self.empty is None or isinstance(value, dict))

    def encode(self, value: JSON) -> Any:
        """Its JSON text."""
        return json.dumps(value)

    def decode(self, member: Any) -> JSON:
        """The value the text stands for."""
        try:
            value = json.loads(member)
        except (ValueError, RecursionError):
            return dict(self.empty) if self.empty is not None else member
        if self.empty is not None and not isinstance(value, dict):
            return dict(self.empty)
        return value  # pyright: ignore[reportUnknownVariableType]

    def values(self) -> list[JSON] | None:
        """Too many."""
        return None


@dataclass(frozen=True)
class Listing:
    """A list of values of one kind."""

    item: Codec
    least: int
    most: int | None

    def space(self) -> Space[Any]:
        """A Sequence."""
        return gym.Sequence(self.item.space())

    def fits(self, value: JSON) -> bool:
        """Whether it is a list of fitting values."""
        if not isinstance(value, list):
            return False
        return all(self.item.fits(item) for item in cast(list[JSON], value))

    def encode(self, value: JSON) -> Any:
        """A tuple of members."""
        return tuple(self.item.encode(item) for item in value)

    def decode(self, member: Any) -> JSON:
        """A list; items beyond the schema's maximum are left out."""
        return [self.item.decode(item) for item in member[: self.most]]

    def values(self) -> list[JSON] | None:
        """Too many."""
        return None


@dataclass(frozen=True)
class Record:
    """An object with named fields, of which some may be absent."""

    fields: tuple[tuple[str, Codec, bool], ...]  # (name, codec, whether it must be there)

    def space(self) -> Space[Any]:
        """A Dict; an optional field is a OneOf whose first branch is its absence.

        Gymnasium refuses an empty Dict: without fields it is Discrete(1).
        """
        if not self.fields:
            return gym.Discrete(1)
        parts = {
            name: codec.space() if must else gym.OneOf((gym.Discrete(1), codec.space()))
            for name, codec, must in self.fields
        }
        return gym.Dict(parts)

    def fits(self, value: JSON) -> bool:
        """Whether the fields fit, and there are no others."""
        if not isinstance(value, Mapping):
            return False
        given = cast(Mapping[str, JSON], value)
        if any(name not in given for name, _, must in self.fields if must):
            return False
        known = {name: codec for name, codec, _ in self.fields}
        return all(name in known and known[name].fits(item) for name, item in given.items())

    def encode(self, value: JSON) -> Any:
        """A dict of members."""
        if not self.fields:
            return np.int64(0)
        out: dict[str, Any] = {}
        for name, codec, must in self.fields:
            item = value.get(name, ABSENT)
            if must:
                out[name] = codec.encode(item)
            else:
                absent = item is ABSENT
                out[name] = (np.int64(0 if absent else 1), np.int64(0))
                if not absent:
                    out[name] = (np.int64(1), codec.encode(item))
        return out

    def decode(self, member: Any) -> JSON:
        """An object."""
        out: dict[str, JSON] = {}
        for name, codec, must in self.fields:
            if must:
                out[name] = codec.decode(member[name])
            elif int(member[name][0]) == 1:
                out[name] = codec.decode(member[name][1])
        return out

    def values(self) -> list[JSON] | None:
        """Only for an object without fields."""
        return None if self.fields else [{}]


@dataclass(frozen=True)
class Union:
    """One of several schemas."""

    options: tuple[Codec, ...]

    def space(self) -> Space[Any]:
        """A OneOf."""
        return gym.OneOf(tuple(option.space() for option in self.options))

    def fits(self, value: JSON) -> bool:
        """Whether one of them fits."""
        return any(option.fits(value) for option in self.options)

    def encode(self, value: JSON) -> Any:
        """The first that fits, and its member."""
        for place, option in enumerate(self.options):
            if option.fits(value):
                return np.int64(place), option.encode(value)
        raise ValueError(f"{value!r} fits none of the schemas")

    def decode(self, member: Any) -> JSON:
        """The value of the branch that was taken."""
        return self.options[int(member[0])].decode(member[1])

    def values(self) -> list[JSON] | None:
        """Those of all branches, where each can be listed."""
        lists = [option.values() for option in self.options]
        if any(listed is None for listed in lists):
            return None
        return [value for listed in lists if listed is not None for value in listed]
