"""Keys and values of many contexts: rows of an arena, kept between turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .rows import Longs

BLOCK = 16  # lengths are rounded up to this: few distinct shapes
MANY_ROWS = 4_096


class Forward(Protocol):
    """A model's trunk, with its weights bound."""

    def __call__(self, tokens: Tensor, places: Reader) -> Tensor:
        """Final states [n, D] of packed tokens that attend through `places`."""
        ...


class Grid(NamedTuple):
    """How the tokens of one forward stand in a block [rows, width]."""

    place: Tensor  # of each token among rows * width, [n]
    token: Tensor  # at each place (any, where there is none), [rows * width]


class Reader:
    """One forward's view of the arena: writes new keys and values, attends to all of the row.

    Attributes:
        positions: place of each token within its context, [n].
        count: rows that are extended.
        width: most tokens that one of them gets.
        grid: where tokens stand in [count, width]; None where each row has one.
    """

    def __init__(
        self,
        arena: Arena,
        first: int,
        rows: Longs,
        places: Longs,
        positions: Longs,
        span: int,
    ) -> None:
        """Prepare.

        Args:
            arena: whose rows `first`, `first + 1`, ... are extended.
            first: first row.
            rows: row of each token, ascending, [n].
            places: where each token's key is written (a trash place for dummies), [n].
            positions: place of each token within its context, [n].
            span: places that are looked at.
        """
        self.positions = torch.from_numpy(positions)
        self._arena, self._first, self._span = arena, first, span
        self._rows, self._places = torch.from_numpy(rows), torch.from_numpy(places)
        counts = np.bincount(rows - first)
        self.count, self.width = len(counts), int(counts.max())
        self.grid: Grid | None = None
        query = positions.reshape(-1, 1)
        if self.width > 1:
            begins = np.cumsum(counts) - counts
            place = (rows - first) * self.width + np.arange(len(rows)) - begins[rows - first]
            token = np.zeros(self.count * self.width, np.int64)
            token[place] = np.arange(len(rows))
            self.grid = Grid(torch.from_numpy(place), torch.from_numpy(token))
            query = positions[token].reshape(self.count, self.width)
        sees = torch.arange(span) <= torch.from_numpy(query)[..., None]  # [count, width, span]
        self._index: Tensor | None = None
        self._mask = torch.where(sees, 0.0, float("-inf"))[:, None]

    def mask(self, dtype: torch.dtype) -> Tensor:
        """0 where a token looks, -inf elsewhere, [count, 1, width, span]."""
        if self._mask.dtype != dtype:
            self._mask = self._mask.to(dtype)
        return self._mask

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep keys and values [n, kv_heads, d]; those of the rows [count, kv_heads, span, d]."""
        keys, values = self._arena.layer(layer, k)
        if self._index is None:  # of each head's vector among all of a layer, [n * kv_heads]
            heads, length = keys.shape[1:3]
            head = self._rows[:, None] * heads + torch.arange(heads)
            self._index = (head * length + self._places[:, None]).reshape(-1)
        d = keys.shape[3]
        for kept, new in ((keys, k), (values, v)):
            kept.view(-1, d).index_copy_(0, self._index, new.reshape(-1, d).to(kept.dtype))
        here = slice(self._first, self._first + self.count)
        return keys[here, :, : self._span], values[here, :, : self._span]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Keep k and v; attention of q [n, heads, d] over its row, [n, heads * d]."""
        keys, values = self.write(layer, k, v)
        mask = self.mask(keys.dtype)
        n, heads, d = q.shape
        block = q.to(keys.dtype)
        if self.grid is None:
            # heads that share keys become queries of one head: no key is read twice
            block = block.reshape(n, keys.shape[1], heads // keys.shape[1], d)
            out = scaled_dot_product_attention(block, keys, values, attn_mask=mask)
            return out.reshape(n, heads * d).to(q.dtype)
        block = block[self.grid.token].view(self.count, self.width, heads, d).transpose(1, 2)
        grouped = heads != keys.shape[1]
        out = scaled_dot_product_attention(block, keys, values, attn_mask=mask, enable_gqa=grouped)
        return out.transpose(1, 2).reshape(-1, heads * d)[self.grid.place].to(q.dtype)


class Arena:
    """Rows of keys and values, one tensor pair a layer: [rows, kv_heads, places, d].

    Rows that draw stand first, without a gap, so that a decode step reads them in place. The
    last place of every row is trash, written by dummies and never read.
    """

    def __init__(self, places: int, rows: int = 0) -> None:
        """Open an arena.

        Args:
            places: most tokens a row will hold.
            rows: rows to begin with.
        """
        self.most = _rounded(places)
        self.places, self.rows = min(self.most, 4 * BLOCK), rows
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def layer(self, index: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer; made when first asked for."""
        while len(self._keys) <= index:
            shape = self.rows, like.shape[1], self.places + 1, like.shape[2]
            # attention of one query in bfloat16 is five times slower than in float32 on a CPU
            slow = like.dtype == torch.bfloat16 and like.device.type == "cpu"
            kind = torch.float32 if slow else like.dtype
            self._keys.append(like.new_zeros(shape, dtype=kind))
            self._values.append(like.new_zeros(shape, dtype=kind))
        return self._keys[index], self._values[index]

    def grow(self, rows: int, places: int) -> None:
        """Make room for at least so many rows and places, by doubling."""
        if rows <= self.rows and places <= self.places:
            return
        self.places = (
            max(self.places, min(self.most, _rounded(max(places, 2 * self.places))))
            if places > self.places
            else self.places
        )
        self.rows = max(self.rows, rows)
        for tensors in (self._keys, self._values):
            for i, old in enumerate(tensors):
                new = old.new_zeros(self.rows, old.shape[1], self.places + 1, old.shape[3])
                new[: old.shape[0], :, : old.shape[2] - 1] = old[:, :, :-1]
                tensors[i] = new

    def bytes_a_row(self) -> int:
        """Memory of one row."""
        pairs = self._keys + self._values
        return sum(t[0].numel() * t.element_size() for t in pairs) if self.rows else 0

    def move(self, targets: Sequence[int], sources: Sequence[int], places: int) -> None:
        """Copy rows `sources` to rows `targets` at once, up to `places` of each."""
        if not targets:
            return
        to, from_ = torch.tensor(targets), torch.tensor(sources)
        for tensors in (self._keys, self._values):
            for t in tensors:
                part = t[:, :, :places]
                part[to] = part[from_]

    def reader(self, first: int, counts: Longs, pasts: Longs) -> Reader:
        """A forward's view: row `first + i` gets `counts[i]` new tokens behind `pasts[i]`."""
        total = int(counts.sum())
        rows = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
        positions = pasts[rows].astype(np.int64) + within
        span = min(self.places, _rounded(int(positions.max()) + 1))
        return Reader(self, first, rows + first, positions, positions, span)


def _rounded(n: int) -> int:
    return -(-n // BLOCK) * BLOCK
