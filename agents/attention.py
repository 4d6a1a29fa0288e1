"""Attention over packed rows: one call, whatever computes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

# rows share one padded call while the shortest has at least this share of the longest's length:
# a further call costs about as much as padding a third of small rows
SHORTEST = 0.7


class Bucket(NamedTuple):
    """Rows of similar length, padded on the right to one block; places count rows * length."""

    rows: int
    length: int
    size: int  # tokens in it
    pad: Tensor | None = None  # token of the bucket at each place; None: nothing to pad
    unpad: Tensor | None = None  # place of each token
    holes: Tensor | None = None  # places without a token


class Segments:
    """Where rows begin and end in a packed sequence of N tokens.

    Args:
        offsets: row r is `[offsets[r]:offsets[r + 1]]`; R + 1 numbers from 0 to N.
        device: where the tokens are.
    """

    def __init__(self, offsets: Sequence[int], device: torch.device | None = None) -> None:
        self.device = device
        self.offsets = torch.tensor(offsets, dtype=torch.int64, device=device)
        self.lengths = self.offsets.diff()
        starts = torch.repeat_interleave(self.offsets[:-1], self.lengths)
        self.positions = torch.arange(len(starts), device=device) - starts  # within the row, [N]
        self._plan: Plan | None = None

    @property
    def plan(self) -> Plan:
        """How rows are bucketed; made at first use, shared by all layers."""
        if self._plan is None:
            self._plan = _planned(self)
        return self._plan

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Causal attention within each row; a key-value cache has the same method."""
        del layer
        return attend(q, k, v, self)


class Plan(NamedTuple):
    """Buckets, and the order of tokens that puts each bucket's in one piece."""

    buckets: list[Bucket]
    order: Tensor | None  # [N]; None: one bucket in the order of the rows
    inverse: Tensor | None


def _planned(segments: Segments) -> Plan:
    lengths = cast(list[int], segments.lengths.tolist())
    rows = sorted((r for r, n in enumerate(lengths) if n), key=lambda r: -lengths[r])
    groups: list[list[int]] = []
    for row in rows:
        if groups and lengths[row] >= SHORTEST * lengths[groups[-1][0]]:
            groups[-1].append(row)
        else:
            groups.append([row])
    buckets = [_bucket([lengths[row] for row in sorted(group)], segments) for group in groups]
    if len(groups) <= 1:
        return Plan(buckets, None, None)
    inner = torch.tensor([row for group in groups for row in sorted(group)])
    sizes = segments.lengths[inner]
    begins = torch.repeat_interleave(segments.offsets[inner] - _before(sizes), sizes)
    order = begins + torch.arange(len(begins), device=segments.device)
    return Plan(buckets, order, torch.argsort(order))


def _before(sizes: Tensor) -> Tensor:
    return sizes.cumsum(0) - sizes


def _bucket(lengths: list[int], segments: Segments) -> Bucket:
    longest, size = max(lengths), sum(lengths)
    if min(lengths) == longest:
        return Bucket(len(lengths), longest, size)
    sizes = torch.tensor(lengths, device=segments.device)
    place = torch.arange(longest, device=segments.device)
    valid = place < sizes[:, None]  # [rows, length]
    token = _before(sizes)[:, None] + place
    pad = torch.where(valid, token, 0).reshape(-1)
    unpad = torch.nonzero(valid.reshape(-1)).squeeze(1)
    holes = torch.nonzero(~valid.reshape(-1)).squeeze(1)
    return Bucket(len(lengths), longest, size, pad, unpad, holes)


class Gather(torch.autograd.Function):
    """`x[index]` whose gradient is a gather too, `grad[back]`, zero at `holes`.

    True where every element of x that is read more than once matters once only: a place that
    pads a row repeats some token, but causal attention never reads it, so its gradient is zero.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, back: Tensor, holes: Tensor | None) -> Tensor:
        """Gather rows of x."""
        ctx.back, ctx.holes = back, holes
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gather rows of the gradient."""
        grad = grads[0].index_select(0, ctx.back)
        if ctx.holes is not None:
            grad.index_fill_(0, ctx.holes, 0.0)
        return grad, None, None, None


def _gather(x: Tensor, index: Tensor, back: Tensor, holes: Tensor | None = None) -> Tensor:
    return cast(Tensor, Gather.apply(x, index, back, holes))


def attend(q: Tensor, k: Tensor, v: Tensor, segments: Segments) -> Tensor:
    """Causal attention within each packed row.

    Args:
        q: queries, [N, heads, d].
        k: keys, [N, kv_heads, d]; heads is a multiple of kv_heads.
        v: values, [N, kv_heads, d].
        segments: the rows.

    Returns:
        [N, heads * d]. On a CPU: one fused call for each bucket of rows of similar length.
    """
    if q.dtype == torch.bfloat16 and q.device.type == "cpu":
        # as the arena does: for few queries these kernels are five times faster
        with torch.autocast("cpu", enabled=False):
            return _attend(q.float(), k.float(), v.float(), segments.plan).to(q.dtype)
    return _attend(q, k, v, segments.plan)


def _attend(q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> Tensor:
    buckets, order, inverse = plan
    if order is None or inverse is None:
        return _block(q, k, v, buckets[0]) if buckets else q.flatten(1)
    q, k, v = (_gather(x, order, inverse) for x in (q, k, v))
    outputs: list[Tensor] = []
    start = 0
    for bucket in buckets:
        here = slice(start, start + bucket.size)
        outputs.append(_block(q[here], k[here], v[here], bucket))
        start += bucket.size
    return _gather(torch.cat(outputs), inverse, order)


def _block(q: Tensor, k: Tensor, v: Tensor, bucket: Bucket) -> Tensor:
    rows, length = bucket.rows, bucket.length
    q, k, v = (_padded(x, bucket) for x in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    out = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    flat = out.transpose(1, 2).reshape(rows * length, -1)  # [rows * length, heads * d]
    if bucket.pad is None or bucket.unpad is None:
        return flat
    return _gather(flat, bucket.unpad, bucket.pad, bucket.holes)


def _padded(x: Tensor, bucket: Bucket) -> Tensor:
    if bucket.pad is not None and bucket.unpad is not None:
        x = _gather(x, bucket.pad, bucket.unpad)
    return x.reshape(bucket.rows, bucket.length, *x.shape[1:]).transpose(1, 2)  # [rows, h, L, d]
