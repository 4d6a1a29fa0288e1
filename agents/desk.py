"""The messages being drawn, as columns: row i of the desk draws in row i of the arena."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .core import Action, Ask, Bools, Decoding, Event, Ints, Longs, Reals, Stop, Support, uniforms
from .drawing import NEVER, Hooks, draw, effective, entropy
from .errors import AgentError
from .sessions import Slot
from .shield import Choice, Table, choice_of, machine_of

MOST_SUPPORT = 64  # kept ids that are stored per position


@dataclass(slots=True, eq=False)
class Job:
    """One ask on its way."""

    number: int
    ask: Ask
    prompt: Ints
    slot: Slot
    decoding: Decoding
    limit: int
    full: Stop  # why it ends at the limit
    version: int
    table: Table | None = None
    choice: Choice | None = None
    odds: dict[str, float] | None = None
    kept: list[Ints] = field(default_factory=list[Ints])
    events: list[Event] = field(default_factory=list[Event])

    @classmethod
    def of(
        cls,
        number: int,
        ask: Ask,
        slot: Slot,
        decoding: Decoding,
        room: tuple[int, Stop],
        version: int,
    ) -> Job:
        """A job with the rules of its ask; `room` is how long it may get, and why no longer."""
        if ask.guide is not None:
            raise AgentError("this sampler knows no value guidance; leave guide=None")
        table, choice = machine_of(ask), choice_of(ask)
        limit, full = room
        if ask.force is not None:
            limit, full = len(ask.force), "length"
        return cls(
            number, ask, ask.chat.tokens, slot, decoding, limit, full, version, table, choice
        )

    @property
    def special(self) -> bool:
        """Whether it must be looked at by itself after each token."""
        return bool(self.ask.stops) or self.decoding.cuts or self.choice is not None


class Desk:
    """Columns of the rows that draw; each is as long as the desk, some rows may be unused."""

    NAMES = (
        "seed", "counter", "length", "count", "limit", "last", "machine", "state", "temperature",
        "top_k", "top_p", "min_p", "repetition", "special", "forcing",
        "tokens", "logprobs", "raw", "entropy", "forced", "force",
    )  # fmt: skip

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.machines: list[Table] = []
        self.seed = np.zeros(0, np.uint64)
        self.counter = np.zeros(0, np.uint64)
        self.length = np.zeros(0, np.int64)  # tokens of the context so far
        self.count = np.zeros(0, np.int64)  # tokens drawn so far
        self.limit = np.zeros(0, np.int64)
        self.last = np.zeros(0, np.int64)
        self.machine = np.zeros(0, np.int32)  # index into machines; -1: no rules
        self.state = np.zeros(0, np.int32)
        self.temperature = np.zeros(0, np.float32)
        self.top_k = np.zeros(0, np.int32)
        self.top_p = np.zeros(0, np.float32)
        self.min_p = np.zeros(0, np.float32)
        self.repetition = np.zeros(0, np.float32)
        self.special = np.zeros(0, np.bool_)
        self.forcing = np.zeros(0, np.bool_)
        # what was drawn, [rows, width]
        self.tokens = np.zeros((0, 16), np.int32)
        self.logprobs: Reals = np.zeros((0, 16), np.float32)
        self.raw: Reals = np.zeros((0, 16), np.float32)
        self.entropy: Reals = np.zeros((0, 16), np.float32)
        self.forced = np.zeros((0, 16), np.bool_)
        self.force = np.zeros((0, 16), np.int32)
        self._hooked = self._forcing = False
        self._watched: list[int] = []
        self.values: dict[str, Reals] = {}  # [rows, width] or [rows, width, q]

    def __len__(self) -> int:
        return len(self.jobs)

    # --- rows come and go ---

    def seat(self, jobs: Sequence[Job]) -> None:
        """Append jobs, in order of their rows."""
        first = len(self.jobs)
        self.jobs += jobs
        longest = max(min(job.limit, 64) for job in jobs)
        forces = [len(job.ask.force) for job in jobs if job.ask.force is not None]
        self._grow(len(self.jobs), max([longest, *forces]))
        for row, job in enumerate(jobs, first):
            key, how, force = (
                job.ask.key or job.ask.chat.seat.key_of(job.ask.role),
                job.decoding,
                job.ask.force,
            )
            self.seed[row], self.counter[row] = key.seed64, job.ask.first
            self.length[row], self.count[row], self.limit[row] = len(job.prompt), 0, job.limit
            self.machine[row], self.state[row] = self._enter(job.table)
            self.temperature[row], self.repetition[row] = how.temperature, how.repetition
            self.top_k[row], self.top_p[row], self.min_p[row] = how.top_k, how.top_p, how.min_p
            self.special[row], self.forcing[row] = job.special, force is not None
            if force is not None:
                self.force[row, : len(force)] = force

        self._note()

    def _note(self) -> None:
        """Look once, when rows come or go, for what would cost a look at every token."""
        decodings = {job.decoding for job in self.jobs}
        self._hooked = any(
            how.temperature != 1 or how.repetition != 1 or how.cuts for how in decodings
        )
        self._forcing = any(job.ask.force is not None for job in self.jobs)
        self._watched = [
            row for row, job in enumerate(self.jobs) if job.table and not job.table.grammatical
        ]

    def _enter(self, table: Table | None) -> tuple[int, int]:
        if table is None:
            return -1, 0
        for i, known in enumerate(self.machines):
            if known is table:
                return i, table.start
        self.machines.append(table)
        return len(self.machines) - 1, table.start

    def _grow(self, rows: int, width: int) -> None:
        have, wide = self.tokens.shape
        if rows <= have and width <= wide:
            return
        rows = have if rows <= have else max(rows, 2 * have)
        width = wide if width <= wide else max(width, 2 * wide)
        for name in self.NAMES:
            setattr(self, name, _grown(getattr(self, name), rows, width))
        self.values = {name: _grown(column, rows, width) for name, column in self.values.items()}

    def leave(
        self, done: Ints | Longs, targets: Sequence[int], sources: Sequence[int]
    ) -> list[Job]:
        """Rows `done` are finished; rows `sources` move to `targets`."""
        gone = [self.jobs[int(row)] for row in done]
        if targets:
            to, from_ = np.array(targets), np.array(sources)
            for name in self.NAMES:
                column = getattr(self, name)
                column[to] = column[from_]
            for column in self.values.values():
                column[to] = column[from_]
            for target, source in zip(targets, sources, strict=True):
                self.jobs[target] = self.jobs[source]
        del self.jobs[len(self.jobs) - len(gone) :]
        if not self.jobs:
            self.machines.clear()
        self._note()
        return gone

    # --- one token for every row ---

    def legal(self, size: int) -> NDArray[np.bool_] | None:
        """Which ids each row may draw, [n, V]; None where no row has rules."""
        n = len(self.jobs)
        machine = self.machine[:n]
        if not self.machines or bool((machine < 0).all()):
            return None
        if len(self.machines) == 1 and bool((machine == 0).all()):
            return self.machines[0].legal[self.state[:n]]
        out = np.ones((n, size), np.bool_)
        for index in np.unique(machine[machine >= 0]):
            rows = np.flatnonzero(machine == index)
            out[rows] = self.machines[index].legal[self.state[rows]]
        return out

    def hooks(self, legal: NDArray[np.bool_] | None, size: int) -> Hooks:
        """The hooks of the next position of every row."""
        n = len(self.jobs)
        if not self._hooked:
            return Hooks(legal=None if legal is None else torch.from_numpy(legal))
        again = seen = None
        if bool((self.repetition[:n] != 1).any()):
            again = torch.from_numpy(self.repetition[:n].copy())
            seen = self._seen(size)
        return Hooks(
            legal=None if legal is None else torch.from_numpy(legal),
            repetition=again,
            seen=seen,
            temperature=_unless(self.temperature[:n], 1.0),
            top_k=_unless(self.top_k[:n], 0),
            top_p=_unless(self.top_p[:n], 1.0),
            min_p=_unless(self.min_p[:n], 0.0),
        )

    def _seen(self, size: int) -> Tensor:
        seen = torch.zeros((len(self.jobs), size), dtype=torch.bool)
        for row, job in enumerate(self.jobs):
            seen[row, torch.from_numpy(job.prompt).long()] = True
            seen[row, torch.from_numpy(self.tokens[row, : self.count[row]]).long()] = True
        return seen

    def draw(self, logits: Tensor, values: Mapping[str, Tensor]) -> Longs:
        """Draw one token in every row.

        Args:
            logits: of the model, float32 at least, [n, V].
            values: each head's numbers at the same states, [n] or [n, q].

        Returns:
            Rows that are done by a shield: nothing was drawn there.
        """
        n, size = logits.shape
        legal = self.legal(size)
        blocked = self._blocked(logits, legal)
        hooks = self.hooks(legal, size)
        logprobs = effective(logits, hooks)
        ids = draw(logprobs, uniforms(self.seed[:n], self.counter[:n])).numpy()
        rows = np.arange(n)
        if self._forcing:
            forcing = self.forcing[:n]
            ids = np.where(
                forcing, self.force[rows, np.minimum(self.count[:n], self.force.shape[1] - 1)], ids
            )
        chosen = torch.from_numpy(ids.astype(np.int64))[:, None]
        mine = logprobs.gather(1, chosen).squeeze(1).numpy()
        raw = logits.log_softmax(-1).gather(1, chosen).squeeze(1).numpy() if hooks.any else mine
        single = np.zeros(n, np.bool_) if legal is None else legal.sum(1) == 1
        self._record(ids, mine, raw, entropy(logprobs).numpy(), single, values)
        for row in np.flatnonzero(self.special[:n]):
            self._look(int(row), logprobs, logits)
        self._advance(ids)
        if len(blocked):
            self.count[blocked] -= 1  # what was drawn there does not count
        return blocked

    def _blocked(self, logits: Tensor, legal: NDArray[np.bool_] | None) -> Longs:
        """Rows where nothing, or almost nothing, is legal; their mask is lifted."""
        none = np.zeros(0, np.int64)
        if legal is None:
            return none
        bad = legal.sum(1) == 0
        watched = self._watched
        if watched:
            index = torch.tensor(watched)
            kept = (
                logits[index].softmax(-1).masked_fill(~torch.from_numpy(legal)[index], 0.0).sum(-1)
            )
            for row, share in zip(watched, cast(list[float], kept.tolist()), strict=True):
                shield = self.jobs[row].ask.shield
                bad[row] |= shield is not None and share < shield.z_min
        if not bad.any():
            return none
        rows = np.flatnonzero(bad)
        for row in rows:
            event = Event("tokens", "empty", int(self.count[row]), 0.0, "fallback")
            self.jobs[int(row)].events.append(event)
        legal[rows] = True
        return rows

    def _record(
        self,
        ids: Ints,
        logprobs: Reals,
        raw: Reals,
        entropies: Reals,
        forced: Bools,
        values: Mapping[str, Tensor],
    ) -> None:
        n = len(ids)
        rows, at = np.arange(n), self.count[:n]
        self._grow(n, int(at.max()) + 1)
        if self.logprobs.dtype != logprobs.dtype:
            for name in ("logprobs", "raw", "entropy"):
                setattr(self, name, getattr(self, name).astype(logprobs.dtype))
        self.tokens[rows, at] = ids
        self.logprobs[rows, at] = logprobs
        self.raw[rows, at] = raw
        self.entropy[rows, at] = entropies
        self.forced[rows, at] = forced
        for name, numbers in values.items():
            column = self.values.get(name)
            if column is None:
                shape = (*self.tokens.shape, *numbers.shape[1:])
                column = self.values[name] = np.zeros(shape, numbers.numpy().dtype)
            column[rows, at] = numbers.numpy()

    def _look(self, row: int, logprobs: Tensor, logits: Tensor) -> None:
        job = self.jobs[row]
        if job.decoding.cuts:
            job.kept.append(np.flatnonzero((logprobs[row] > NEVER).numpy()).astype(np.int32))
        if job.choice is not None and job.odds is None:
            firsts = job.choice.first
            odds = logits[row, torch.tensor(list(firsts.values()))].softmax(-1)
            job.odds = dict(zip(firsts, cast(list[float], odds.tolist()), strict=True))

    def _advance(self, ids: Ints) -> None:
        n = len(ids)
        self.last[:n] = ids
        self.count[:n] += 1
        self.length[:n] += 1
        self.counter[:n] += np.uint64(1)
        for index, table in enumerate(self.machines):
            rows = np.flatnonzero(self.machine[:n] == index)
            if len(rows):
                self.state[rows] = np.maximum(table.advance(self.state[rows], ids[rows]), 0)

    def done(self, end: int) -> Bools:
        """Which rows have ended, by an id or by length, [n]."""
        n = len(self.jobs)
        over = (self.last[:n] == end) & ~self.forcing[:n]
        over |= self.count[:n] >= self.limit[:n]
        for row in np.flatnonzero(self.special[:n] & ~over):
            over[row] = int(self.last[row]) in self.jobs[row].ask.stops
        return over

    def action(self, row: int, end: int, *, blocked: bool) -> Action:
        """What was drawn in a row."""
        job, at = self.jobs[row], int(self.count[row])
        last = int(self.tokens[row, at - 1]) if at else -1
        stop: Stop = job.full
        if blocked:
            stop = "shield"
        elif last == end:
            stop = "end"
        elif last in job.ask.stops:
            stop = "stop"
        return Action(
            tokens=self.tokens[row, :at].copy(),
            logprobs=self.logprobs[row, :at].copy(),
            logprobs_raw=self.raw[row, :at].copy(),
            entropy=self.entropy[row, :at].copy(),
            forced=self.forced[row, :at].copy(),
            values={name: column[row, :at].copy() for name, column in self.values.items()},
            stop=stop,
            first=job.ask.first,
            version=job.version,
            choice=job.odds,
            support=_support(job.kept[:at]) if job.decoding.cuts else None,
            events=tuple(job.events),
        )


def _support(kept: Sequence[Ints]) -> Support | None:
    if any(len(ids) > MOST_SUPPORT for ids in kept):
        return None
    offsets = np.cumsum([0, *map(len, kept)])
    return Support(np.concatenate([*kept, np.zeros(0, np.int32)]), offsets.astype(np.int64))


def _unless(column: NDArray[Any], neutral: float) -> Tensor | None:
    return None if bool((column == neutral).all()) else torch.from_numpy(column.copy())


def _grown(column: NDArray[Any], rows: int, width: int) -> NDArray[Any]:
    shape = (rows, *((width,) if column.ndim > 1 else ()), *column.shape[2:])
    out = np.zeros(shape, column.dtype)
    out[tuple(slice(n) for n in column.shape)] = column
    return out
