"""The turn view: spaces, observations and infos of an environment as Gymnasium sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from gymnasium import Space
from gymnasium import spaces as gym
from numpy.typing import NDArray

from . import parsing, rendering
from .exchange import Step
from .messages import Credit, Message, ToolCall
from .reading import fit
from .snapshot import duplicate
from .spaces import codec_of
from .text_space import TextSpace

if TYPE_CHECKING:
    from .core import Env

__all__ = ["action_space", "examples", "observation_space", "observe", "reset_info", "step_info"]

Observing = Literal["text", "transcript", "messages"]
OBSERVING = ("text", "transcript", "messages")
REASONING = ("drop", "last", "keep")
ROLES = ("system", "user", "assistant", "tool")
EXAMPLES = 16  # well-formed messages from which a random agent draws
DRAWS = 3  # of them for each tool
_examples: dict[type, tuple[str, ...]] = {}  # made once a class


def action_space(env: Env) -> Space[Any]:
    """All messages: content, and thinking text with its delimiters where it may be written."""
    limits = env.limits
    length = limits.action_chars
    if env.thinks is not None:
        length += limits.reasoning_chars + len(env.thinks.opening) + len(env.thinks.closing)
    return TextSpace(length, examples=examples(env))


def examples(env: Env) -> tuple[str, ...]:
    """Returns well-formed calls and answers, the same for every environment of a class."""
    kind = type(env)
    if kind not in _examples:
        calls = [call for number, name in enumerate(env.tools) for call in drawn(env, name, number)]
        texts = [parsing.render([call], env.parser) for call in calls]
        answers = [item for item in env.menu() or () if isinstance(item, str)]
        texts += answers[:: max(1, len(answers) // DRAWS)]
        _examples[kind] = tuple(texts[:EXAMPLES])
    return _examples[kind]


def drawn(env: Env, name: str, number: int) -> list[ToolCall]:
    """Returns calls of a tool with arguments drawn from its schema."""
    codec = codec_of(env.tools[name].parameters)
    space = codec.space()
    space.seed(number)
    return [ToolCall("", name, codec.decode(space.sample()), (0, 0)) for _ in range(DRAWS)]


def observation_space(env: Env) -> Space[Any]:
    """What the chosen way of observing may show."""
    text = TextSpace(env.limits.observation_chars)
    if env.observe == "messages":
        parts: dict[str, Space[Any]] = {"role": gym.Discrete(len(ROLES)), "text": text}
        if env.limits.images:
            shape = env.image_shape or (1, 1, 1)
            parts["images"] = gym.Sequence(gym.Box(0, 255, shape, np.uint8))
        return gym.Sequence(gym.Dict(parts))
    return with_image_space(env, text)


def with_image_space(env: Env, space: Space[Any]) -> Space[Any]:
    """Adds the picture to an observation that is one text, if the environment shows one."""
    if env.image_shape is None:
        return space
    return gym.Dict({"text": space, "image": image_space(env)})


def image_space(env: Env) -> Space[Any]:
    """The picture's space."""
    return gym.Box(0, 255, env.image_shape, np.uint8)


def observe(env: Env, news: Sequence[Message]) -> Any:
    """Returns the observation after new messages."""
    if env.observe == "text":
        seen: Any = fit(rendering.join(news), env.limits.observation_chars)
    elif env.observe == "transcript":
        seen = fit(rendering.text(own_reasoning(env)), env.limits.observation_chars)
    else:
        return tuple(as_member(env, message) for message in news)
    return seen if env.image_shape is None else {"text": seen, "image": picture(env)}


def own_reasoning(env: Env) -> list[Message]:
    """Returns the transcript with as much thinking text as the agent is shown again."""
    messages = list(env.episode.messages)
    last = max((i for i, m in enumerate(messages) if m.role == "assistant"), default=-1)
    kept = {"drop": (), "last": (last,), "keep": range(len(messages))}[env.reasoning]
    return [m if i in kept else m._replace(reasoning="") for i, m in enumerate(messages)]


def as_member(env: Env, message: Message) -> dict[str, Any]:
    """Returns a message as a member of the space of `observe="messages"`."""
    member: dict[str, Any] = {"role": np.int64(ROLES.index(message.role)), "text": message.content}
    if env.limits.images:
        member["images"] = tuple(image.array for image in message.images[: env.limits.images])
    return member


def picture(env: Env) -> NDArray[np.uint8]:
    """Returns a copy of the newest picture of the declared shape; zeros when there is none."""
    assert env.image_shape is not None
    for message in reversed(env.episode.messages):
        for image in reversed(message.images):
            if image.shape == env.image_shape:
                return image.array
    return np.zeros(env.image_shape, np.uint8)


def reset_info(env: Env) -> dict[str, Any]:
    """Returns the `info` of `reset`: what rebuilds the episode, and what there is to use."""
    episode = env.episode
    return {
        "task": env.task.id,
        "seed": episode.seed,
        "episode": episode.episode,
        "attempt": episode.attempt,
        "params": duplicate(env.params),
        "params_origin": env.params_origin,
        "tools": duplicate(env.tools.schemas()),
        "turn": 0,
        "calls": 0,
        "potentials": dict(env.potentials()) if env.has_potentials else {},
    }


def step_info(env: Env, step: Step) -> dict[str, Any]:
    """Returns the `info` of a step: every key in every step, every value a new object."""
    info = dict(step.info)
    info["potentials"] = dict(info["potentials"])
    info["problems"] = dict(info["problems"])
    info["signals"] = {**dict.fromkeys(env.rewards.plan.silent, 0.0), **info["signals"]}
    info["terms"] = filled(env.rewards.terms, step.terms)
    info["costs"] = filled(env.rewards.costs, step.costs)
    info["credits"] = [as_tuple(credit) for credit in step.credits]
    info["reason"] = step.reason
    info["success"] = step.success
    info["excluded"] = step.excluded
    if step.terminated or step.truncated:
        info["return_terms"] = filled(env.rewards.terms, env.ledger.totals)
    return info


def filled(names: Mapping[str, Any], values: Mapping[str, float]) -> dict[str, float]:
    """Returns a value for every name: 0.0 where it was silent."""
    return {name: values.get(name, 0.0) for name in names}


def as_tuple(credit: Credit) -> tuple[Any, ...]:
    """Returns a credit as a plain tuple."""
    return (credit[0], credit[1], credit[2], credit[3])
