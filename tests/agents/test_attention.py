"""Attention over packed rows equals attention row by row."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from palaestra.agents.attention import Segments, attend


def oracle(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Softmax attention, one row, one head, one query at a time."""
    out = torch.zeros(q.shape[0], q.shape[1], q.shape[2], dtype=q.dtype)
    group = q.shape[1] // k.shape[1]
    start = 0
    for length in lengths:
        for t in range(start, start + length):
            for head in range(q.shape[1]):
                keys = k[start : t + 1, head // group]
                weights = (keys @ q[t, head] / q.shape[2] ** 0.5).softmax(0)
                out[t, head] = weights @ v[start : t + 1, head // group]
        start += length
    return out.flatten(1)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.sampled_from([1, 2, 4]))
def test_packed_attention_equals_the_slow_one_with_its_gradients(
    lengths: list[int], kv_heads: int
) -> None:
    generator = torch.Generator().manual_seed(sum(lengths))
    n = sum(lengths)

    def draw(heads: int) -> torch.Tensor:
        x = torch.randn(n, heads, 8, dtype=torch.float64, generator=generator)
        return x.requires_grad_()

    q, k, v = draw(4), draw(kv_heads), draw(kv_heads)
    offsets = list(accumulate([0, *lengths]))
    got, want = attend(q, k, v, Segments(offsets)), oracle(q, k, v, lengths)
    torch.testing.assert_close(got, want)
    weights = torch.randn(got.shape, dtype=torch.float64, generator=generator)
    ours = torch.autograd.grad((got * weights).sum(), (q, k, v))
    theirs = torch.autograd.grad((want * weights).sum(), (q, k, v))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_rows_of_unlike_length_are_not_padded_to_the_longest() -> None:
    offsets = list(accumulate([0, 100, 3, 98, 4, 2]))
    plan = Segments(offsets).plan
    assert [(b.rows, b.length) for b in plan.buckets] == [(2, 100), (2, 4), (1, 2)]
    padded = sum(b.rows * b.length for b in plan.buckets)
    assert padded < 1.1 * offsets[-1]


def test_positions_count_from_the_beginning_of_each_row() -> None:
    assert Segments([0, 3, 3, 5]).positions.tolist() == [0, 1, 2, 0, 1]


def test_an_empty_batch_is_empty() -> None:
    q = torch.zeros(0, 2, 4)
    assert attend(q, q, q, Segments([0])).shape[0] == 0


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_equal_rows_need_no_padding(kv_heads: int) -> None:
    generator = torch.Generator().manual_seed(kv_heads)
    q, k = (torch.randn(12, heads, 8, generator=generator) for heads in (4, kv_heads))
    segments = Segments([0, 4, 8, 12])
    assert segments.plan.buckets[0].pad is None
    torch.testing.assert_close(attend(q, k, k, segments), oracle(q, k, k, [4, 4, 4]))
