import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from palaestra.algos.scan import linear_scan
from palaestra.testing import oracles
from palaestra.testing.rows import plain, rows
from torch import Tensor

METHODS = ["auto", "loop", "doubling"]


@pytest.mark.parametrize("method", METHODS)
@given(data=st.data(), length=st.integers(0, 200))
def test_every_method_equals_the_loop_over_floats(
    method: str, data: st.DataObject, length: int
) -> None:
    a = data.draw(rows((1, length), 0.0, 1.0))[0]
    b = data.draw(rows((1, length)))[0]
    got = linear_scan(a, b, method=method)  # pyright: ignore[reportArgumentType]
    wanted = torch.tensor(oracles.linear_scan(plain(a), plain(b)), dtype=torch.float64)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nothing_reaches_back_over_a_zero(method: str, bad: float) -> None:
    a = torch.tensor([1.0, 0.0, 1.0, 1.0])
    b = torch.tensor([1.0, 2.0, bad, 3.0])
    x = linear_scan(a, b, method=method)  # pyright: ignore[reportArgumentType]
    assert x[:2].tolist() == [3.0, 2.0]
    assert not bool(torch.isfinite(x[2]))


def test_ones_sum_what_follows() -> None:
    ones = torch.ones(5, dtype=torch.float64)
    assert linear_scan(ones, ones, method="doubling").tolist() == [5, 4, 3, 2, 1]


def test_doubling_does_not_depend_on_what_stands_beside_a_stretch() -> None:
    source = torch.Generator().manual_seed(0)
    stretches = [torch.randn(n, generator=source) for n in (3, 70, 1, 200)]
    decay = [
        torch.full_like(s, 0.97).index_fill(0, torch.tensor([len(s) - 1]), 0.0) for s in stretches
    ]

    def solve(a: list[Tensor], b: list[Tensor]) -> Tensor:
        return linear_scan(torch.cat(a), torch.cat(b), method="doubling")

    alone = torch.cat([solve([a], [b]) for a, b in zip(decay, stretches, strict=True)])
    assert torch.equal(solve(decay, stretches), alone)


def test_inputs_are_kept_and_half_precision_is_computed_in_float32() -> None:
    a, b = torch.ones(100, dtype=torch.bfloat16), torch.ones(100, dtype=torch.bfloat16)
    x = linear_scan(a, b)
    assert x.dtype == torch.float32
    assert float(x[0]) == 100.0
    assert bool((a == 1).all() & (b == 1).all())


def test_unequal_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a is \[2\] and b \[3\]"):
        linear_scan(torch.zeros(2), torch.zeros(3))
