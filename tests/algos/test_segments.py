import pytest
import torch
from hypothesis import given
from palaestra.algos import segments
from palaestra.testing import oracles
from palaestra.testing.rows import Experience, experiences, plain


def test_rewards_are_summed_and_values_read_at_the_first_action() -> None:
    rewards = torch.tensor([[1.0, 2.0, 9.0, 3.0, 4.0], [5.0, 0.0, 0.0, 0.0, 0.0]])
    values = torch.tensor([[0.1, 0.2, 9.0, 0.3, 0.4], [0.5, 0.0, 0.0, 0.0, 0.0]])
    ids = torch.tensor([[7, 7, 8, 7, 2], [0, 0, 0, 0, 0]])
    mask = torch.tensor([[True, True, False, True, True], [True, False, False, False, False]])
    pooled = segments.segment_reduce(rewards, values, ids, action_mask=mask)
    assert pooled.rewards.tolist() == [[6.0, 4.0], [5.0, 0.0]]
    assert pooled.values.tolist() == torch.tensor([[0.1, 0.4], [0.5, 0.0]]).tolist()
    assert pooled.first.tolist() == [[0, 4], [0, 0]]
    assert pooled.last.tolist() == [[3, 4], [0, 0]]
    assert pooled.mask.tolist() == [[True, True], [True, False]]


def test_a_label_that_returns_in_another_episode_is_another_segment() -> None:
    zeros, ids = torch.zeros(4), torch.zeros(4, dtype=torch.long)
    episode = torch.tensor([0, 0, 1, 1])
    pooled = segments.segment_reduce(zeros, zeros, ids, episode_id=episode)
    assert pooled.first.tolist() == [0, 2]


@given(e=experiences())
def test_segments_equal_the_loop_over_positions(e: Experience) -> None:
    pooled = segments.segment_reduce(
        e.rewards, e.values, e.call_id, action_mask=e.action_mask, episode_id=e.episode_id
    )
    for row in range(e.rewards.shape[0]):
        mask, ids = plain(e.action_mask[row]), plain(e.call_id[row])
        parts = oracles.segments([False] * len(mask), ids, mask, plain(e.episode_id[row]))
        assert int(pooled.mask[row].sum()) == len(parts)
        for k, part in enumerate(parts):
            assert int(pooled.first[row, k]) == part[0]
            assert int(pooled.last[row, k]) == part[-1]
            assert float(pooled.values[row, k]) == float(e.values[row, part[0]])
            total = sum(float(e.rewards[row, t]) for t in part)
            assert float(pooled.rewards[row, k]) == pytest.approx(total, abs=1e-12)


@given(e=experiences())
def test_broadcasting_gives_every_action_the_number_of_its_segment(e: Experience) -> None:
    known = {"action_mask": e.action_mask, "episode_id": e.episode_id}
    pooled = segments.segment_reduce(e.rewards, e.values, e.turn_id, **known)
    number = torch.arange(1.0, pooled.mask.shape[-1] + 1).expand(pooled.mask.shape)
    spread = segments.segment_broadcast(number, e.turn_id, **known)
    again = segments.segment_reduce(spread, spread, e.turn_id, **known)
    assert torch.equal(again.values[pooled.mask].float(), number[pooled.mask])
    assert bool((spread[~e.action_mask] == 0).all())


def test_too_few_columns_are_refused() -> None:
    with pytest.raises(ValueError, match=r"advantages is \[1\]; give \[2\]"):
        segments.segment_broadcast(torch.zeros(1), torch.tensor([0, 1]))
