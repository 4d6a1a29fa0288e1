"""What a model thinks of given tokens: the learner's door."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import checkpoint as checkpoints

from ..envs.tokenizers import Tokenizer
from .attention import Segments
from .decoder import Attends, Places
from .drawing import Seen, effective, entropy, replayed
from .heads import Heads
from .rows import Ints, Longs, Rows, Scores, Transform, Want

LOGITS = 1 << 25  # most logits of one piece of a score: 128 MiB in float32

# torch leaves the signature of checkpoint half untyped
recomputed = cast(Callable[..., Any], getattr(checkpoints, "checkpoint"))  # noqa: B009


class Model(Protocol):
    """What a sampler needs: an own `nn.Module` with these is a policy at once."""

    @property
    def context(self) -> int:
        """Tokens that one row may hold, its last end-of-turn id apart."""
        ...

    @property
    def heads(self) -> Heads:
        """Heads on the final state."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Its ids are the vocabulary."""
        ...

    def hidden(
        self,
        tokens: Tensor,
        segments: Places,
        cache: Attends | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Final normed states [N, D] of packed tokens [N], or those `at` some positions.

        Layer i asks `(segments if cache is None else cache).attend(i, q, k, v)` for its
        attention; the tokens' places are `segments.positions`.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [P, V] of states [P, D], float32 at least."""
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """As of any `nn.Module`."""
        ...


class Scored(NamedTuple):
    """Columns of P positions."""

    logprobs: Tensor
    raw: Tensor | None
    entropy: Tensor | None


def score(model: Model, rows: Rows, want: Want, dtype: torch.dtype | None = None) -> Scores:
    """Score given tokens under the transform of their sampling, with gradient.

    Args:
        model: whose trunk, logits and heads are used: one packed forward, logits at action
            positions only.
        rows: packed contexts.
        want: what is computed besides the log-probs.
        dtype: of the matrices in the forward; None: the model's own.
    """
    segments = Segments(rows.offsets.tolist())
    action = torch.from_numpy(rows.action)
    before = action - 1  # the state that decided the token
    at = torch.cat([before, segments.offsets[1:] - 1]) if want.ends else before
    tokens = torch.from_numpy(rows.tokens.astype(np.int64))
    with torch.autocast(tokens.device.type, dtype, enabled=dtype is not None):
        states = model.hidden(tokens, segments, None, at)
    decided, ends = states[: len(action)], states[len(action) :]
    columns = _columns(model, decided, tokens[action], rows, want)
    return Scores(
        logprobs=columns.logprobs,
        entropy=columns.entropy,
        values=model.heads(decided) if want.heads else {},
        ends=model.heads(ends) if want.heads and want.ends else {},
        logprobs_raw=columns.raw,
        hidden=decided if want.hidden else None,
    )


def _columns(model: Model, states: Tensor, chosen: Tensor, rows: Rows, want: Want) -> Scored:
    step = max(1, LOGITS // model.tokenizer.size)
    if len(states) <= step:
        return _piece(model, states, chosen, rows, rows.transform, rows.action, want)
    pieces: list[Scored] = []
    for start in range(0, len(states), step):
        part = slice(start, start + step)
        transform = rows.transform.take(np.arange(start, min(start + step, len(states))))
        # logits of a large vocabulary are not kept for the backward pass, but made again
        arguments = model, states[part], chosen[part], rows, transform, rows.action[part], want
        pieces.append(cast(Scored, recomputed(_piece, *arguments, use_reentrant=False)))
    return Scored(
        torch.cat([piece.logprobs for piece in pieces]),
        _joined([piece.raw for piece in pieces]),
        _joined([piece.entropy for piece in pieces]),
    )


def _joined(pieces: Sequence[Tensor | None]) -> Tensor | None:
    there = [piece for piece in pieces if piece is not None]
    return torch.cat(there) if there else None


def _piece(
    model: Model,
    states: Tensor,
    chosen: Tensor,
    rows: Rows,
    transform: Transform,
    action: Longs,
    want: Want,
) -> Scored:
    logits = model.logits(states)
    seen = Seen(rows.tokens, rows.offsets, action)
    hooks = replayed(transform, logits.shape[1], seen, logits.device)
    every = effective(logits, hooks)
    picked = chosen[:, None]
    raw = None
    if want.raw:
        plain = logits.log_softmax(-1) if hooks.any else every
        raw = plain.gather(1, picked).squeeze(1)
    spread = entropy(every) if want.entropy else None
    return Scored(every.gather(1, picked).squeeze(1), raw, spread)


@torch.no_grad()
def menu(
    model: Model, prompt: Ints, items: Sequence[str], dtype: torch.dtype | None = None
) -> NDArray[np.float64]:
    """Log-probability of each item as a whole message behind a prompt, [M].

    One forward over all items; each carries its own copy of the prompt.
    """
    tokenizer = model.tokenizer
    endings = [[*tokenizer.encode(item), tokenizer.end_of_turn] for item in items]
    whole = [np.concatenate([prompt, np.array(ids, np.int32)]) for ids in endings]
    offsets = np.cumsum([0, *map(len, whole)])
    sizes = np.array([len(ids) for ids in endings])
    owner = np.repeat(np.arange(len(items)), sizes)
    starts = offsets[1:] - sizes  # where each ending begins
    action = np.repeat(starts - (np.cumsum(sizes) - sizes), sizes) + np.arange(int(sizes.sum()))
    rows = Rows(
        np.concatenate(whole), offsets.astype(np.int32), action, Transform.plain(len(action))
    )
    scores = score(model, rows, Want(entropy=False, heads=False), dtype)
    out = np.zeros(len(items))
    np.add.at(out, owner, scores.logprobs.double().numpy())
    return out
