"""What agents may write and environments may say, as Hypothesis strategies that shrink."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, cast

import numpy as np
from gymnasium import Space, spaces
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ..envs import parsing
from ..envs.core import Env
from ..envs.messages import JSON, Credit, Image, Message, Problem, ProblemCode, Role, ToolCall
from ..envs.parsing import Parser
from ..envs.randomization import Domain
from ..envs.rewards import Rewards
from ..envs.spaces import codec_of
from ..envs.tasks import Task, TaskSet
from ..envs.text_space import TextSpace
from ..envs.tools import Toolbox
from ..envs.views import ToolCallView, view

# what broke parsers, terminals and readers of JSON before
HOSTILE: Final = (
    "",
    " ",
    "\0",
    "\n" * 50,
    "\ud800",
    "\u202eeman\u202c",
    "e\u0301\u0327 \U0001f9ea \ufeff",
    "\x1b[2J\x1b[31mred",
    "<tool_call>",
    "</tool_call><tool_call>",
    '<tool_call>{"name": "',
    '<tool_call>{"name": 1, "arguments": []}</tool_call>',
    '<tool_call>{"name": "x", "arguments": {"a": 1e999}}</tool_call>',
    "<tool_call>null</tool_call>",
    '{"name": "x", "arguments": "{\\"a\\": "}',
    "<think>",
    "<think>never closed",
    "```python\n",
    "```\n```\n```",
    "NaN",
    "-0",
    "1" * 400,
)
HUGE: Final = ("a" * 100_000, "\u00e9" * 100_000, "[" * 100_000, '{"a":' * 20_000, "\0" * 100_000)


def texts(longest: int = 200) -> SearchStrategy[str]:
    """Texts in any alphabet, and texts that broke readers before."""
    return st.sampled_from(HOSTILE) | st.text(max_size=longest)


def from_space(space: Space[Any]) -> SearchStrategy[Any]:
    """Members of a Gymnasium space.

    Raises:
        TypeError: the space is of a kind this does not know.
    """
    for kind, make in _OF_SPACES:
        if isinstance(space, kind):
            return make(space)
    raise TypeError(
        f"no strategy for the space {space}; known: {[k.__name__ for k, _ in _OF_SPACES]}"
    )


def _text(space: Any) -> SearchStrategy[Any]:
    least, most = space.min_length, min(space.max_length, 200)
    if isinstance(space, TextSpace):
        drawn = st.text(
            st.characters(exclude_categories=["Cs"]), min_size=least, max_size=max(least, most)
        )
        examples = tuple(text for text in space.examples if text in space)
        return drawn | st.sampled_from(examples) if examples else drawn
    return st.text(sorted(space.character_set), min_size=least, max_size=max(least, most))


def _box(space: Any) -> SearchStrategy[Any]:
    low, high = np.asarray(space.low, float), np.asarray(space.high, float)
    low, high = np.maximum(low, -1e6).ravel(), np.minimum(high, 1e6).ravel()
    whole = np.issubdtype(space.dtype, np.integer)
    lows, highs = cast(list[float], low.tolist()), cast(list[float], high.tolist())
    cells: list[SearchStrategy[Any]] = [
        st.integers(int(a), int(b)) if whole else st.floats(a, b, width=32)
        for a, b in zip(lows, highs, strict=True)
    ]
    return st.tuples(*cells).map(lambda row: np.array(row, space.dtype).reshape(space.shape))


def _discrete(space: Any) -> SearchStrategy[Any]:
    return st.integers(int(space.start), int(space.start) + int(space.n) - 1).map(np.int64)


def _several(space: Any) -> SearchStrategy[Any]:
    most = np.asarray(space.nvec, np.int64).ravel().tolist()
    cells = [st.integers(0, n - 1) for n in most]
    return st.tuples(*cells).map(lambda row: np.array(row, space.dtype).reshape(space.shape))


def _bits(space: Any) -> SearchStrategy[Any]:
    size = math.prod(space.shape)
    rows = st.lists(st.integers(0, 1), min_size=size, max_size=size)
    return rows.map(lambda row: np.array(row, space.dtype).reshape(space.shape))


def _one_of(space: Any) -> SearchStrategy[Any]:
    branches = enumerate(space.spaces)
    return st.one_of(*(st.tuples(st.just(np.int64(i)), from_space(s)) for i, s in branches))


def _sequence(space: Any) -> SearchStrategy[Any]:
    return st.lists(from_space(space.feature_space), max_size=4).map(tuple)


_OF_SPACES: Final[tuple[tuple[type[Space[Any]], Callable[[Any], SearchStrategy[Any]]], ...]] = (
    (spaces.Discrete, _discrete),
    (spaces.MultiDiscrete, _several),
    (spaces.MultiBinary, _bits),
    (spaces.Box, _box),
    (spaces.Text, _text),
    (spaces.Sequence, _sequence),
    (spaces.OneOf, _one_of),
    (spaces.Tuple, lambda space: st.tuples(*map(from_space, space.spaces))),
    (spaces.Dict, lambda s: st.fixed_dictionaries({k: from_space(v) for k, v in s.items()})),
)


def calls(toolbox: Toolbox) -> SearchStrategy[ToolCall]:
    """Calls that fit the tools' schemas."""
    return st.one_of(*(_calls_of(toolbox, name) for name in toolbox)) if toolbox else st.nothing()


def _calls_of(toolbox: Toolbox, name: str) -> SearchStrategy[ToolCall]:
    codec = codec_of(toolbox[name].parameters)
    return from_space(codec.space()).map(
        lambda member: ToolCall("", name, codec.decode(member), (0, 0))
    )


class Broken(NamedTuple):
    """A call that cannot run, and the problem it should cause."""

    text: str
    code: ProblemCode


def broken_calls(toolbox: Toolbox, parser: Parser = parsing.hermes) -> SearchStrategy[Broken]:
    """Calls that cannot run, each with the problem it should cause.

    Args:
        toolbox: the tools.
        parser: how calls are written; half a call is written for `hermes` only.
    """

    def wrong(name: str, arguments: Mapping[str, JSON], code: ProblemCode) -> Broken:
        return Broken(parsing.render([ToolCall("", name, arguments, (0, 0))], parser), code)

    strange = st.text("abcxyz", min_size=1).filter(lambda name: name not in toolbox)
    found = [strange.map(lambda name: wrong(name, {}, "unknown_tool"))]
    found += [st.just(wrong(name, {"nobody": 1}, "bad_arguments")) for name in toolbox]
    if parser is parsing.hermes:
        halves = [wrong(name, {}, "malformed") for name in [*toolbox, "x"]]
        cut = [
            half._replace(text=half.text.replace("}}</tool_call>", "</tool_call>"))
            for half in halves
        ]
        found.append(st.sampled_from(cut))
    return st.one_of(*found)


def actions(env: Env, view_name: str = "turn", **options: Any) -> SearchStrategy[Any]:
    """Actions of one view: mostly such that really do something.

    Args:
        env: the environment.
        view_name: "turn", "tool" or "token".
        **options: of the view.
    """
    if view_name == "turn":
        return _messages_of(env)
    made = view(env, view_name, **options)
    if isinstance(made, ToolCallView) and made.actions.mask() is None:
        return from_space(made.action_space) | calls(env.tools).map(made.encode)
    return from_space(made.action_space)


def _messages_of(env: Env) -> SearchStrategy[str]:
    some: list[SearchStrategy[str]] = []
    if env.tools:
        one = calls(env.tools)
        some.append(one.map(lambda call: parsing.render([call], env.parser)))
        pair = st.lists(one, min_size=2, max_size=3)
        some.append(pair.map(lambda several: parsing.render(several, env.parser)))
    if items := env.menu():
        some.append(
            st.sampled_from(items).map(
                lambda item: item if isinstance(item, str) else parsing.render([item], env.parser)
            )
        )
    if env.grammar is not None:
        joiner = env.grammar.joiner
        templates = [st.tuples(*map(st.sampled_from, t)) for t in env.grammar.alternatives]
        some.append(st.one_of(*templates).map(lambda parts: joiner.join(p for p in parts if p)))
    if env.tools and getattr(env.parser, "name", "") in parsing.PARSERS:
        some.append(broken_calls(env.tools, env.parser).map(lambda broken: broken.text))
    return st.one_of(*some, texts())


def messages() -> SearchStrategy[Message]:
    """Messages of any role, with calls, problems, pictures and thinking text."""
    roles: SearchStrategy[Role] = st.sampled_from(("system", "user", "assistant", "tool"))
    pictures = st.lists(_images, max_size=2).map(tuple)
    said = st.tuples(roles, _words, pictures).map(lambda t: Message(t[0], t[1], images=t[2]))
    told = st.tuples(_words, st.text("abc123", min_size=1))
    spoken = st.tuples(_words, st.lists(_calls, max_size=3), _words)
    return said | told.map(lambda t: Message("tool", t[0], (), t[1])) | spoken.map(_speech)


def _speech(parts: tuple[str, list[ToolCall], str]) -> Message:
    """A message of the agent: each call has a range of the text of its own."""
    content, wishes, reasoning = parts
    spans = [(len(content) + 3 * i, len(content) + 3 * i + 2) for i in range(len(wishes))]
    text = content + "<> " * len(wishes)
    named = [
        call._replace(id=f"c{i}", span=span)
        for i, (call, span) in enumerate(zip(wishes, spans, strict=True))
    ]
    return Message("assistant", text, tuple(named), reasoning=reasoning)


def _filled(size: tuple[int, int, int]) -> Image:
    height, width, value = size
    return Image.of(np.full((height, width, 3), value, np.uint8))


_words = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_plain: SearchStrategy[JSON] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3),
    max_leaves=6,
)
_codes: SearchStrategy[ProblemCode] = st.sampled_from(("malformed", "failed"))
_problems = st.tuples(_codes, _words, _words).map(lambda t: Problem(*t))
_names = st.text("abc_", min_size=1, max_size=8)
_calls = st.tuples(_names, st.dictionaries(_words, _plain, max_size=3), st.none() | _problems).map(
    lambda t: ToolCall("", t[0], t[1], (0, 0), t[2])
)
_images = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 255)).map(_filled)


def tasks(taskset: TaskSet) -> SearchStrategy[Task]:
    """Tasks of a set."""
    return st.integers(0, len(taskset) - 1).map(lambda number: taskset[number])


def params(domain: Domain) -> SearchStrategy[dict[str, JSON]]:
    """Values of an environment's parameters, within their training range."""
    shares = {name: st.floats(0, 1, width=32) for name in domain}
    return st.fixed_dictionaries(shares).map(
        lambda drawn: {name: domain[name].at(u) for name, u in drawn.items()}
    )


def credits(rewards: Rewards) -> SearchStrategy[Credit]:
    """Raw signals that the terms of an environment may be paid."""
    bounds = {name: rewards.plan.bounds.get(name, (0.0, 1.0)) for name in rewards}
    return st.sampled_from(sorted(bounds)).flatmap(
        lambda name: st.floats(*bounds[name], allow_nan=False).map(lambda v: Credit(name, v))
    )
