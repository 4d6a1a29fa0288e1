"""Batched sampling with a key-value cache and exact log-probs; the learner's scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import scoring
from .arena import BLOCK, Arena, Reader
from .chat import OnRewrite
from .core import Action, Ask, Decoding, Ints, Longs, Rows, Scores, Stop, Want
from .decoder import Decoder, Steps, Weights
from .desk import Desk, Job
from .errors import AgentError, CapabilityError, ContextFull
from .heads import Head
from .scoring import Model
from .sessions import Guest, House, Slot
from .templates import Template, default_template

if TYPE_CHECKING:
    from .chat import Chat

SLOTS = 256  # rows that draw at once, unless told


class Sampler:
    """A policy: a model, and an arena of keys and values in which it draws.

    Args:
        model: the network.
        name: in reports and messages.
        slots: rows that draw at once; None: as many as memory bears, at most 256.
        decoding: how tokens are drawn where an ask does not say.
        exact: fixed shapes: a row's numbers are the same bits whatever its neighbours.
        stale: under new weights sessions are computed again ("recompute") or kept ("keep").
        dtype: of the matrices while sampling; None: the model's own.
        compiled: compile the layers' halves, where the model is one of ours; takes about a
            minute the first time.
        template: for chats; None: the one that fits the tokenizer.
        on_rewrite: for chats, where the template rewrites history.
    """

    gives = frozenset({"ids", "raw", "effective", "values", "hooks", "score", "train"})

    def __init__(
        self,
        model: Model,
        *,
        name: str = "policy",
        slots: int | None = None,
        decoding: Decoding | None = None,
        exact: bool = False,
        stale: Literal["recompute", "keep"] = "recompute",
        dtype: torch.dtype | None = None,
        compiled: bool = False,
        template: Template | None = None,
        on_rewrite: OnRewrite = "rows",
    ) -> None:
        self.model, self.name, self.exact, self.dtype = model, name, exact, dtype
        self.tokenizer, self.context = model.tokenizer, model.context
        self.heads: tuple[Head, ...] = model.heads.heads
        self.decoding = Decoding() if decoding is None else decoding
        self.template = template or default_template(self.tokenizer)
        self.on_rewrite: OnRewrite = on_rewrite
        self.version = 0
        self.slots = SLOTS if slots is None else slots
        if exact:  # the rows of a product are equal bits in blocks of eight only
            self.slots = -(-self.slots // 8) * 8
        arena = Arena(self.context + 1, self.slots if exact else 0)
        if exact:
            arena.grow(self.slots, self.context + 1)
        self._house = House(arena, self.slots, stale)
        self._desk = Desk()
        self._waiting: list[Job] = []
        self._finished: list[tuple[int, Action]] = []
        self._numbers = 0
        # ours can run on a cast copy of its matrices
        self._decoder = cast(Decoder, model) if isinstance(model, Decoder) else None
        if compiled and self._decoder is not None:
            plain = Steps()
            self._decoder.steps = Steps(
                torch.compile(plain.before, dynamic=True), torch.compile(plain.after, dynamic=True)
            )
        self._cast: list[Weights] | None = None

    # --- drawing ---

    def submit(self, ask: Ask) -> int:
        """Take an ask; `ready` answers it under the number returned.

        An ask for which the context has no room is answered at once: no token, stop "context".
        """
        number, self._numbers = self._numbers, self._numbers + 1
        room = self._room(ask)
        if ask.force is not None and len(ask.force) > self.context - len(ask.chat.tokens):
            raise self._full(ask)
        if room[0] <= 0:
            self._finished.append((number, self._nothing(ask, room[1])))
            return number
        slot = ask.chat.session
        mine = slot if isinstance(slot, Slot) and slot.belongs(self._house) else Slot(self._house)
        decoding = self.decoding if ask.decoding is None else ask.decoding
        self._waiting.append(Job.of(number, ask, mine, decoding, room, self.version))
        return number

    def ready(self) -> list[tuple[int, Action]]:
        """Answers since the last call, with the numbers of their asks."""
        done, self._finished = self._finished, []
        return done

    @property
    def busy(self) -> bool:
        """Whether a `step` would do something."""
        return bool(self._waiting or self._desk.jobs)

    def act(self, asks: Sequence[Ask]) -> list[Action]:
        """Answer all asks, in their order.

        Raises:
            ContextFull: a chat has no room for a token.
        """
        for ask in asks:
            if self._room(ask)[0] <= 0 and ask.force is None:
                raise self._full(ask)
        numbers = [self.submit(ask) for ask in asks]
        missing, got = set(numbers), dict[int, Action]()
        others: list[tuple[int, Action]] = []
        while missing:
            for number, action in self.ready():
                if number in missing:
                    missing.remove(number)
                    got[number] = action
                else:
                    others.append((number, action))
            if missing:
                self.step()
        self._finished = others + self._finished
        return [got[number] for number in numbers]

    def step(self) -> None:
        """Admit what waits and fits, then draw one token in every row."""
        with torch.inference_mode():
            begun = len(self._desk.jobs)
            guests = self._admit()
            parts: list[Tensor] = []
            if begun:
                tokens = self._desk.last[:begun]
                counts = np.ones(begun, np.int64)
                parts.append(self._extend(0, tokens, counts, self._desk.length[:begun] - 1))
            parts += self._prefill(guests)
            if not parts:
                return
            states = torch.cat(parts)
            logits, values = self._read(states)
            blocked = self._desk.draw(logits, values)
            self._finish(blocked)

    def _room(self, ask: Ask) -> tuple[int, Stop]:
        """Tokens that the message may have, and what bounds it."""
        # one place stays for the end-of-turn id that a full row still gets
        bounds: list[tuple[int, Stop]] = [
            (self.context - len(ask.chat.tokens) - 1, "context"),
        ]
        if ask.max_tokens is not None:
            bounds.append((ask.max_tokens, "length"))
        limits = ask.chat.seat.limits
        if limits is not None and limits.tokens is not None:
            bounds.append((limits.tokens - ask.chat.spent, "budget"))
        return min(bounds, key=lambda bound: bound[0])

    def _full(self, ask: Ask) -> ContextFull:
        return ContextFull(
            f"no room: the context has {len(ask.chat.tokens)} of {self.context} tokens, "
            f"max_tokens={ask.max_tokens}. Shorten limits.observation_chars or take a policy "
            "with more context."
        )

    def _nothing(self, ask: Ask, stop: Stop) -> Action:
        none = np.zeros(0, np.float32)
        values = {head.name: none for head in self.heads}
        empty, flags = np.zeros(0, np.int32), np.zeros(0, np.bool_)
        return Action(empty, none, none, none, flags, values, stop, ask.first, self.version)

    def _admit(self) -> list[Guest]:
        free = self.slots - len(self._desk.jobs)
        if not self._waiting or free <= 0:
            return []
        # longest expected first, so that short ones fill the end
        order = sorted(self._waiting, key=lambda job: (-job.limit, job.number))[:free]
        chosen = {job.number for job in order}
        self._waiting = [job for job in self._waiting if job.number not in chosen]
        pairs = [(self._house.guest(job.prompt, job.slot, self.version), job) for job in order]
        jobs = {id(guest): job for guest, job in pairs}
        first, second = self._house.admit([guest for guest, _ in pairs], self.version)
        for guest in first + second:
            jobs[id(guest)].slot = guest.slot
        self._desk.seat([jobs[id(guest)] for guest in first + second])
        return first + second

    def _prefill(self, guests: Sequence[Guest]) -> list[Tensor]:
        waves = [g for g in guests if g.parent is None], [g for g in guests if g.parent is not None]
        out: list[Tensor] = []
        for wave in waves:
            self._house.copy_prefixes(wave)
            if not wave:
                continue
            counts = np.array([len(g.prompt) - g.cached for g in wave])
            pasts = np.array([g.cached for g in wave])
            tokens = np.concatenate([g.prompt[g.cached :] for g in wave])
            out.append(self._extend(wave[0].row, tokens, counts, pasts))
        return out

    def _extend(
        self, first: int, tokens: NDArray[Any], counts: NDArray[np.int64], pasts: NDArray[np.int64]
    ) -> Tensor:
        """Append tokens to rows `first`, ...; the final state of each row's last, [n, D]."""
        if self.exact:
            return self._extend_exactly(first, tokens, counts, pasts)
        self._house.grow(0, int((counts + pasts).max()))
        reader = self._house.arena.reader(first, counts, pasts)
        ends = None if len(tokens) == len(counts) else torch.from_numpy(np.cumsum(counts) - 1)
        return self._forward(tokens, reader, ends)

    def _extend_exactly(
        self, first: int, tokens: NDArray[Any], counts: NDArray[np.int64], pasts: NDArray[np.int64]
    ) -> Tensor:
        arena = self._house.arena
        width = 1 if int(counts.max()) == 1 and len(tokens) == len(counts) else BLOCK
        begins = np.cumsum(counts) - counts
        out: list[Tensor | None] = [None] * len(counts)
        for chunk in range(0, int(counts.max()), width):
            ids = np.zeros((self.slots, width), np.int64)
            places = np.full((self.slots, width), arena.places, np.int64)  # trash
            positions = np.zeros((self.slots, width), np.int64)
            for i, count in enumerate(counts):
                n = min(width, int(count) - chunk)
                if n > 0:
                    at = begins[i] + chunk
                    ids[first + i, :n] = tokens[at : at + n]
                    places[first + i, :n] = positions[first + i, :n] = (
                        np.arange(n) + pasts[i] + chunk
                    )
            rows = np.repeat(np.arange(self.slots), width)
            flat = places.reshape(-1), positions.reshape(-1)
            reader = Reader(arena, 0, rows, *flat, arena.places)
            states = self._forward(ids.reshape(-1), reader, None)
            for i, count in enumerate(counts):
                if chunk < count <= chunk + width:
                    out[i] = states[(first + i) * width + int(count) - 1 - chunk]
        return torch.stack([state for state in out if state is not None])

    def _forward(self, tokens: NDArray[Any], reader: Reader, ends: Tensor | None) -> Tensor:
        ids = torch.from_numpy(tokens.astype(np.int64))
        if self.dtype is not None and self._decoder is not None:
            if self._cast is None:
                self._cast = self._decoder.weights(self.dtype)
            return self._decoder.hidden(ids, reader, reader, ends, self._cast)
        if self.dtype is None:
            return self.model.hidden(ids, reader, reader, ends)
        with torch.autocast(ids.device.type, self.dtype):
            return self.model.hidden(ids, reader, reader, ends)

    def _read(self, states: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        n = len(states)
        if self.exact:  # the last products, too, have one shape
            padded = states.new_zeros(self.slots, states.shape[1])
            padded[:n] = states
            states = padded
        logits = self.model.logits(states)[:n]
        values = {name: numbers[:n] for name, numbers in self.model.heads(states).items()}
        if bool(logits.sum().isnan()) and bool(logits.isnan().any()):
            row = int(logits.isnan().any(1).nonzero()[0])
            raise AgentError(
                f"logits of row {row} are NaN at position {int(self._desk.length[row])} "
                f"(weights of version {self.version}); lower the learning rate, or go back to "
                "a checkpoint from before"
            )
        return logits, values

    def _finish(self, blocked: Longs) -> None:
        desk, end = self._desk, self.tokenizer.end_of_turn
        over = desk.done(end)
        over[blocked] = True
        rows = np.flatnonzero(over).astype(np.int64)
        if not len(rows):
            return
        cached: list[Ints] = []
        for row in rows:
            job, count = desk.jobs[int(row)], int(desk.count[row])
            action = desk.action(int(row), end, blocked=bool(np.isin(row, blocked)))
            self._finished.append((job.number, action))
            # the last token was drawn, not yet read
            cached.append(np.concatenate([job.prompt, action.tokens[: max(0, count - 1)]]))
            job.ask.chat.session = job.slot
        targets, sources = self._house.leave(rows, cached)
        desk.leave(rows, targets, sources)

    # --- the learner's door ---

    def score(self, rows: Rows, want: Want = Want()) -> Scores:  # noqa: B008 - a constant
        """Score given tokens under the transform of their sampling, with gradient.

        One packed forward; logits at action positions only.
        """
        return scoring.score(self.model, rows, want, self.dtype)

    def menu(self, chats: Sequence[Chat], items: Sequence[str]) -> list[NDArray[np.float64]]:
        """Log-probability of each item as a whole message, end-of-turn included, [M] a chat."""
        return [scoring.menu(self.model, chat.tokens, items, self.dtype) for chat in chats]

    # --- weights ---

    def parameters(self) -> Iterable[nn.Parameter]:
        """What an optimiser may move."""
        return self.model.parameters()

    def load(self, state: Mapping[str, Tensor], version: int) -> None:
        """Publish new weights.

        Args:
            state: tensors by the model's own names; empty where the learner moved the
                parameters in place.
            version: their number.
        """
        if state:
            cast(nn.Module, self.model).load_state_dict(dict(state))
        self.version, self._cast = version, None
        if self._house.stale == "recompute":
            self._house.clear()

    def save(self, folder: Path) -> None:
        """Write the model as a folder: weights, configuration, heads, tokenizer.

        Raises:
            CapabilityError: the model is one of your own without a `save(folder)`.
        """
        write = getattr(self.model, "save", None)
        if write is None:
            raise CapabilityError(
                f"{type(self.model).__name__} cannot be saved; give it a method save(folder)"
            )
        write(folder)
