from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from palaestra.algos import divergence
from palaestra.algos.divergence import AdaptiveKL
from palaestra.testing import oracles
from palaestra.testing.rows import log_ratios, plain, rows
from torch import Tensor


def policies(seed: int) -> tuple[Tensor, Tensor]:
    """Logits of two categorical policies over five tokens, the first with gradient."""
    source = torch.Generator().manual_seed(seed)
    mine = torch.randn(5, generator=source, dtype=torch.float64).requires_grad_()
    return mine, torch.randn(5, generator=source, dtype=torch.float64)


def expected(estimator: str, logits: Tensor, reference: Tensor) -> Tensor:
    """The exact expectation of an estimator; the weights are constants, as samples are."""
    function = getattr(divergence, f"kl_{estimator}")
    logp, logq = logits.log_softmax(-1), reference.log_softmax(-1)
    return (logp.exp().detach() * function(logp, logq)).sum()


def exact(logits: Tensor, reference: Tensor) -> Tensor:
    return divergence.kl_full(logits[None], reference[None])[0]


@given(seed=st.integers(0, 10_000))
def test_k1_and_k3_are_unbiased(seed: int) -> None:
    mine, reference = policies(seed)
    wanted = exact(mine, reference)
    for name in ("k1", "k3", "k3plus"):
        torch.testing.assert_close(expected(name, mine, reference), wanted)


@given(seed=st.integers(0, 10_000))
def test_gradients_in_the_loss_are_what_the_table_says(seed: int) -> None:
    """P12: k1 does nothing, k2 and k3plus are reverse KL, k3 is forward KL. INV-K2."""
    mine, reference = policies(seed)

    def slope(scalar: Tensor) -> Tensor:
        return torch.autograd.grad(scalar, mine)[0]

    reverse = slope(exact(mine, reference))
    forward = mine.softmax(-1).detach() - reference.softmax(-1)
    torch.testing.assert_close(slope(expected("k1", mine, reference)), torch.zeros_like(mine))
    torch.testing.assert_close(slope(expected("k2", mine, reference)), reverse)
    torch.testing.assert_close(slope(expected("k3plus", mine, reference)), reverse)
    torch.testing.assert_close(slope(expected("k3", mine, reference)), forward)
    logp = mine.log_softmax(-1)
    reward = -divergence.kl_k1(logp, reference.log_softmax(-1)).detach()
    in_reward = slope((logp.exp().detach() * -reward * logp).sum())
    torch.testing.assert_close(in_reward, reverse)


@given(change=log_ratios((2, 6)))
def test_k2_and_k3_are_never_negative_and_all_are_finite(change: Tensor) -> None:
    """INV-K1."""
    zero = torch.zeros_like(change)
    for name in ("k1", "k2", "k3", "k3plus"):
        row = getattr(divergence, f"kl_{name}")(change, zero)
        assert bool(torch.isfinite(row).all())
        assert name == "k1" or bool((row >= 0).all())


def test_tiny_ratios_do_not_cancel() -> None:
    small = torch.tensor([1e-9, -1e-9], dtype=torch.float64)
    k3 = divergence.kl_k3(small, torch.zeros_like(small))
    assert bool((k3 >= 0).all() & (k3 < 1e-16).all())


@given(logits=rows((3, 4)), other=rows((3, 4)))
def test_exact_kl_equals_the_loop_and_bounds_any_grouping_of_tokens(
    logits: Tensor, other: Tensor
) -> None:
    """INV-K3: tokens put together into one bucket cannot raise it."""
    got = divergence.kl_full(logits, other)
    for t in range(3):
        wanted = oracles.kl(plain(logits[t]), plain(other[t]))
        assert float(got[t]) == pytest.approx(wanted, abs=1e-9)

    def bucket(x: Tensor) -> Tensor:
        return torch.cat([x[:, :2], x[:, 2:].logsumexp(-1, keepdim=True)], -1)

    assert bool((divergence.kl_full(bucket(logits), bucket(other)) <= got + 1e-9).all())


def test_a_token_illegal_for_both_counts_nothing() -> None:
    inf = float("inf")
    logits = torch.tensor([[0.0, 1.0, -inf]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[1.0, 0.0, -inf]], dtype=torch.float64)
    kl = divergence.kl_full(logits, reference)
    wanted = divergence.kl_full(logits[:, :2], reference[:, :2])
    torch.testing.assert_close(kl, wanted)
    (slope,) = torch.autograd.grad(kl.sum(), logits)
    assert bool(torch.isfinite(slope).all())
    assert float(slope[0, 2]) == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_log_probabilities_in_half_precision_are_refused(dtype: torch.dtype) -> None:
    """P17."""
    row = torch.zeros(3, dtype=dtype)
    with pytest.raises(TypeError, match="compute them in float32"):
        divergence.kl_k1(row, row)


def test_the_price_stands_still_at_the_target_and_follows_the_kl() -> None:
    """INV-AK2 and INV-AK3."""
    assert AdaptiveKL(0.2).update(6.0, 256) == 0.2
    after = [AdaptiveKL(0.2).update(kl, 256) for kl in (0.0, 3.0, 5.9, 6.0, 6.1, 9.0, 1e9)]
    assert after == sorted(after)
    assert after[0] == pytest.approx(0.2 * (1 - 0.2 * 256 / 10_000))
    assert after[-1] == pytest.approx(0.2 * (1 + 0.2 * 256 / 10_000))


@given(seen=st.lists(st.floats(0, 1e6), max_size=40), doubling=st.booleans())
def test_the_price_stays_inside_its_bounds(seen: list[float], doubling: bool) -> None:
    """INV-AK1."""
    rule = "doubling" if doubling else "proportional"
    price = AdaptiveKL(0.2, horizon=100, beta_min=0.1, beta_max=0.5, rule=rule)
    for kl in seen:
        assert 0.1 <= price.update(kl, 64) <= 0.5


def test_the_price_doubles_and_halves_in_the_penalty_form_of_ppo() -> None:
    price = AdaptiveKL(0.2, target=6.0, rule="doubling")
    assert [price.update(kl, 1) for kl in (9.1, 8.9, 4.1, 3.9)] == [0.4, 0.4, 0.4, 0.2]


def test_the_price_is_saved_and_restored() -> None:
    price = AdaptiveKL(0.2)
    price.update(20.0, 500)
    again = AdaptiveKL(0.2)
    again.load_state_dict(price.state_dict())
    assert again.update(3.0, 500) == price.update(3.0, 500)


@pytest.mark.parametrize(
    ("known", "word"),
    [
        ({"target": 0.0}, "target is 0"),
        ({"horizon": -1}, "horizon -1"),
        ({"beta": 0.0}, "beta is 0"),
    ],
)
def test_impossible_controllers_are_refused(known: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        AdaptiveKL(**known)


def test_an_update_that_could_make_the_price_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="n is 50000"):
        AdaptiveKL(0.2).update(1.0, 50_000)
    with pytest.raises(ValueError, match="kl_seq is NaN"):
        AdaptiveKL(0.2).update(float("nan"), 1)
