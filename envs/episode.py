"""The counters of one episode: everything that changes besides an environment's own state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .exchange import Limits
from .messages import Message
from .tokenizers import ByteTokenizer, Tokenizer

__all__ = ["Episode"]

BYTES = ByteTokenizer()
COUNTERS = ("turn", "calls", "drawn", "seconds", "cost", "tokens", "reason", "success", "excluded")


class Episode:
    """Where an episode stands.

    Attributes:
        seed: the first part of its identity.
        episode: number of the episode of this seed.
        attempt: number of the attempt at it.
        started: whether an episode has begun.
        over: whether it has ended.
        turn: messages of the agent so far.
        calls: calls so far.
        drawn: calls whose simulated luck was drawn.
        seconds: simulated seconds so far.
        cost: simulated money so far.
        tokens: tokens of the agent so far, counted only under `limits.tokens`.
        reason: why it ended.
        success: whether the task was solved; None before the end.
        excluded: whether it is no experience.
        messages: the transcript.
        repeats: calls and states seen, where an environment penalises repetition.
        running: the call whose tool runs just now.
        ticket: the present turn; a message read at another is not settled here.
    """

    __slots__ = (
        "attempt",
        "calls",
        "cost",
        "drawn",
        "episode",
        "excluded",
        "limits",
        "messages",
        "metered",
        "over",
        "reason",
        "repeats",
        "running",
        "seconds",
        "seed",
        "started",
        "success",
        "ticket",
        "tokenizer",
        "tokens",
        "turn",
    )

    def __init__(self, limits: Limits, tokenizer: Tokenizer | None) -> None:
        self.limits = limits
        self.tokenizer = tokenizer or BYTES
        self.metered = limits.tokens is not None or limits.seconds is not None
        self.seed = 0
        self.started = False
        self.begin(0, 0, 0, None)
        self.started, self.over = False, True

    def begin(self, seed: int, episode: int, attempt: int, repeats: set[str] | None) -> None:
        """Sets the counters to the start of an episode."""
        self.seed, self.episode, self.attempt = seed, episode, attempt
        self.started, self.over = True, False
        self.turn = self.calls = self.drawn = self.tokens = 0
        self.seconds = self.cost = 0.0
        self.reason: str | None = None
        self.success: bool | None = None
        self.excluded = False
        self.messages: list[Message] = []
        self.repeats = repeats
        self.running: str | None = None
        self.ticket = object()

    def close(self, reason: str, success: bool | None, excluded: bool) -> None:
        """Notes the end."""
        self.over = True
        self.reason, self.success, self.excluded = reason, success, excluded

    def step(self, calls: int, seconds: float, cost: float) -> None:
        """Counts a message of the agent, its calls, and their simulated seconds and money."""
        self.turn += 1
        self.calls += calls
        self.seconds += seconds
        self.cost += cost
        self.ticket = object()

    def limit_reached(self, raw: str) -> str | None:
        """Returns the limit that truncates the episode now, if one does."""
        limits = self.limits
        if self.metered:
            if limits.tokens is not None:
                self.tokens += (
                    len(self.tokenizer.encode(raw)) + 1
                )  # and the token that ends the turn
                if self.tokens >= limits.tokens:
                    return "tokens"
            if limits.seconds is not None and self.seconds >= limits.seconds:
                return "seconds"
        return "turns" if self.turn >= limits.turns else None

    def copy(self) -> Episode:
        """Returns an episode of its own that stands where this one does."""
        other = Episode.__new__(Episode)
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        other.ticket = object()
        other.messages = list(self.messages)
        other.repeats = None if self.repeats is None else set(self.repeats)
        return other

    def state(self) -> dict[str, Any]:
        """Returns the counters as plain data."""
        counters: dict[str, Any] = {name: getattr(self, name) for name in COUNTERS}
        counters["over"] = self.over
        counters["repeats"] = None if self.repeats is None else sorted(self.repeats)
        return counters

    def load(
        self,
        seed: int,
        episode: int,
        attempt: int,
        counters: dict[str, Any],
        said: Sequence[Message],
    ) -> None:
        """Puts the episode where `state` found it."""
        repeats = counters["repeats"]
        self.begin(seed, episode, attempt, None if repeats is None else set(repeats))
        for name in COUNTERS:
            setattr(self, name, counters[name])
        self.over = counters["over"]
        self.messages = list(said)
