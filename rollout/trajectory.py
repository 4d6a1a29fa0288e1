"""One episode as flat columns: what was read, what was drawn, what it earned."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import numpy.typing as npt

from ..agents.rows import Part
from ..envs.messages import Credit, Message

Kind = Literal["prompt", "observation", "action", "reasoning", "call", "executed"]
KINDS: tuple[Kind, ...] = ("prompt", "observation", "action", "reasoning", "call", "executed")

Column = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Identity:
    """What rebuilds the episode: environment, seeds and counters (environments.md 2.4)."""

    env_id: str
    seed: int
    episode: int = 0
    attempt: int = 0
    task: str = ""
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    group: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the episode ended.

    ``terminated`` and ``truncated`` are never both true; an episode with neither was cut by us.
    ``excluded`` marks a failure of ours: the trainer drops the episode.
    """

    terminated: bool
    truncated: bool
    reason: str | None
    success: bool | None
    excluded: bool = False
    total: float = 0.0
    potentials: Mapping[str, float] = field(default_factory=dict[str, float])
    problems: Mapping[str, int] = field(default_factory=dict[str, int])
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Placed:
    """A credit and the message it belongs to (``turn`` counts the agent's messages from 0)."""

    turn: int
    credit: Credit


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One episode, flat and columnar: one entry a token, contexts laid end to end.

    Columns have shape [N], N = tokens of all contexts. At tokens the agent did not draw the
    numbers are 0, the ids -1, the masks False. ``time`` is the index of a drawn token among all
    drawn tokens of the episode: credit runs over these, in this order, and over nothing else.

    Attributes:
        tokens: int32 token ids.
        context_offsets: int64 [C + 1], where each context begins.
        logprobs: log-probability under the distribution drawn from (nats).
        logprobs_raw: the same under temperature 1 without hooks.
        entropy: entropy of the distribution drawn from (nats).
        values: head name -> V(state before the token).
        rewards: term name -> weighted reward, on the last token of the unit that earned it.
        costs: cost name -> cost, placed likewise.
        loss_mask: True where the policy is trained.
        forced: True where one token was legal: log-probability 0, left out of means.
        kind: index into ``KINDS``.
        role: index into ``roles``.
        time, turn_id, call_id, step_id, plan_id: order and nested units (algorithms.md 1.7).
        policy_version: version of the weights that drew the token.
        parts: how each drawn message was drawn (mask, decoding, kept ids), in the order of
            ``time``: what the learner replays. Lives in the process only; files leave it out.
        bootstrap: head name -> value after the last token (used when truncated).
    """

    identity: Identity
    outcome: Outcome
    messages: tuple[Message, ...]
    credits: tuple[Placed, ...]
    tokens: Column
    context_offsets: Column
    logprobs: Column
    logprobs_raw: Column
    entropy: Column
    values: Mapping[str, Column]
    rewards: Mapping[str, Column]
    costs: Mapping[str, Column]
    loss_mask: Column
    forced: Column
    kind: Column
    role: Column
    time: Column
    turn_id: Column
    call_id: Column
    step_id: Column
    plan_id: Column
    policy_version: Column
    parts: tuple[Part, ...] = ()
    roles: tuple[str, ...] = ("agent",)
    bootstrap: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def actions(self) -> Column:
        """Positions of the drawn tokens in the order of ``time``, int64 [A]."""
        drawn = np.flatnonzero(self.time >= 0)
        return drawn[np.argsort(self.time[drawn], kind="stable")]

    @property
    def turns(self) -> int:
        """How many messages the agent wrote."""
        return sum(message.role == "assistant" for message in self.messages)

    def terms(self) -> dict[str, float]:
        """Total of each reward term over the episode."""
        totals: dict[str, float] = {}
        for placed in self.credits:
            credit = placed.credit
            totals[credit.term] = totals.get(credit.term, 0.0) + credit.value
        return totals


def dumps(trajectory: Trajectory) -> str:
    """Write a trajectory as one line of JSON; columns are base64 of their bytes."""
    return json.dumps(_plain(trajectory), ensure_ascii=False, separators=(",", ":"))


def loads(line: str) -> Trajectory:
    """Read back what ``dumps`` wrote.

    Raises:
        ValueError: the line is no trajectory; the message names what is missing.
    """
    return _rebuild(json.loads(line))


def write_jsonl(path: Path, trajectories: Iterable[Trajectory]) -> None:
    """Append trajectories to a JSONL file (gzip where the name ends in ``.gz``)."""
    with _open(path, "at") as file:
        for trajectory in trajectories:
            file.write(dumps(trajectory) + "\n")


def read_jsonl(path: Path) -> Iterator[Trajectory]:
    """Read a JSONL file, one trajectory at a time.

    Raises:
        ValueError: a row is no trajectory; the message holds ``file:line``.
    """
    with _open(path, "rt") as file:
        for number, line in enumerate(file, 1):
            try:
                yield loads(line)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}:{number}: not a trajectory: {error}") from error


def write_parquet(path: Path, trajectories: Sequence[Trajectory]) -> None:
    """Write trajectories to Parquet (zstd), one row an episode: messages, totals and the line.

    ``messages`` is in the OpenAI form, so other libraries read the file as a chat data set.

    Raises:
        ModuleNotFoundError: pyarrow is missing; install the extra ``data``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "env_id": one.identity.env_id,
            "seed": one.identity.seed,
            "episode": one.identity.episode,
            "attempt": one.identity.attempt,
            "task": one.identity.task,
            "success": one.outcome.success,
            "return": one.outcome.total,
            "reason": one.outcome.reason,
            "messages": [json.dumps(message.to_openai()) for message in one.messages],
            "trajectory": dumps(one),
        }
        for one in trajectories
    ]
    table = cast(Any, pa).Table.from_pylist(rows)
    cast(Any, pq).write_table(table, path, compression="zstd")


def read_parquet(path: Path) -> list[Trajectory]:
    """Read what ``write_parquet`` wrote."""
    import pyarrow.parquet as pq

    table: Any = cast(Any, pq).read_table(path, columns=["trajectory"])
    return [loads(line) for line in table.column("trajectory").to_pylist()]


def _open(path: Path, mode: Literal["at", "rt"]) -> IO[str]:
    if path.suffix == ".gz":
        return cast(IO[str], gzip.open(path, mode, encoding="utf-8"))
    return open(path, mode[0], encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(cast(Column, value))
        return {"dtype": array.dtype.str, "b64": base64.b64encode(array.tobytes()).decode()}
    if isinstance(value, Message):
        return value.to_openai()
    if isinstance(value, Credit):
        return [value.term, value.value, value.call_id, value.span]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in cast(Sequence[Any], value)]
    if isinstance(value, Trajectory | Identity | Outcome | Placed):
        kept = [one.name for one in fields(value) if one.name != "parts"]
        return {name: _plain(getattr(value, name)) for name in kept}
    if isinstance(value, np.generic):
        return cast(Any, value).item()
    return value


def _column(value: Mapping[str, str]) -> Column:
    return np.frombuffer(base64.b64decode(value["b64"]), dtype=np.dtype(value["dtype"])).copy()


def _rebuild(row: dict[str, Any]) -> Trajectory:
    missing = [
        one.name for one in fields(Trajectory) if one.name not in row and one.name != "parts"
    ]
    if missing:
        raise ValueError(f"field {missing[0]!r} is missing (the row has: {', '.join(row)})")
    plain: dict[str, Any] = dict(row)
    for name, value in row.items():
        if isinstance(value, dict) and "b64" in value:
            plain[name] = _column(cast(dict[str, str], value))
    for name in ("values", "rewards", "costs"):
        plain[name] = {key: _column(value) for key, value in row[name].items()}
    plain["identity"] = Identity(**row["identity"])
    plain["outcome"] = Outcome(**row["outcome"])
    plain["messages"] = tuple(Message.from_openai(one) for one in row["messages"])
    plain["credits"] = tuple(_placed(one) for one in row["credits"])
    plain["roles"] = tuple(row["roles"])
    return Trajectory(**plain)


def _placed(row: Mapping[str, Any]) -> Placed:
    term, value, call_id, span = row["credit"]
    return Placed(row["turn"], Credit(term, value, call_id, tuple(span) if span else None))
