"""Value heads on a shared trunk: scalar, quantile, two-hot, ensemble, menu."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from .errors import AgentError

Kind = Literal["scalar", "quantile", "twohot", "ensemble", "menu"]


@dataclass(frozen=True, slots=True)
class Head:
    """One prediction made from the final hidden state.

    Attributes:
        name: "value", "intrinsic", "cost/privacy", "value@3".
        stream: whose returns it predicts.
        kind: what its numbers mean.
        size: numbers it gives: quantiles, bins, members or items; 1 for a scalar.
        horizon: in tool calls; None: to the end.
        layers: 1 is linear; 2 is D -> D -> size with SiLU between.
        detach: no gradient into the trunk.
    """

    name: str
    stream: str = "reward"
    kind: Kind = "scalar"
    size: int = 1
    horizon: int | None = None
    layers: int = 1
    detach: bool = False

    def __post_init__(self) -> None:
        if self.layers not in (1, 2):
            raise AgentError(f"head {self.name!r} has {self.layers} layers; give 1 or 2")
        if self.size < 1 or (self.kind == "scalar" and self.size != 1):
            raise AgentError(
                f"head {self.name!r} of kind {self.kind!r} has size {self.size}; "
                "a scalar has 1, others 1 or more"
            )


class Heads(nn.Module):
    """All heads of a trunk; the one-layer ones are one matrix product. Float32 at least."""

    def __init__(self, heads: Sequence[Head] = (), width: int = 1) -> None:
        super().__init__()
        names = [head.name for head in heads]
        if len(set(names)) < len(names):
            raise AgentError(f"heads are named {names}; give each its own name")
        self.heads = tuple(heads)
        self.width = width
        # one-layer heads share a matrix; those that detach have their own
        self.linear = nn.ModuleDict()
        for detach in (False, True):
            flat = [h for h in heads if h.layers == 1 and h.detach is detach]
            if flat:
                self.linear[_bank(detach)] = nn.Linear(width, sum(h.size for h in flat))
        self.deep = nn.ModuleDict(
            {
                _key(h.name): nn.Sequential(
                    nn.Linear(width, width), nn.SiLU(), nn.Linear(width, h.size)
                )
                for h in heads
                if h.layers == 2
            }
        )
        self.reset()

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Zero weights and biases; ensembles N(0, 1/width), else members would stay equal."""
        for head in self.heads:
            weight, bias = self.rows(head)
            bias.zero_()
            if head.kind == "ensemble":
                weight.normal_(0.0, self.width**-0.5, generator=generator)
            else:
                weight.zero_()

    def rows(self, head: Head) -> tuple[Tensor, Tensor]:
        """Last-layer weight [size, D] and bias [size] of a head; views to write to."""
        if head.layers == 2:
            stack = cast(nn.Sequential, self.deep[_key(head.name)])
            last = cast(nn.Linear, stack[-1])
            return last.weight.data, last.bias.data
        bank, start = cast(nn.Linear, self.linear[_bank(head.detach)]), 0
        for other in self.heads:
            if other.name == head.name:
                break
            if other.layers == 1 and other.detach is head.detach:
                start += other.size
        here = slice(start, start + head.size)
        return bank.weight.data[here], bank.bias.data[here]

    @torch.no_grad()
    def start(self, name: str, value: float) -> None:
        """Set a head's bias, for example to the mean return of the first batch."""
        for head in self.heads:
            if head.name == name:
                self.rows(head)[1].fill_(value)

    def forward(self, hidden: Tensor) -> dict[str, Tensor]:
        """Every head's numbers, [...] for scalars and [..., size] for others.

        Args:
            hidden: final normed states, [..., D].
        """
        states = hidden if hidden.dtype == torch.float64 else hidden.float()
        banks: dict[bool, list[Tensor]] = {}
        for detach in (False, True):
            flat = [h for h in self.heads if h.layers == 1 and h.detach is detach]
            if flat:
                source = states.detach() if detach else states
                out = self.linear[_bank(detach)](source)
                banks[detach] = list(out.split([h.size for h in flat], -1))
        result: dict[str, Tensor] = {}
        for head in self.heads:
            source = states.detach() if head.detach else states
            out = (
                banks[head.detach].pop(0)
                if head.layers == 1
                else self.deep[_key(head.name)](source)
            )
            result[head.name] = out.squeeze(-1) if head.kind == "scalar" else out
        return result

    def describe(self) -> list[dict[str, Any]]:
        """The heads as plain data, for `heads.json`."""
        return [asdict(head) for head in self.heads]


def _bank(detach: bool) -> str:
    return "detached" if detach else "shared"


def _key(name: str) -> str:
    return name.replace(".", "_")  # a module's name holds no dot


def heads_from(rows: Sequence[Mapping[str, Any]]) -> tuple[Head, ...]:
    """Heads from what `Heads.describe` gave."""
    return tuple(Head(**row) for row in rows)


def read(head: Head, numbers: Tensor, *, level: float = 1.0) -> Tensor:
    """One number from a head's numbers.

    Args:
        head: what they are.
        numbers: [...] of a scalar head, [..., size] of others.
        level: share of the lowest quantiles that counts; 1 is the mean.

    Returns:
        [...]: the scalar itself, the mean of members, or the mean of the lowest `level`
        of the sorted quantiles (their CVaR).

    >>> float(read(Head("v", kind="quantile", size=4), torch.tensor([4.0, 1, 3, 2]), level=0.5))
    1.5
    """
    if head.kind == "scalar":
        return numbers
    if head.kind == "quantile" and level < 1.0:
        count = max(1, round(level * head.size))
        return numbers.sort(-1).values[..., :count].mean(-1)
    if head.kind in ("twohot", "menu"):
        raise AgentError(
            f"head {head.name!r} of kind {head.kind!r} is not read as a mean; "
            "its recipe knows its bins or items"
        )
    return numbers.mean(-1)
