import math

import pytest
import torch
from hypothesis import given
from palaestra.algos.exploration import entropy
from palaestra.testing import oracles
from palaestra.testing.rows import plain, rows
from torch import Tensor


@given(logits=rows((3, 5)))
def test_entropy_equals_the_loop_inside_its_bounds(logits: Tensor) -> None:
    """INV-E1, INV-E3 and INV-E4."""
    got = entropy(logits)
    for t in range(3):
        assert float(got[t]) == pytest.approx(oracles.entropy(plain(logits[t])), abs=1e-12)
    assert bool(((got >= 0) & (got <= math.log(5) + 1e-12)).all())
    torch.testing.assert_close(entropy(logits + 7), got)
    assert bool((entropy(logits / 2) >= got - 1e-12).all())


def test_equal_logits_have_the_most_entropy() -> None:
    """INV-E2."""
    assert float(entropy(torch.zeros(1, 8, dtype=torch.float64))) == pytest.approx(math.log(8))


@pytest.mark.parametrize("illegal", [float("-inf"), -1e9])
def test_illegal_tokens_count_nothing_in_value_and_gradient(illegal: float) -> None:
    full = torch.tensor([[0.5, -0.5, 1.0, 0.0]], dtype=torch.float64)
    masked = full.clone()
    masked[0, 3] = illegal
    leaf = masked.requires_grad_()
    got = entropy(leaf)
    torch.testing.assert_close(got, entropy(full[:, :3]))
    (slope,) = torch.autograd.grad(got.sum(), leaf)
    assert bool(torch.isfinite(slope).all())
    assert float(slope[0, 3]) == 0.0


def test_one_legal_token_has_no_entropy() -> None:
    forced = torch.tensor([[float("-inf"), 3.0]])
    assert entropy(forced).tolist() == [0.0]


def test_the_sampled_log_probability_is_no_entropy_loss() -> None:
    """P12: its expected gradient is exactly 0, that of the entropy is not."""
    logits = torch.tensor([[0.5, -0.5, 1.0]], dtype=torch.float64, requires_grad=True)
    logp = logits.log_softmax(-1)
    sampled = (logp.exp().detach() * -logp).sum()
    (wrong,) = torch.autograd.grad(sampled, logits)
    (right,) = torch.autograd.grad(entropy(logits).sum(), logits)
    assert float(wrong.abs().max()) < 1e-15
    assert float(right.abs().max()) > 0.05


def test_half_precision_logits_are_computed_in_float32() -> None:
    assert entropy(torch.zeros(2, 4, dtype=torch.bfloat16)).dtype == torch.float32
