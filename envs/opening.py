"""How an episode begins: seed, streams, parameters, task, first words."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .exchange import NOTHING
from .messages import Message
from .paying import facts
from .reading import fit
from .streams import fresh_seed
from .tasks import Task, TaskError

if TYPE_CHECKING:
    from .core import Env

__all__ = ["BadOptionError", "start"]

OPTIONS = ("task", "episode", "attempt", "params")


class BadOptionError(Exception):
    """The caller gave an option that does not exist, or a value that cannot be."""


def start(env: Env, seed: int | None, options: Mapping[str, Any]) -> tuple[Message, ...]:
    """Begins an episode; see `Env.start`."""
    env.close_session()
    which = identity(env, seed, options)
    env.streams.begin(*which)
    try:
        drawn = env.randomizer.draw(env.streams.get, options.get("params") or {})
    except ValueError as error:
        raise BadOptionError(str(error)) from None
    env.params, env.params_origin = drawn
    env.task = choose(env, options.get("task"))
    env.state = {}
    env.episode.begin(*which, set() if "repeat" in env.rewards else None)
    said = as_messages(env.begin(env.task))
    if env.system:
        said = [Message("system", fill(env)), *said]
    messages = bounded(said, env.limits.observation_chars)
    env.episode.messages.extend(messages)
    env.ledger.begin(env.potentials() if env.has_potentials else NOTHING)
    for name, fn, reads, when in env.rewards.plan.graded:
        if when == "phi":
            known = facts(env, None)
            env.ledger.believe(name, fn(**{key: known[key] for key in reads}))
    return messages


def identity(env: Env, seed: int | None, options: Mapping[str, Any]) -> tuple[int, int, int]:
    """Returns (seed, episode, attempt) of the episode to begin."""
    for name in options:
        if name not in OPTIONS:
            near = difflib.get_close_matches(name, OPTIONS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"options: {', '.join(OPTIONS)}"
            raise BadOptionError(f"there is no reset option {name!r}; {hint}")
    last = env.episode
    if seed is not None:
        number = 0
    elif last.started:
        seed, number = last.seed, last.episode + 1
    else:
        seed, number = fresh_seed() if env.first_seed is None else env.first_seed, 0
    return int(seed), int(options.get("episode", number)), int(options.get("attempt", 0))


def choose(env: Env, wanted: Task | str | int | None) -> Task:
    """Returns the task that was asked for, or draws one."""
    if wanted is None:
        return env.sampler.draw(env.streams.get("task"))
    try:
        return env.tasks.find(wanted)
    except (TaskError, IndexError) as error:
        raise BadOptionError(str(error)) from None


def as_messages(said: str | Message | Sequence[Message]) -> list[Message]:
    """Returns what `begin` said as messages; a text is the user's."""
    if isinstance(said, str):
        return [Message("user", said)]
    return [said] if isinstance(said, Message) else list(said)


def fill(env: Env) -> str:
    """Returns the system message; only {tools} and names of parameters are filled in.

    Other braces stay: the template may hold JSON.
    """
    text = env.system
    if "{tools}" in text:
        text = text.replace("{tools}", "\n".join(json.dumps(s) for s in env.tools.schemas()))
    for name, value in env.params.items():
        text = text.replace(f"{{{name}}}", str(value))
    return fit(text, env.limits.observation_chars)


def bounded(said: Sequence[Message], limit: int) -> tuple[Message, ...]:
    """Returns messages that together fit the limit of an observation, and have only UTF-8 text."""
    size = sum([len(message[1]) + 1 for message in said])
    share = limit if size <= limit else max(64, limit // len(said) - 1)
    return tuple(
        [
            message
            if len(message[1]) <= share and message[1].isascii()
            else message._replace(content=fit(message[1], share))
            for message in said
        ]
    )
