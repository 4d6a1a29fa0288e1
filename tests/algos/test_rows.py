import pytest
import torch
from palaestra.algos.rows import Actions, at_least_float32, following


def test_actions_lie_end_to_end_in_one_line() -> None:
    mask = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    row = torch.arange(9.0).view(3, 3)
    actions = Actions.of(row, mask, None)
    assert actions.take(row).tolist() == [0, 2, 7]
    assert actions.last.tolist() == [False, True, True]
    assert torch.equal(actions.put(actions.take(row)), torch.where(mask, row, 0.0))


def test_an_episode_ends_where_the_label_of_the_next_action_differs() -> None:
    row, mask = torch.zeros(5), torch.tensor([True, True, False, True, True])
    actions = Actions.of(row, mask, torch.tensor([0, 0, 9, 0, 1]))
    assert actions.last.tolist() == [False, False, True, True]


def test_a_rate_for_each_row_is_spread_over_it() -> None:
    row = torch.zeros(2, 3, dtype=torch.float64)
    actions = Actions.of(row, None, None)
    lam = torch.tensor([[0.5], [0.25]])
    assert actions.rate("lam", lam, actions.take(row)).tolist() == [0.5] * 3 + [0.25] * 3


def test_rates_outside_the_mask_are_not_read() -> None:
    row, mask = torch.zeros(2), torch.tensor([True, False])
    actions = Actions.of(row, mask, None)
    assert actions.rate("gamma", torch.tensor([0.5, torch.nan]), row[:1]).tolist() == [0.5]


def test_the_common_dtype_is_at_least_float32() -> None:
    half, double = torch.zeros(1, dtype=torch.float16), torch.zeros(1, dtype=torch.float64)
    assert [t.dtype for t in at_least_float32(half)] == [torch.float32]
    assert [t.dtype for t in at_least_float32(half, double)] == [torch.float64] * 2


def test_wrong_shapes_are_named() -> None:
    row = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"action_mask is \[3\]; give \[2, 3\], as the row"):
        Actions.of(row, torch.ones(3, dtype=torch.bool), None)
    with pytest.raises(ValueError, match=r"episode_id is \[3\]"):
        Actions.of(row, None, torch.zeros(3, dtype=torch.long))


def test_nothing_follows_the_last_position() -> None:
    assert following(torch.tensor([1.0, 2.0])).tolist() == [2.0, 0.0]
    assert following(torch.zeros(0)).shape == (0,)
