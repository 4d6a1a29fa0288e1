"""Where an episode stands, as a value: to go back, to branch, to go on in another process."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import pickle
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .exchange import EnvError
from .messages import JSON, Message
from .outside import Workbench
from .tasks import Task

if TYPE_CHECKING:
    from .core import Env

__all__ = ["Snapshot", "anchor", "duplicate", "fork", "restore", "take"]

VERSION = 1
E_ = TypeVar("E_", bound="Env")
SCALARS = (str, int, float, bool, type(None), bytes)
Journal = tuple[tuple[tuple[str, Mapping[str, Any]], ...], Mapping[str, Any]]

# what a snapshot's bytes may name: nothing that runs code when it is loaded
SAFE = {
    "builtins": {"set", "frozenset", "complex", "bytearray", "slice", "range"},
    "collections": {"OrderedDict", "deque", "Counter"},
    "numpy": {"dtype", "ndarray"},
    "numpy._core.multiarray": {"scalar", "_reconstruct"},
    "numpy._core.numeric": {"_frombuffer"},
    "numpy.core.multiarray": {"scalar", "_reconstruct"},
}
OURS = {
    "envs.messages": {"Message", "ToolCall", "Problem", "ToolResult", "Credit"},
    "envs.pictures": {"Image"},
    "envs.rows": {"Task"},
    "tool_sandbox.limits": {"Limits"},
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An episode between two steps.

    `bytes(snapshot)` is a pickle of plain values; `Snapshot.load` reads it and refuses anything
    that could run code.

    Attributes:
        version: of this form.
        env_id: the environment's id.
        seed: the first part of the episode's identity.
        episode: number of the episode of this seed.
        attempt: number of the attempt at it.
        streams: positions of the random streams.
        task_id: the task.
        task: the task itself, so that it need not be in the set of whoever restores.
        params: domain parameters, and where they came from.
        state: the rules' own state.
        messages: the transcript.
        counters: turns, calls, seconds, money, end.
        ledger: the account of the reward.
        session: journal of the sandbox session, or None.
        exact: whether replaying the journal is known to give the same session.
    """

    version: int
    env_id: str
    seed: int
    episode: int
    attempt: int
    streams: Mapping[str, Any]
    task_id: str
    task: Task
    params: tuple[Mapping[str, JSON], str]
    state: Any
    messages: tuple[Message, ...]
    counters: Mapping[str, Any]
    ledger: Mapping[str, Any]
    session: Journal | None
    exact: bool

    def __bytes__(self) -> bytes:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        task = values["task"]
        values["task"] = dict(task)  # read again by the class that the reader has
        return pickle.dumps(values, protocol=5)

    @classmethod
    def load(cls, data: bytes, state_types: Collection[type] = ()) -> Snapshot:
        """Reads what `bytes(snapshot)` wrote.

        Args:
            data: the bytes.
            state_types: classes the environment lists for its state.

        Raises:
            EnvError: the bytes are damaged, of another version, or name another class.
        """
        try:
            values = cast(dict[str, Any], Reader(io.BytesIO(data), state_types).load())
            if values["version"] != VERSION:
                raise EnvError(f"snapshot has version {values['version']}; this reads {VERSION}")
            values["task"] = Task(values["task"])
            return cls(**values)
        except EnvError:
            raise
        except Exception as error:
            raise EnvError(
                f"these bytes are no snapshot ({type(error).__name__}: {error})"
            ) from None


class Reader(pickle.Unpickler):
    """Loads plain values, and classes that are named beforehand."""

    def __init__(self, source: io.BytesIO, allowed: Collection[type]) -> None:
        super().__init__(source)
        self.allowed = {(kind.__module__, kind.__qualname__): kind for kind in allowed}

    def find_class(self, module: str, name: str) -> Any:
        """Returns a class that may be named, else refuses."""
        room = __name__.rpartition(".envs.")[0]
        inner = module.removeprefix(f"{room}.")
        if (module, name) in self.allowed:
            return self.allowed[module, name]
        if name in SAFE.get(module, ()) or name in OURS.get(inner, ()):
            return super().find_class(module, name)
        raise EnvError(
            f"the snapshot names {module}.{name}; list the class in the environment's state_types"
        )


def take(env: Env) -> Snapshot:
    """Returns where `env` stands."""
    episode = env.episode
    if not episode.started:
        raise EnvError(f"{env.env_id}: no episode has begun; there is nothing to take")
    session = env.session
    journal: Journal | None = None
    if session is not None:
        journal = (tuple(session.journal), dict(session.options))
    return Snapshot(
        version=VERSION,
        env_id=env.env_id,
        seed=episode.seed,
        episode=episode.episode,
        attempt=episode.attempt,
        streams=env.streams.state(),
        task_id=env.task.id,
        task=env.task,
        params=(dict(env.params), env.params_origin),
        state=duplicate(env.state),
        messages=tuple(episode.messages),
        counters=episode.state(),
        ledger=env.ledger.state(),
        session=journal,
        exact=session is None or session.exact,
    )


def restore(env: Env, saved: Snapshot) -> None:
    """Puts `env` where the snapshot was taken.

    Raises:
        EnvError: it was taken in another environment.
    """
    if saved.env_id != env.env_id:
        raise EnvError(f"the snapshot is of {saved.env_id}, this is {env.env_id}")
    env.close_session()
    which = (saved.seed, saved.episode, saved.attempt)
    env.streams.load(*which, dict(saved.streams))
    env.episode.load(*which, dict(saved.counters), saved.messages)
    env.ledger.load(saved.ledger)
    env.task = saved.task
    env.params, env.params_origin = dict(saved.params[0]), saved.params[1]
    env.state = duplicate(saved.state)
    if saved.session is not None:
        journal, options = saved.session
        env.session = Workbench(env.sandbox_source, journal=journal, **options)


def fork(env: E_, salt: str | None) -> E_:
    """Returns an environment that goes on from here; the transcript so far is shared."""
    other = object.__new__(type(env))
    other.__dict__.update(env.__dict__)
    other.__dict__.pop("action_space", None)  # a space holds the generator it samples from
    other.__dict__.pop("observation_space", None)
    other.streams = env.streams.copy()
    if salt is not None:
        other.streams.salted(salt)
    other.episode = env.episode.copy()
    other.ledger = env.ledger.copy()
    other.params = dict(env.params)
    other.timing = {"outside": 0.0}
    other.state = duplicate(env.state)
    other.session = None if env.session is None else env.session.copy()
    return other


def duplicate(value: Any) -> Any:
    """Returns a deep copy; plain data takes a road four times faster than `copy.deepcopy`."""
    if value.__class__ in SCALARS:
        return value
    if value.__class__ is dict:
        return {key: duplicate(item) for key, item in value.items()}
    if value.__class__ is list:
        return [duplicate(item) for item in value]
    return copy.deepcopy(value)


def anchor(state: Any) -> bytes:
    """Returns a hash of plain data; the order of keys does not count."""
    text = json.dumps(state, sort_keys=True, default=ordered, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def ordered(value: Any) -> JSON:
    """Returns what JSON has no form for as something it has."""
    if isinstance(value, set | frozenset):
        return sorted(map(repr, cast(set[Any], value)))
    if hasattr(value, "tolist"):
        return value.tolist()
    return repr(value)
