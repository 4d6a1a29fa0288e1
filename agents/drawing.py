"""From logits to a token: the hooks in their fixed order, and the draw."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .rows import Ints, Longs, Transform

NEVER = float("-inf")


class Hooks(NamedTuple):
    """What changes the distribution of B positions; None where no position has it."""

    legal: Tensor | None = None  # [B, V] bool
    repetition: Tensor | None = None  # [B], > 1 makes seen ids less likely
    seen: Tensor | None = None  # [B, V] bool: ids of the context so far
    temperature: Tensor | None = None  # [B]; 0: the most probable id
    top_k: Tensor | None = None  # [B]; 0: no cut
    top_p: Tensor | None = None  # [B]; 1: no cut
    min_p: Tensor | None = None  # [B]; 0: no cut
    kept: Tensor | None = None  # [B, V] bool: what the cuts of the sampler left

    @property
    def cuts(self) -> bool:
        """Whether ids are left out by probability."""
        return self.top_k is not None or self.top_p is not None or self.min_p is not None

    @property
    def any(self) -> bool:
        """Whether the effective distribution differs from the model's own."""
        stages = (self.legal, self.repetition, self.temperature, self.kept)
        return self.cuts or any(stage is not None for stage in stages)


def effective(logits: Tensor, hooks: Hooks) -> Tensor:
    """Log-probs of the distribution drawn from, [B, V]; -inf where an id cannot be drawn.

    Order: repetition, masks, temperature, top-k, top-p, min-p (or the kept set, where the
    sampler's cuts are replayed). A stage that is None is skipped.

    >>> hooks = Hooks(legal=torch.tensor([[True, False, True]]))
    >>> effective(torch.zeros(1, 3), hooks).exp().tolist()
    [[0.5, 0.0, 0.5]]
    """
    if hooks.repetition is not None and hooks.seen is not None:
        penalty = hooks.repetition[:, None]
        logits = torch.where(
            hooks.seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits
        )
    if hooks.legal is not None:
        logits = logits.masked_fill(~hooks.legal, NEVER)
    if hooks.temperature is not None:
        heat = hooks.temperature[:, None].to(logits.dtype)
        warm = logits / torch.where(heat == 0, 1.0, heat)
        logits = torch.where(heat == 0, _best(logits), warm)
    if hooks.kept is not None:
        logits = logits.masked_fill(~hooks.kept, NEVER)
    if hooks.top_k is not None:
        logits = _top_k(logits, hooks.top_k)
    if hooks.top_p is not None:
        logits = _top_p(logits, hooks.top_p)
    if hooks.min_p is not None:
        logits = _min_p(logits, hooks.min_p)
    return logits.log_softmax(-1)


def _best(logits: Tensor) -> Tensor:
    """All weight on the most probable id, the lowest of equals (argmax takes the first)."""
    top = logits.argmax(-1, keepdim=True)
    return torch.full_like(logits, NEVER).scatter(-1, top, 0.0)


def _top_k(logits: Tensor, k: Tensor) -> Tensor:
    order = logits.argsort(dim=-1, descending=True, stable=True)  # of equals the lowest id first
    rank = torch.empty_like(order).scatter_(-1, order, _places(order))
    return logits.masked_fill((rank >= k[:, None]) & (k > 0)[:, None], NEVER)


def _top_p(logits: Tensor, p: Tensor) -> Tensor:
    """The smallest set of most probable ids that holds p; at least one."""
    order = logits.argsort(dim=-1, descending=True, stable=True)
    weight = logits.softmax(-1).double().gather(-1, order)
    before = weight.cumsum(-1) - weight
    drop = torch.empty_like(before, dtype=torch.bool)
    drop.scatter_(-1, order, before >= p.double()[:, None])
    # rounding must not leave a row whose p is 1 without its last ids, or any row without its first
    drop &= (p < 1)[:, None] & (logits != logits.amax(-1, keepdim=True))
    return logits.masked_fill(drop, NEVER)


def _min_p(logits: Tensor, p: Tensor) -> Tensor:
    floor = logits.amax(-1, keepdim=True) + torch.log(p.to(logits.dtype))[:, None]
    return logits.masked_fill(logits < floor, NEVER)


def _places(like: Tensor) -> Tensor:
    return torch.arange(like.shape[-1], device=like.device).expand_as(like)


def entropy(logprobs: Tensor) -> Tensor:
    """Entropy of each row in nats, [B]; ids of probability 0 add nothing, to gradients neither."""
    return -(logprobs.exp() * logprobs.clamp_min(-1e30).masked_fill(logprobs == NEVER, 0.0)).sum(-1)


def draw(logprobs: Tensor, numbers: NDArray[np.float64]) -> Tensor:
    """One id a row by the inverse of the distribution function, [B].

    The first id whose cumulative probability exceeds `u * total`, in order of ids, summed in
    float64. An id of probability 0 is never drawn, whatever u.

    Args:
        logprobs: [B, V].
        numbers: u in [0, 1), [B].
    """
    weights = logprobs.double().exp()
    total = weights.cumsum(-1)
    u = torch.from_numpy(numbers).to(total.device)[:, None]
    found = torch.searchsorted(total, u * total[:, -1:], right=True)
    if int(found.max()) == logprobs.shape[-1]:
        # u close to 1 has rounded to the total itself: the last id that can be drawn
        reachable = (weights > 0).to(torch.uint8)
        last = logprobs.shape[-1] - 1 - reachable.flip(-1).argmax(-1, keepdim=True)
        found = torch.minimum(found, last)
    return found.squeeze(-1)


def torch_uniforms(seeds: Tensor, counters: Tensor) -> Tensor:
    """The numbers of `core.uniforms` where the logits are; float64 [B].

    Args:
        seeds: 64 bit patterns as int64, [B]; torch multiplies and adds modulo 2^64.
        counters: likewise.
    """
    z = seeds + (counters + 1) * _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return _shifted(z ^ _shifted(z, 31), 11).double() * 2.0**-53


def _signed(pattern: int) -> int:
    return pattern - (1 << 64) if pattern >= 1 << 63 else pattern


def _shifted(z: Tensor, by: int) -> Tensor:
    """A logical shift: int64 shifts copy the sign."""
    return (z >> by) & ((1 << (64 - by)) - 1)


class Seen(NamedTuple):
    """Ids before each position, for the repetition penalty of a replay."""

    tokens: Ints
    offsets: Ints
    action: Longs


def replayed(transform: Transform, size: int, seen: Seen | None, device: torch.device) -> Hooks:
    """The hooks of a transform's P positions, for the learner.

    Args:
        transform: as the sampler used it.
        size: number of ids.
        seen: the rows, where a repetition penalty is on.
        device: where the logits are.
    """
    legal = kept = temperature = None
    if transform.legal is not None and bool((transform.states >= 0).any()):
        table = np.concatenate([transform.legal, np.ones((1, size), np.bool_)])  # -1: the last row
        legal = torch.from_numpy(table)[torch.from_numpy(transform.states).long()].to(device)
    if bool((transform.temperature != 1).any()):
        temperature = torch.from_numpy(transform.temperature).to(device)
    if transform.support is not None:
        kept = _kept(transform.support.ids, transform.support.offsets, size).to(device)
    again = mask = None
    if transform.repetition is not None and seen is not None:
        again = torch.from_numpy(transform.repetition).to(device)
        mask = _seen(seen, size).to(device)
    return Hooks(legal, again, mask, temperature, kept=kept)


def _kept(ids: Ints, offsets: Longs, size: int) -> Tensor:
    counts = np.diff(offsets)
    mask = torch.zeros((len(counts), size), dtype=torch.bool)
    mask[
        torch.from_numpy(np.repeat(np.arange(len(counts)), counts)), torch.from_numpy(ids).long()
    ] = True
    mask[torch.from_numpy(counts == 0)] = True
    return mask


def _seen(seen: Seen, size: int) -> Tensor:
    mask = torch.zeros((len(seen.action), size), dtype=torch.bool)
    rows = np.searchsorted(seen.offsets, seen.action, side="right") - 1
    for i, (row, end) in enumerate(zip(rows, seen.action, strict=True)):
        mask[i, torch.from_numpy(seen.tokens[seen.offsets[row] : end]).long()] = True
    return mask
