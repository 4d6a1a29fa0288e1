"""Pretended latency and failure of tools: luck that depends on the call's index only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, cast

import numpy as np

from .messages import Problem

__all__ = ["Fault", "Latency", "Luck"]

STRIDE = 1 << 16  # numbers of the stream set aside for one call; a latency may use many
BURST = 4  # calls in a row that share their fate when `flaky="burst"`


class Latency(Protocol):
    """A distribution of seconds; those of `randomization` are such."""

    def sample(self, stream: np.random.Generator, /) -> float:
        """Draw one value, in seconds."""
        ...


class Luck(NamedTuple):
    """What a fault does to one call.

    Attributes:
        seconds: simulated seconds the call takes.
        problem: why the call gives nothing, or None when it runs.
    """

    seconds: float = 0.0
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """How a tool misbehaves; the k-th call of an episode has the same luck whatever came before.

    Attributes:
        latency: simulated seconds a call takes: a number, or a distribution.
        failure: probability that the call is answered `unavailable`.
        timeout: probability that the call runs into the tool's time limit.
        flaky: whether each call fails by itself, or four calls in a row share their fate.
        sleep: also sleep the seconds, for load tests.
    """

    latency: float | Latency = 0.0
    failure: float = 0.0
    timeout: float = 0.0
    flaky: Literal["per_call", "burst"] = "per_call"
    sleep: bool = False

    def __post_init__(self) -> None:
        for name in ("failure", "timeout"):
            p = getattr(self, name)
            if not 0 <= p <= 1:
                raise ValueError(f"Fault.{name} is {p}; give a probability from 0 to 1")
        if self.failure + self.timeout > 1:
            raise ValueError(
                f"Fault.failure + Fault.timeout is {self.failure + self.timeout}; give at most 1"
            )
        if isinstance(self.latency, (int, float)) and self.latency < 0:
            raise ValueError(f"Fault.latency is {self.latency} s; give 0 or more")
        if self.flaky not in ("per_call", "burst"):
            raise ValueError(f"Fault.flaky is {self.flaky!r}; give 'per_call' or 'burst'")

    def luck(self, stream: np.random.Generator, index: int, name: str, limit: float) -> Luck:
        """Return the luck of call `index` of the episode.

        Args:
            stream: The stream "tool" as it stands at the beginning of the episode; it is not
                advanced.
            index: Number of the call within the episode, from 0.
            name: The tool's name, for the text of the problem.
            limit: The tool's time limit, in seconds.
        """
        fate = _at(stream, index // BURST if self.flaky == "burst" else index)
        u = fate.random()
        own = _at(stream, index)
        own.random()  # so that latency is drawn apart from fate
        latency = self.latency
        seconds = latency if isinstance(latency, (int, float)) else float(latency.sample(own))
        if u < self.failure:
            return Luck(min(seconds, limit), unavailable(name))
        if u < self.failure + self.timeout or seconds > limit:
            return Luck(limit, timed_out(name, limit))
        return Luck(seconds)


def unavailable(name: str) -> Problem:
    """Return the problem of a simulated outage; it costs no penalty."""
    return Problem("unavailable", f"{name} is not available now, try again.")


def timed_out(name: str, limit: float, seconds: float | None = None) -> Problem:
    """Return the problem of a call that ran into its time limit, both in seconds."""
    took = limit if seconds is None else seconds
    return Problem("timeout", f"{name} stopped after {took:g} s (limit {limit:g} s).")


def _at(stream: np.random.Generator, index: int) -> np.random.Generator:
    here = np.random.PCG64(0)
    here.state = cast(np.random.PCG64, stream.bit_generator).state
    here.advance(STRIDE * index)
    return np.random.Generator(here)
