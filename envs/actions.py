"""Calls and answers as actions of agents that write no text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from gymnasium import Space
from gymnasium import spaces as gym
from numpy.typing import NDArray

from .encoding import TEXT, Codec, Record
from .messages import Problem, ToolCall
from .spaces import codec_of
from .text_space import TextSpace
from .turn import drawn

if TYPE_CHECKING:
    from .core import Env

__all__ = ["ACTIONS", "Actions", "Factored", "JSONText", "Menu", "Structured"]

Item = ToolCall | str  # a call, or the text of a final answer
NAME = 64  # characters of a tool's name in the form `json`


class Actions(Protocol):
    """A space of calls and answers, and the way there and back."""

    def space(self) -> Space[Any]:
        """Returns a new space of actions."""
        ...

    def encode(self, item: Item) -> Any:
        """Returns the action that stands for a call or an answer."""
        ...

    def decode(self, action: Any) -> Item:
        """Returns what an action stands for; never fails on a member of the space."""
        ...

    def mask(self) -> NDArray[np.bool_] | None:
        """Says which actions are legal now; None: this form has no mask."""
        ...


class Structured:
    """A OneOf: the arguments of one of the tools, or a text."""

    def __init__(self, env: Env) -> None:
        self.names = list(env.tools)
        self.codecs = [codec_of(tool.parameters) for tool in env.tools.values()]
        self.chars = env.limits.action_chars
        self.answers = answers_of(env)

    def space(self) -> Space[Any]:
        """One branch a tool, in order, then the answer."""
        answer = TextSpace(self.chars, examples=self.answers[:TEXT])
        return gym.OneOf((*(codec.space() for codec in self.codecs), answer))

    def encode(self, item: Item) -> Any:
        """The branch and its member."""
        if isinstance(item, str):
            return np.int64(len(self.names)), item
        place = self.names.index(item.name)
        return np.int64(place), self.codecs[place].encode(item.arguments)

    def decode(self, action: Any) -> Item:
        """The call or the answer of the branch."""
        place, member = int(action[0]), action[1]
        if place == len(self.names):
            return member
        return called(self.names[place], self.codecs[place].decode(member))

    def mask(self) -> NDArray[np.bool_] | None:
        """None: every branch is open."""
        return None


class Menu:
    """A number for each item of `env.menu()`; `env.legal()` masks them."""

    def __init__(self, env: Env) -> None:
        items = env.menu()
        if not items:
            raise ValueError(
                f'{env.env_id} has no menu(); write one, or take actions="structured" or "json"'
            )
        self.items = [tidy(item) for item in items]
        self.places = {key_of(item): place for place, item in enumerate(self.items)}
        self.env = env

    def space(self) -> Space[Any]:
        """A Discrete."""
        return gym.Discrete(len(self.items))

    def encode(self, item: Item) -> Any:
        """The item's place."""
        key = key_of(item)
        if key not in self.places:
            raise ValueError(f"{item!r} is not on the menu of {self.env.env_id}")
        return np.int64(self.places[key])

    def decode(self, action: Any) -> Item:
        """The item at a place."""
        return self.items[int(action)]

    def mask(self) -> NDArray[np.bool_] | None:
        """One truth value an item."""
        legal = self.env.legal()
        if legal is None:
            return np.ones(len(self.items), np.bool_)
        mask = np.array(legal, np.bool_)
        if mask.shape != (len(self.items),) or not mask.any():
            raise ValueError(
                f"legal() of {self.env.env_id} has {mask.size} values, {int(mask.sum())} true; "
                f"give one for each of the {len(self.items)} items, at least one true"
            )
        return mask


class Factored:
    """A MultiDiscrete: which tool (or the answer), then every argument of every tool."""

    def __init__(self, env: Env) -> None:
        self.names = list(env.tools)
        self.answers = answers_of(env) or [""]
        self.heads: list[list[tuple[str, Codec, list[Any]]]] = []
        for name, tool in env.tools.items():
            self.heads.append(fields_of(env, name, codec_of(tool.parameters)))
        sizes = [len(self.names) + 1]
        sizes += [len(values) for fields in self.heads for _, _, values in fields]
        self.sizes = [*sizes, len(self.answers)]

    def space(self) -> Space[Any]:
        """The choice of a tool (the last: to answer), its arguments, the answer."""
        return gym.MultiDiscrete(self.sizes)

    def encode(self, item: Item) -> Any:
        """The numbers; those that do not matter are 0."""
        action = np.zeros(len(self.sizes), np.int64)
        if isinstance(item, str):
            action[0], action[-1] = len(self.names), self.answers.index(item)
            return action
        place = self.names.index(item.name)
        action[0] = place
        at = 1 + sum(len(fields) for fields in self.heads[:place])
        for offset, (name, _, values) in enumerate(self.heads[place]):
            wanted = (item.arguments[name],) if name in item.arguments else ()
            action[at + offset] = values.index(wanted)
        return action

    def decode(self, action: Any) -> Item:
        """The call or the answer."""
        place = int(action[0])
        if place == len(self.names):
            return self.answers[int(action[-1])]
        at = 1 + sum(len(fields) for fields in self.heads[:place])
        arguments = {
            name: values[int(action[at + offset])][0]
            for offset, (name, _, values) in enumerate(self.heads[place])
            if values[int(action[at + offset])]
        }
        return called(self.names[place], arguments)

    def mask(self) -> NDArray[np.bool_] | None:
        """None: every number is legal."""
        return None


class JSONText:
    """A Dict of name and arguments, both text: for tool sets that change from task to task.

    An empty name is a final answer; its text stands in `arguments`.
    """

    def __init__(self, env: Env) -> None:
        self.tools = env.tools
        self.texts = [
            json.dumps(call.arguments)
            for place, name in enumerate(env.tools)
            for call in drawn(env, name, place)
        ]

    def space(self) -> Space[Any]:
        """Two texts; half of the samples are real names and well-formed arguments."""
        parts: dict[str, Space[Any]] = {
            "name": TextSpace(NAME, examples=list(self.tools)),
            "arguments": TextSpace(TEXT, examples=self.texts),
        }
        return gym.Dict(parts)

    def encode(self, item: Item) -> Any:
        """Name and JSON."""
        if isinstance(item, str):
            return {"name": "", "arguments": item}
        return {"name": item.name, "arguments": json.dumps(dict(item.arguments))}

    def decode(self, action: Any) -> Item:
        """The call; arguments that are no JSON object carry their problem."""
        name, text = action["name"], action["arguments"]
        if not name:
            return text
        try:
            arguments = json.loads(text)
        except (ValueError, RecursionError) as error:
            return unreadable(name, f"Not valid JSON: {error}.")
        if not isinstance(arguments, dict):
            return unreadable(name, f"Arguments are a {type(arguments).__name__}, not an object.")
        return called(name, arguments)  # pyright: ignore[reportUnknownArgumentType]

    def mask(self) -> NDArray[np.bool_] | None:
        """None: every text is legal."""
        return None


ACTIONS = {"structured": Structured, "menu": Menu, "factored": Factored, "json": JSONText}


def called(name: str, arguments: Any) -> ToolCall:
    """Returns a call that has no text."""
    return ToolCall("", name, arguments, (0, 0))


def unreadable(name: str, detail: str) -> ToolCall:
    """Returns a call whose arguments could not be read."""
    hint = 'Send an object, as {"argument": value}.'
    return ToolCall("", name, {}, (0, 0), Problem("malformed", detail, hint))


def tidy(item: Item) -> Item:
    """Returns a menu's item without an id or a span."""
    return item if isinstance(item, str) else called(item.name, item.arguments)


def key_of(item: Item) -> Any:
    """Returns what tells items of a menu apart."""
    if isinstance(item, str):
        return item
    return item.name, json.dumps(dict(item.arguments), sort_keys=True)


def answers_of(env: Env) -> list[str]:
    """Returns the final answers of the menu, if there is one."""
    return [item for item in env.menu() or () if isinstance(item, str)]


def fields_of(env: Env, name: str, codec: Codec) -> list[tuple[str, Codec, list[Any]]]:
    """Returns (argument, codec, values) of a tool; a value is a 1-tuple, absence is ().

    Raises:
        ValueError: an argument has too many values to list.
    """
    fields: Sequence[tuple[str, Codec, bool]] = codec.fields if isinstance(codec, Record) else ()
    found: list[tuple[str, Codec, list[Any]]] = []
    for argument, inner, must in fields:
        values = inner.values()
        if values is None:
            raise ValueError(
                f"{env.env_id}: argument {argument!r} of {name!r} has too many values to list; "
                'take actions="structured", or bound it by an enum or by minimum and maximum'
            )
        found.append((argument, inner, [*([] if must else [()]), *((v,) for v in values)]))
    return found
