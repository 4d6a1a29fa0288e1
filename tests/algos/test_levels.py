from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from palaestra.algos import credit, returns, segments
from palaestra.testing import oracles
from palaestra.testing.rows import Experience, experiences, gapped, plain, rates
from torch import Tensor

ONES = {"token": 1.0, "tool": 1.0, "turn": 1.0, "plan": 1.0}
GAMMAS = {"token": 0.97, "tool": 0.9, "turn": 0.8, "plan": 0.7}


def real(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def known(e: Experience) -> dict[str, Any]:
    return {"action_mask": e.action_mask, "episode_id": e.episode_id}


def kernel(e: Experience) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    after = returns.next_values(
        e.values, e.terminated, e.truncated, bootstrap_value=e.bootstrap_value, **known(e)
    )
    return e.rewards, e.values, after, e.terminated, e.truncated


def ids(e: Experience) -> tuple[Tensor, Tensor, Tensor]:
    return e.turn_id, e.call_id, e.plan_id


def close(got: Tensor, wanted: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


def boundary(e: Experience, gamma: dict[str, float], lam: dict[str, float]) -> Tensor:
    rates = returns.level_schedule(*ids(e), e.step_id, gamma=gamma, lam=lam, **known(e))
    return returns.gae(*kernel(e), gamma=rates.gamma, lam=rates.lam, **known(e)).advantages


def firsts(e: Experience, label: Tensor) -> Tensor:
    """Mark the first action of each segment."""
    pooled = segments.segment_reduce(e.rewards, e.values, label, **known(e))
    found = torch.zeros_like(e.action_mask)
    for b in range(found.shape[0]):
        found[b, pooled.first[b][pooled.mask[b]]] = True
    return found


def by_rows(e: Experience, oracle: Any, *rest: Any) -> Tensor:
    fields = [*kernel(e), e.call_id]
    out: list[list[float]] = []
    for b in range(e.rewards.shape[0]):
        parts = [plain(field[b]) for field in fields]
        out.append(oracle(*parts, *rest, plain(e.action_mask[b]), plain(e.episode_id[b])))
    return torch.tensor(out, dtype=torch.float64)


def test_golden_g4_three_turns_of_two_tokens() -> None:
    r, v = real([0, 1, 0, 0.5, 0, 2]), real([0.1, 0.2, 0.3, 0.1, 0.4, 0.5])
    end = torch.tensor([False] * 5 + [True])
    off = torch.zeros_like(end)
    turn, plan = torch.tensor([0, 0, 1, 1, 2, 2]), torch.zeros(6, dtype=torch.long)
    schedule = returns.level_schedule(
        turn,
        turn,
        plan,
        gamma={"token": 1.0, "tool": 1.0, "turn": 0.95, "plan": 0.95},
        lam={"token": 1.0, "tool": 1.0, "turn": 0.9, "plan": 0.9},
    )
    after = returns.next_values(v, end, off)
    got = returns.gae(r, v, after, end, off, gamma=schedule.gamma, lam=schedule.lam).advantages
    close(got, real([2.85054, 2.75054, 1.948, 2.148, 1.6, 1.5]), 1e-12)
    turns = returns.segment_gae(r, v, after, end, off, turn, gamma=0.95, lam=0.9)
    close(turns.advantages, got[[0, 0, 2, 2, 4, 4]], 1e-12)
    assert turns.value_mask.tolist() == [True, False] * 3
    close(turns.value_targets, torch.where(turns.value_mask, turns.advantages + v, 0.0), 0.0)


@given(e=experiences())
def test_the_schedule_equals_the_loop_over_levels(e: Experience) -> None:
    gamma = {**GAMMAS, "step": 0.95}
    got = returns.level_schedule(*ids(e), e.step_id, gamma=gamma, lam=ONES, **known(e)).gamma
    for b in range(e.rewards.shape[0]):
        levels = [
            (name, plain(field[b]))
            for name, field in (
                ("step", e.step_id),
                ("tool", e.call_id),
                ("turn", e.turn_id),
                ("plan", e.plan_id),
            )
        ]
        mask, episode = plain(e.action_mask[b]), plain(e.episode_id[b])
        assert got[b].tolist() == oracles.level_schedule(levels, gamma, mask, episode)


@given(e=experiences(), gamma=rates(), lam=rates())
def test_segment_gae_equals_the_loop_over_segments(e: Experience, gamma: float, lam: float) -> None:
    got = returns.segment_gae(*kernel(e), e.call_id, gamma=gamma, lam=lam, **known(e))
    close(got.advantages, by_rows(e, oracles.segment_gae, gamma, lam))


@given(e=experiences(), numbers=st.tuples(rates(), rates(), rates(), rates()))
def test_two_pass_gae_equals_the_loop_inside_segments(
    e: Experience, numbers: tuple[float, ...]
) -> None:
    gammas = {"token": numbers[0], "segment": numbers[1]}
    lams = {"token": numbers[2], "segment": numbers[3]}
    got = returns.two_pass_gae(*kernel(e), e.call_id, gammas=gammas, lams=lams, **known(e))
    close(got.advantages, by_rows(e, oracles.two_pass_gae, gammas, lams))


@given(e=experiences(), gamma=rates(), lam=rates())
def test_a_segment_for_each_action_is_token_gae(e: Experience, gamma: float, lam: float) -> None:
    """INV-GR1, on rows without any reward as well (P14)."""
    every = torch.arange(e.rewards.shape[1]).expand(e.rewards.shape)
    for same in (e, e.replaced(rewards=e.rewards * 0)):
        wanted = returns.gae(*kernel(same), gamma=gamma, lam=lam, **known(e))
        got = returns.segment_gae(*kernel(same), every, gamma=gamma, lam=lam, **known(e))
        close(got.advantages, wanted.advantages)
        close(got.value_targets, wanted.value_targets)


@given(e=experiences(cuts=False))
def test_one_segment_an_episode_is_a_bandit(e: Experience) -> None:
    """INV-GR2: A = reward in all - value at the start (+ the bootstrap value)."""
    got = returns.segment_gae(*kernel(e), e.episode_id, gamma=1.0, lam=0.3, **known(e))
    rewards, _, after, terminated, truncated = kernel(e)
    wanted = returns.discounted_return(rewards, terminated, truncated, after, **known(e))
    first = firsts(e, e.episode_id)
    close(got.advantages[first], (wanted - e.values)[first])


@given(e=experiences())
def test_without_discount_the_segmentation_does_not_matter_where_segments_start(
    e: Experience,
) -> None:
    """INV-GR3."""
    token = returns.gae(*kernel(e), **known(e)).advantages
    for label in (e.step_id, e.call_id, e.turn_id, e.plan_id):
        got = returns.segment_gae(*kernel(e), label, gamma=1.0, lam=1.0, **known(e)).advantages
        first = firsts(e, label)
        close(got[first], token[first])


@given(e=experiences(), gamma=rates(), lam=rates())
def test_boundary_credit_equals_segment_gae_where_segments_start(
    e: Experience, gamma: float, lam: float
) -> None:
    """INV-GR4 at calls and at turns, with five nested levels."""
    for label, outer in ((e.call_id, ("tool", "turn", "plan")), (e.turn_id, ("turn", "plan"))):
        high = {**ONES, "step": 1.0, **dict.fromkeys(outer, gamma)}
        traces = {**ONES, "step": 1.0, **dict.fromkeys(outer, lam)}
        wanted = returns.segment_gae(*kernel(e), label, gamma=gamma, lam=lam, **known(e))
        first = firsts(e, label)
        close(boundary(e, high, traces)[first], wanted.advantages[first])


@given(e=experiences(), gamma=rates(), lam=rates())
def test_two_passes_without_token_discount_equal_boundary_credit(
    e: Experience, gamma: float, lam: float
) -> None:
    outer = ("tool", "turn", "plan")
    wanted = boundary(
        e, {**ONES, **dict.fromkeys(outer, gamma)}, {**ONES, **dict.fromkeys(outer, lam)}
    )
    got = returns.two_pass_gae(
        *kernel(e),
        e.call_id,
        gammas={"token": 1.0, "segment": gamma},
        lams={"token": 1.0, "segment": lam},
        **known(e),
    )
    close(got.advantages, wanted)


@given(e=experiences(), lam=rates())
def test_moving_reward_inside_a_segment_changes_nothing_at_or_before_its_start(
    e: Experience, lam: float
) -> None:
    """INV-GR5 and INV-RD6, by an actual redistribution inside calls."""
    pooled = segments.segment_reduce(e.rewards, e.values, e.call_id, **known(e))
    moved = credit.redistribute(pooled.rewards, e.values.abs(), e.call_id, **known(e))
    outer = ("tool", "turn", "plan")
    rates = ONES, {**ONES, **dict.fromkeys(outer, lam)}
    first = firsts(e, e.call_id)
    close(boundary(e.replaced(rewards=moved), *rates)[first], boundary(e, *rates)[first])


@given(e=experiences(), at=st.integers(0, 12))
def test_observations_between_tokens_change_nothing(e: Experience, at: int) -> None:
    """INV-GR6 with labels that the observation interrupts."""
    at = min(at, e.rewards.shape[1])
    wide = gapped(e, at, 3)
    got = boundary(wide, GAMMAS, GAMMAS)
    kept = torch.cat([got[:, :at], got[:, at + 3 :]], 1)
    assert torch.equal(kept, boundary(e, GAMMAS, GAMMAS))


@given(e=experiences())
def test_steps_without_a_number_change_nothing(e: Experience) -> None:
    """INV-GR8, bit for bit."""
    bare = returns.level_schedule(*ids(e), gamma=GAMMAS, lam=ONES, **known(e))
    with_ids = returns.level_schedule(*ids(e), e.step_id, gamma=GAMMAS, lam=ONES, **known(e))
    as_token = {**GAMMAS, "step": GAMMAS["token"]}
    named = returns.level_schedule(*ids(e), e.step_id, gamma=as_token, lam=ONES, **known(e))
    for other in (with_ids, named):
        assert torch.equal(other.gamma, bare.gamma)
        assert torch.equal(other.lam, bare.lam)


def test_the_end_anchor_is_the_released_form() -> None:
    """VAGEN: the value at a turn's last token, and no reward before it in the first pass."""
    r, v = real([9.0, 1.0, 9.0, 2.0]), real([0.1, 0.2, 0.3, 0.4])
    end = torch.tensor([False, False, False, True])
    turn = torch.tensor([0, 0, 1, 1])
    rates = {"token": 1.0, "segment": 0.5}
    got = returns.two_pass_gae(
        r,
        v,
        returns.next_values(v, end, ~end & False),
        end,
        end & False,
        turn,
        gammas=rates,
        lams=rates,
        anchor="end",
    ).advantages
    second = 2.0 - 0.4
    first = 1.0 + 0.5 * 0.4 - 0.2 + 0.5 * 0.5 * second
    inside = [9.0 + 0.2 - 0.1 + first, first, 9.0 + 0.4 - 0.3 + second, second]
    close(got, real(inside), 1e-12)


def test_a_call_that_runs_over_the_end_of_its_turn_is_refused() -> None:
    turn, call = torch.tensor([0, 1]), torch.tensor([0, 0])
    with pytest.raises(ValueError, match="a turn ends at action 0 inside a tool"):
        returns.level_schedule(turn, call, call)


@pytest.mark.parametrize(
    ("numbers", "word"),
    [
        ({"token": 1.0}, r"has the levels \['token'\]"),
        ({**ONES, "sentence": 1.0}, "sentence"),
        ({**ONES, "turn": 1.5}, r"\['turn'\] is 1\.5; give 0 to 1"),
    ],
)
def test_wrong_levels_are_refused(numbers: dict[str, float], word: str) -> None:
    label = torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=word):
        returns.level_schedule(label, label, label, gamma=numbers, lam=ONES)


def test_two_passes_need_two_rates() -> None:
    end = torch.tensor([True])
    row = torch.zeros(1), torch.zeros(1), torch.zeros(1), end, ~end, torch.zeros(1).long()
    with pytest.raises(ValueError, match=r"lams has \['turn'\]; give the keys token and segment"):
        returns.two_pass_gae(*row, gammas={"token": 1.0, "segment": 1.0}, lams={"turn": 1.0})


def test_levels_are_named_from_the_inside_out() -> None:
    """The highest level that closes decides."""
    plan, turn = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 2])
    call = torch.tensor([0, 1, 2, 3])
    got = returns.level_schedule(turn, call, plan, gamma=GAMMAS, lam=ONES).gamma
    names = ["tool", "turn", "plan", "plan"]
    assert got.tolist() == [GAMMAS[name] for name in names]
    assert all(GAMMAS[a] > GAMMAS[b] for a, b in pairwise(GAMMAS))
