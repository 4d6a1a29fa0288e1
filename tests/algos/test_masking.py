import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from palaestra.algos import masking
from palaestra.testing import oracles
from palaestra.testing.rows import action_masks, plain, rows, shapes
from torch import Tensor


@st.composite
def masked_rows(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    shape = draw(shapes())
    return draw(rows(shape)), draw(action_masks(shape))


@given(case=masked_rows(), floor=st.sampled_from([1e-8, 0.05, 3.0]))
def test_whitening_equals_the_loop(case: tuple[Tensor, Tensor], floor: float) -> None:
    row, mask = case
    got = masking.whiten(row, action_mask=mask, std_floor=floor)[mask]
    wanted = torch.tensor(oracles.whiten(plain(row[mask]), floor), dtype=torch.float64)
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-9)


def test_whitened_advantages_have_mean_zero_and_spread_one_in_the_same_order() -> None:
    """INV-W1 and INV-W3."""
    row = (
        torch.randn(4, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 7 + 3
    )
    white = masking.whiten(row)
    assert float(white.mean()) == pytest.approx(0.0, abs=1e-12)
    assert float(white.std()) == pytest.approx(1.0)
    assert torch.equal(white.flatten().argsort(), row.flatten().argsort())


def test_whitening_in_parts_equals_whitening_the_batch() -> None:
    """INV-W2."""
    source = torch.Generator().manual_seed(1)
    row = torch.randn(9, 20, dtype=torch.float64, generator=source)
    mask = torch.rand(9, 20, generator=source) < 0.6
    mask[3] = False
    parts = [slice(0, 1), slice(1, 3), slice(3, 4), slice(4, 9)]
    whole = masking.combine([masking.moments(row[part], mask[part]) for part in parts])
    pieces = [masking.whiten(row[p], action_mask=mask[p], batch=whole) for p in parts]
    torch.testing.assert_close(
        torch.cat(pieces), masking.whiten(row, action_mask=mask), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("row", [[2.0], [3.0, 3.0, 3.0], [0.1, 0.1, 0.1]])
def test_without_spread_the_advantages_are_only_centred(row: list[float]) -> None:
    white = masking.whiten(torch.tensor(row, dtype=torch.float64))
    assert float(white.abs().max()) < 1e-15


def test_the_floor_keeps_small_noise_small() -> None:
    noise = torch.tensor([-0.001, 0.001], dtype=torch.float64)
    assert float(masking.whiten(noise, std_floor=0.05).max()) == pytest.approx(0.02)


def test_rewards_can_be_scaled_without_a_shift_of_their_mean() -> None:
    row = torch.tensor([1.0, 3.0], dtype=torch.float64)
    scaled = masking.whiten(row, shift_mean=False)
    torch.testing.assert_close(scaled, row / row.std())


def test_a_floor_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match=r"std_floor is 0\.0; give a positive"):
        masking.whiten(torch.zeros(3), std_floor=0.0)


def test_combining_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="got no moments"):
        masking.combine([])


@given(case=masked_rows())
def test_mean_and_variance_count_masked_entries_only(case: tuple[Tensor, Tensor]) -> None:
    row, mask = case
    spoiled = torch.where(mask, row, torch.nan)
    kept = plain(row[mask])
    mean = sum(kept) / len(kept) if kept else 0.0
    assert float(masking.masked_mean(spoiled, mask)) == pytest.approx(mean, abs=1e-12)
    variance = oracles.deviation(kept) ** 2
    assert float(masking.masked_var(spoiled, mask)) == pytest.approx(variance, abs=1e-9)
    along = masking.masked_mean(spoiled, mask, dim=-1)
    across = masking.masked_var(spoiled, mask, dim=-1)
    for b in range(row.shape[0]):
        line = plain(row[b][mask[b]])
        assert float(along[b]) == pytest.approx(sum(line) / max(len(line), 1), abs=1e-12)
        assert float(across[b]) == pytest.approx(oracles.deviation(line) ** 2, abs=1e-9)
