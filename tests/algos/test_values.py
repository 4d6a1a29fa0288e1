import pytest
import torch
from hypothesis import given
from palaestra.algos import values
from palaestra.testing import oracles
from palaestra.testing.rows import Experience, experiences, plain
from torch import Tensor


def real(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@given(e=experiences())
def test_the_loss_is_the_squared_error_of_actions(e: Experience) -> None:
    """INV-VL1 and INV-VL3, without a factor 1/2."""
    got = values.value_loss(e.values, e.rewards, action_mask=e.action_mask)
    wanted = torch.where(e.action_mask, (e.values - e.rewards) ** 2, 0.0)
    torch.testing.assert_close(got, wanted)


@given(e=experiences())
def test_the_clipped_loss_is_never_below_the_plain_one(e: Experience) -> None:
    """INV-VL2; inside the clip range they are equal."""
    plain = values.value_loss(e.values, e.rewards)
    clipped = values.value_loss(e.values, e.rewards, e.bootstrap_value, clip=0.2)
    assert bool((clipped >= plain).all())
    near = values.value_loss(e.values, e.rewards, e.values + 0.1, clip=0.2)
    torch.testing.assert_close(near, plain)


def test_clipping_freezes_a_critic_whose_targets_are_far() -> None:
    """P18, the reason why it is off by default."""
    leaf = real([1.0]).requires_grad_()
    row = values.value_loss(leaf, real([10.0]), real([0.0]), clip=0.2)
    assert row.tolist() == [pytest.approx((0.2 - 10) ** 2)]
    (slope,) = torch.autograd.grad(row.sum(), leaf)
    assert float(slope) == 0.0


def test_the_huber_loss_is_squared_inside_and_linear_outside() -> None:
    error = torch.linspace(-4, 4, 81, dtype=torch.float64).requires_grad_()
    row = values.huber(error, delta=1.5)
    inside = error.detach().abs() <= 1.5
    torch.testing.assert_close(row[inside], error[inside].square())
    (slope,) = torch.autograd.grad(row.sum(), error)
    torch.testing.assert_close(slope, 2 * error.detach().clamp(-1.5, 1.5))


@pytest.mark.parametrize("clip", [0.0, -1.0])
def test_an_impossible_clip_is_refused(clip: float) -> None:
    zero = torch.zeros(2)
    with pytest.raises(ValueError, match="clip is"):
        values.value_loss(zero, zero, zero, clip=clip)
    with pytest.raises(ValueError, match="old_values with it"):
        values.value_loss(zero, zero, clip=0.2)
    with pytest.raises(ValueError, match="delta is"):
        values.huber(zero, delta=clip)


@given(e=experiences())
def test_explained_variance_equals_the_loop_and_is_at_most_one(e: Experience) -> None:
    """INV-CR3."""
    targets = (e.rewards * 8).round() / 8
    spoiled = torch.where(e.action_mask, e.values, torch.nan)
    got = float(values.explained_variance(spoiled, targets, action_mask=e.action_mask))
    kept = e.action_mask
    wanted = oracles.explained_variance(plain(e.values[kept]), plain(targets[kept]))
    assert got == pytest.approx(wanted, rel=1e-6, abs=1e-6)
    assert got <= 1 + 1e-12


def test_explained_variance_has_its_marks() -> None:
    y = real([1.0, 2.0, 4.0])
    assert float(values.explained_variance(y, y)) == 1.0
    assert float(values.explained_variance(y + 5, y)) == 1.0
    assert float(values.explained_variance(y * 0, y)) == 0.0
    assert float(values.explained_variance(y, y * 0 + 0.1)) == 0.0
    assert float(values.explained_variance(-y, y)) < 0
    nothing = torch.zeros(3, dtype=torch.bool)
    assert float(values.explained_variance(y, y, action_mask=nothing)) == 0.0
