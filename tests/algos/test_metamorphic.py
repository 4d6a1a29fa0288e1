"""What holds for every function of rows, asked of each of them by one parametrised test."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from palaestra.algos import (
    credit,
    divergence,
    exploration,
    losses,
    masking,
    returns,
    segments,
    values,
)
from palaestra.testing.rows import Experience, blinded, experiences, gapped, packed, permuted
from torch import Tensor

Row = dict[str, Tensor]
Known = dict[str, Any]
EXAMPLES = settings(deadline=None, max_examples=15)
GAMMAS = {"token": 0.97, "step": 0.95, "tool": 0.9, "turn": 0.8, "plan": 0.7}
LAMS = {"token": 1.0, "step": 0.9, "tool": 0.8, "turn": 0.5, "plan": 0.3}


@dataclass(frozen=True, eq=False)
class Case:
    """A function of rows: how to call it, and which of its inputs may receive a gradient."""

    call: Callable[[Row, Experience], Tensor | tuple[Any, ...]]
    learns: tuple[str, ...] = ()


def mask_of(e: Experience) -> Known:
    return {"action_mask": e.action_mask}


def known(e: Experience) -> Known:
    return {"action_mask": e.action_mask, "episode_id": e.episode_id}


def inputs(e: Experience) -> Row:
    """Every float row that a function may want, made of the experience position by position."""
    after = returns.next_values(
        e.values, e.terminated, e.truncated, bootstrap_value=e.bootstrap_value, **known(e)
    )
    return {
        "rewards": e.rewards,
        "values": e.values,
        "bootstrap_value": e.bootstrap_value,
        "next_values": after,
        "advantages": e.rewards - e.values,
        "logprobs": -e.values.abs(),
        "old_logprobs": -e.values.abs() + e.rewards / 5,
        "weights": e.values.abs(),
        "logits": torch.stack([e.values, e.rewards, e.bootstrap_value], -1),
        "reference_logits": torch.stack([e.rewards, e.values, e.rewards], -1),
    }


def kernel(x: Row, e: Experience) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return x["rewards"], x["values"], x["next_values"], e.terminated, e.truncated


def targets(x: Row, e: Experience) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return x["rewards"], e.terminated, e.truncated, x["next_values"]


def by_level(x: Row, e: Experience) -> Tensor:
    schedule = returns.level_schedule(
        e.turn_id, e.call_id, e.plan_id, e.step_id, gamma=GAMMAS, lam=LAMS, **known(e)
    )
    return returns.gae(*kernel(x, e), gamma=schedule.gamma, lam=schedule.lam, **known(e))[0]


def spread_again(x: Row, e: Experience) -> Tensor:
    pooled = segments.segment_reduce(x["rewards"], x["values"], e.call_id, **known(e))
    return segments.segment_broadcast(pooled.values, e.call_id, **known(e))


def paid_again(x: Row, e: Experience) -> Tensor:
    pooled = segments.segment_reduce(x["rewards"], x["values"], e.call_id, **known(e))
    return credit.place(pooled.rewards, e.action_mask, e.call_id, episode_id=e.episode_id)


def shared_again(x: Row, e: Experience) -> Tensor:
    pooled = segments.segment_reduce(x["rewards"], x["values"], e.call_id, **known(e))
    return credit.redistribute(pooled.rewards, x["weights"], e.call_id, **known(e))


def discounted_again(x: Row, e: Experience) -> Tensor:
    pooled = segments.segment_reduce(x["rewards"], x["values"], e.call_id, **known(e))
    return credit.redistribute(
        pooled.rewards, x["weights"], e.call_id, preserve="discounted", gamma=0.9, **known(e)
    )


TWO = {"token": 0.9, "segment": 0.8}
CASES: dict[str, Case] = {
    "next_values": Case(
        lambda x, e: returns.next_values(
            x["values"],
            e.terminated,
            e.truncated,
            bootstrap_value=x["bootstrap_value"],
            **known(e),
        )
    ),
    "discounted_return": Case(
        lambda x, e: returns.discounted_return(*targets(x, e), gamma=0.9, **known(e))
    ),
    "n_step": Case(lambda x, e: returns.n_step(*targets(x, e), gamma=0.9, n=3, **known(e))),
    "lambda_return": Case(
        lambda x, e: returns.lambda_return(*targets(x, e), gamma=0.9, lam=0.7, **known(e))
    ),
    "gae": Case(lambda x, e: tuple(returns.gae(*kernel(x, e), gamma=0.9, lam=0.8, **known(e)))),
    "level_schedule": Case(by_level),
    "segment_gae": Case(
        lambda x, e: tuple(
            returns.segment_gae(*kernel(x, e), e.call_id, gamma=0.9, lam=0.8, **known(e))
        )
    ),
    "two_pass_gae": Case(
        lambda x, e: tuple(
            returns.two_pass_gae(*kernel(x, e), e.call_id, gammas=TWO, lams=TWO, **known(e))
        )
    ),
    "two_pass_gae anchored at the end": Case(
        lambda x, e: tuple(
            returns.two_pass_gae(
                *kernel(x, e), e.call_id, gammas=TWO, lams=TWO, anchor="end", **known(e)
            )
        )
    ),
    "segment_reduce and broadcast": Case(spread_again),
    "place": Case(paid_again),
    "redistribute": Case(shared_again),
    "redistribute discounted": Case(discounted_again),
    "potential_shaping": Case(
        lambda x, e: credit.potential_shaping(
            x["values"], x["next_values"], e.terminated, e.truncated, gamma=0.9, **mask_of(e)
        )
    ),
    "kl_reward": Case(
        lambda x, e: tuple(
            credit.kl_reward(x["rewards"], x["logprobs"], x["old_logprobs"], **mask_of(e))
        )
    ),
    "kl_k1": Case(
        lambda x, e: divergence.kl_k1(x["logprobs"], x["old_logprobs"], **mask_of(e)),
        ("logprobs",),
    ),
    "kl_k2": Case(
        lambda x, e: divergence.kl_k2(x["logprobs"], x["old_logprobs"], **mask_of(e)),
        ("logprobs",),
    ),
    "kl_k3": Case(
        lambda x, e: divergence.kl_k3(x["logprobs"], x["old_logprobs"], **mask_of(e)),
        ("logprobs",),
    ),
    "kl_k3plus": Case(
        lambda x, e: divergence.kl_k3plus(x["logprobs"], x["old_logprobs"], **mask_of(e)),
        ("logprobs",),
    ),
    "kl_full": Case(
        lambda x, e: divergence.kl_full(x["logits"], x["reference_logits"], **mask_of(e)),
        ("logits",),
    ),
    "entropy": Case(lambda x, e: exploration.entropy(x["logits"], **mask_of(e)), ("logits",)),
    "reinforce": Case(
        lambda x, e: losses.reinforce(x["logprobs"], x["advantages"], **mask_of(e)),
        ("logprobs",),
    ),
    "ppo": Case(
        lambda x, e: (
            losses.ppo(
                x["logprobs"], x["old_logprobs"], x["advantages"], dual_clip=3.0, **mask_of(e)
            ).row
        ),
        ("logprobs",),
    ),
    "value_loss": Case(
        lambda x, e: values.value_loss(
            x["values"], x["rewards"], x["next_values"], clip=0.2, **mask_of(e)
        ),
        ("values",),
    ),
    "value_loss of Huber": Case(
        lambda x, e: values.value_loss(x["values"], x["rewards"], kind="huber", **mask_of(e)),
        ("values",),
    ),
    "whiten": Case(lambda x, e: masking.whiten(x["advantages"], **mask_of(e))),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def outputs(case: Case, x: Row, e: Experience) -> list[Tensor]:
    found = case.call(x, e)
    return [found] if isinstance(found, Tensor) else [row for row in found if row is not None]


def hidden(e: Experience) -> Row:
    """The inputs, with NaN wherever there is no action."""

    def hide(row: Tensor) -> Tensor:
        mask = e.action_mask if row.dim() == 2 else e.action_mask[..., None]
        return torch.where(mask, row, torch.nan)

    return {name: hide(row) for name, row in inputs(e).items()}


def equal(got: list[Tensor], wanted: list[Tensor], tolerance: float = 0.0) -> None:
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@every_case
@EXAMPLES
@given(e=experiences())
def test_positions_without_action_are_zero_and_never_read(case: Case, e: Experience) -> None:
    """INV-MASK, with NaN in every float, True flags and strange labels."""
    wanted = outputs(case, inputs(e), e)
    equal(outputs(case, hidden(e), blinded(e)), wanted)
    for row in wanted:
        assert bool((row[~e.action_mask] == 0).all())


@every_case
@EXAMPLES
@given(e=experiences(), at=st.integers(0, 12), length=st.sampled_from([1, 5, 70]))
def test_padding_and_gaps_change_nothing(case: Case, e: Experience, at: int, length: int) -> None:
    """INV-PAD and gap invariance, bit for bit, at both sides and inside."""
    at = min(at, e.rewards.shape[1])
    wide = gapped(e, at, length)
    got = outputs(case, inputs(wide), wide)
    kept = [torch.cat([row[:, :at], row[:, at + length :]], 1) for row in got]
    equal(kept, outputs(case, inputs(e), e))


@every_case
@EXAMPLES
@given(e=experiences(), data=st.data())
def test_the_order_of_rows_does_not_matter(case: Case, e: Experience, data: st.DataObject) -> None:
    """INV-PERM; whitening sums over all rows, so that only there rounding may differ."""
    order = torch.tensor(data.draw(st.permutations(range(e.rewards.shape[0]))))
    moved = permuted(e, order)
    wanted = [row[order] for row in outputs(case, inputs(e), e)]
    tolerance = 1e-9 if case is CASES["whiten"] else 0.0
    equal(outputs(case, inputs(moved), moved), wanted, tolerance)


@every_case
@EXAMPLES
@given(e=experiences())
def test_a_packed_row_equals_separate_rows(case: Case, e: Experience) -> None:
    """INV-PACK, bit for bit."""
    one = packed(e)
    got = [row.reshape(e.rewards.shape) for row in outputs(case, inputs(one), one)]
    equal(got, outputs(case, inputs(e), e))


@every_case
@EXAMPLES
@given(e=experiences())
def test_gradients_flow_only_where_they_should(case: Case, e: Experience) -> None:
    """INV-SG: targets, advantages, old and reference policies are constants."""
    leaves = {name: row.clone().requires_grad_() for name, row in inputs(e).items()}
    live = [row for row in outputs(case, leaves, e) if row.requires_grad]
    assert bool(live) == bool(case.learns)
    for row in live:
        grads = torch.autograd.grad(row.sum(), list(leaves.values()), allow_unused=True)
        for name, grad in zip(leaves, grads, strict=True):
            if name not in case.learns:
                assert grad is None or not bool(grad.any())


@every_case
@EXAMPLES
@given(e=experiences())
def test_nan_outside_the_mask_spoils_no_gradient(case: Case, e: Experience) -> None:
    """P2: `where` guards the forward pass only, unless the inputs are masked too."""
    leaves = {name: row.detach().requires_grad_() for name, row in hidden(e).items()}
    for row in outputs(case, leaves, e):
        if row.requires_grad:
            grads = torch.autograd.grad(row.sum(), [leaves[name] for name in case.learns])
            assert all(bool(torch.isfinite(grad).all()) for grad in grads)


@every_case
@EXAMPLES
@given(e=experiences(), size=st.sampled_from([1e-30, 1e6, 300.0]))
def test_extreme_inputs_stay_finite(case: Case, e: Experience, size: float) -> None:
    big = e.replaced(rewards=e.rewards * size, values=e.values * size)
    for row in outputs(case, inputs(big), big):
        assert bool(torch.isfinite(row.double()).all())


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@EXAMPLES
@given(e=experiences())
def test_the_dtype_is_kept_and_float32_agrees(
    case: Case, dtype: torch.dtype, e: Experience
) -> None:
    x = {name: row.to(dtype) for name, row in inputs(e).items()}
    # the same numbers in both: 1e-210 is a weight for one and none for the other
    wanted = outputs(case, {name: row.double() for name, row in x.items()}, e)
    for got, reference in zip(outputs(case, x, e), wanted, strict=True):
        assert got.dtype in (dtype, torch.bool)
        if case not in (CASES["whiten"], CASES["ppo"]):
            torch.testing.assert_close(got.double(), reference.double(), rtol=1e-4, atol=1e-3)


@every_case
@EXAMPLES
@given(e=experiences())
def test_inputs_are_kept_and_repeats_are_equal(case: Case, e: Experience) -> None:
    x = inputs(e)
    before = {name: row.clone() for name, row in x.items()}
    first = outputs(case, x, e)
    equal(outputs(case, x, e), first)
    equal(list(x.values()), list(before.values()))


@every_case
@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (0, 0)])
def test_empty_batches_have_empty_results(case: Case, shape: tuple[int, int]) -> None:
    number = torch.zeros(shape, dtype=torch.float64)
    flag, label = number.bool(), number.long()
    e = Experience(number, number, number, flag, flag, flag, label, label, label, label, label)
    for row in outputs(case, inputs(e), e):
        assert row.shape == shape


@every_case
def test_rows_may_have_one_or_three_axes(case: Case) -> None:
    source = torch.Generator().manual_seed(0)
    shape = (2, 3, 4)
    r, v, after = (torch.randn(shape, generator=source, dtype=torch.float64) for _ in range(3))
    end = torch.zeros(shape, dtype=torch.bool)
    end[..., -1] = True
    mask = torch.ones_like(end)
    mask[..., 1] = False
    label = torch.tensor([0, 0, 1, 1]).expand(shape)
    whole = Experience(r, v, after, end, ~end & end, mask, label * 0, label, label, label, label)
    flat = whole.mapped(lambda field: field.reshape(6, 4))
    wanted = outputs(case, inputs(flat), flat)
    equal([row.reshape(6, 4) for row in outputs(case, inputs(whole), whole)], wanted)
    if case is not CASES["whiten"]:
        line = flat.mapped(lambda field: field[2])
        equal(outputs(case, inputs(line), line), [row[2] for row in wanted])
