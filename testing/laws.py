"""Laws of reward and credit, as assertions for one example and as properties over many."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from .rows import (
    Experience,
    action_masks,
    blinded,
    experiences,
    gapped,
    last_actions,
    packed,
    permuted,
    rates,
    rows,
    shapes,
)

Advantage = Callable[[Experience], Tensor]
"""Experience -> advantages `[B, T]`."""
Redistribution = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(rewards `[B]`, weights `[B, T]`, action_mask `[B, T]`) -> rewards `[B, T]`."""
Shaping = Callable[[Experience, float], Tensor]
"""(experience whose `values` are potentials, gamma) -> extra rewards `[B, T]`."""

_Example = TypeVar("_Example")
_Function = TypeVar("_Function")


def _close(got: Tensor, wanted: Tensor, law: str, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(
        got, wanted, rtol=tolerance, atol=tolerance, msg=lambda text: f"{law}: {text}"
    )


def zero_without_action(advantage: Advantage, experience: Experience) -> None:
    """Positions that are no actions get exactly 0."""
    rest = advantage(experience)[~experience.action_mask]
    _close(rest, torch.zeros_like(rest), "a position without action has credit", 0.0)


def blind_to_the_rest(advantage: Advantage, experience: Experience) -> None:
    """What stands at positions that are no actions changes nothing, be it NaN."""
    got = advantage(blinded(experience))
    _close(got, advantage(experience), "a position without action was read")


def gaps_are_crossed(advantage: Advantage, experience: Experience) -> None:
    """Tool output between two actions, before and after them, decays nothing."""
    wanted, length = advantage(experience), 3
    for at in range(wanted.shape[1] + 1):
        got = advantage(gapped(experience, at, length))
        kept = torch.cat([got[:, :at], got[:, at + length :]], dim=1)
        _close(kept, wanted, f"{length} positions of tool output at {at} changed the credit")


def rows_are_independent(advantage: Advantage, experience: Experience) -> None:
    """The order of the rows does not matter."""
    order = torch.arange(experience.rewards.shape[0]).flip(0)
    got = advantage(permuted(experience, order))
    _close(got, advantage(experience)[order], "the order of the rows changed the credit")


def packing_is_ignored(advantage: Advantage, experience: Experience) -> None:
    """Two episodes in one row have the credit that they have in two rows."""
    wanted = advantage(experience)
    got = advantage(packed(experience)).reshape(wanted.shape)
    _close(got, wanted, "an episode's credit depends on what is packed beside it")


def credit_stays_local(advantage: Advantage, experience: Experience) -> None:
    """A reward changes the credit of its own and earlier actions of its episode only."""
    before = advantage(experience)
    for row, time in experience.action_mask.nonzero():
        rewards = experience.rewards.clone()
        rewards[row, time] += 1.0
        change = advantage(experience.replaced(rewards=rewards)) - before
        label = experience.episode_id[row]
        reach = torch.zeros_like(experience.action_mask)
        reach[row] = (label == label[time]) & (torch.arange(label.shape[0]) <= time)
        rest = change[~reach]
        _close(rest, torch.zeros_like(rest), f"the reward at {int(row)}, {int(time)} reached out")


def more_reward_is_not_worse(advantage: Advantage, experience: Experience) -> None:
    """Raising a reward lowers no advantage."""
    before = advantage(experience)
    for row, time in experience.action_mask.nonzero():
        rewards = experience.rewards.clone()
        rewards[row, time] += 1.0
        change = advantage(experience.replaced(rewards=rewards)) - before
        worst = float(change.min())
        assert worst >= -1e-9, f"a reward of 1 at {int(row)}, {int(time)} lowered credit: {worst}"


def credit_is_constant(advantage: Advantage, experience: Experience) -> None:
    """No gradient flows from an advantage into rewards and values."""
    leaf = experience.replaced(
        rewards=experience.rewards.clone().requires_grad_(),
        values=experience.values.clone().requires_grad_(),
        bootstrap_value=experience.bootstrap_value.clone().requires_grad_(),
    )
    assert not advantage(leaf).requires_grad, "advantages carry a gradient; detach them"


def inputs_are_kept(advantage: Advantage, experience: Experience) -> None:
    """Nothing is modified in place, and the same input has the same result."""
    copy = experience.mapped(torch.clone)
    first, again = advantage(copy), advantage(copy)
    _close(again, first, "two calls differ", 0.0)
    _close(copy.rewards, experience.rewards, "rewards were modified in place", 0.0)
    _close(copy.values, experience.values, "values were modified in place", 0.0)


ADVANTAGE: Mapping[str, Callable[[Advantage, Experience], None]] = {
    law.__name__: law
    for law in (
        zero_without_action,
        blind_to_the_rest,
        gaps_are_crossed,
        rows_are_independent,
        packing_is_ignored,
        credit_stays_local,
        more_reward_is_not_worse,
        credit_is_constant,
        inputs_are_kept,
    )
}
"""Laws of an advantage function by name. Those that compare with other rows, as whitening and
group baselines do, keep all but `credit_stays_local` and `more_reward_is_not_worse`."""


def sum_is_preserved(function: Redistribution, case: tuple[Tensor, Tensor, Tensor]) -> None:
    """The shares of a row add up to its reward."""
    reward, _, mask = case
    paid = function(*case).sum(-1)
    _close(paid, torch.where(mask.any(-1), reward, 0.0), "the rewards of a row do not add up")


def shares_lie_on_actions(function: Redistribution, case: tuple[Tensor, Tensor, Tensor]) -> None:
    """No position without action is paid."""
    rest = function(*case)[~case[2]]
    _close(rest, torch.zeros_like(rest), "a position without action is paid", 0.0)


def shares_keep_the_sign(function: Redistribution, case: tuple[Tensor, Tensor, Tensor]) -> None:
    """No share has another sign than the reward."""
    against = function(*case) * case[0][:, None].sign() < 0
    assert not bool(against.any()), "a share has another sign than the reward it is cut from"


def weights_are_relative(function: Redistribution, case: tuple[Tensor, Tensor, Tensor]) -> None:
    """Scaling all weights changes nothing."""
    reward, weight, mask = case
    _close(function(reward, weight * 8, mask), function(*case), "8 x the weights paid otherwise")


def one_weight_takes_all(function: Redistribution, case: tuple[Tensor, Tensor, Tensor]) -> None:
    """Where one action alone has a weight, it is paid the whole reward."""
    reward, weight, mask = case
    only = last_actions(mask, torch.zeros_like(mask, dtype=torch.long))
    wanted = torch.where(only, reward[:, None], 0.0)
    got = function(reward, torch.where(only, 1.0, torch.zeros_like(weight)), mask)
    _close(got, wanted, "the only action with a weight was not paid all")


REDISTRIBUTION: Mapping[str, Callable[[Redistribution, tuple[Tensor, Tensor, Tensor]], None]] = {
    law.__name__: law
    for law in (
        sum_is_preserved,
        shares_lie_on_actions,
        shares_keep_the_sign,
        weights_are_relative,
        one_weight_takes_all,
    )
}
"""Laws of a sum-preserving redistribution by name."""


def shaping_telescopes(function: Shaping, case: tuple[Experience, float]) -> None:
    """Discounted over an episode, potential shaping is worth -potential(start), all told.

    After truncation the potential of the last state is added, discounted.
    """
    experience, gamma = case
    extra = function(experience, gamma)
    mask, episode = experience.action_mask, experience.episode_id
    for row in range(mask.shape[0]):
        for label in range(int(episode[row].min()), int(episode[row].max()) + 1):
            where = (mask[row] & (episode[row] == label)).nonzero()[:, 0]
            if where.numel() == 0:
                continue
            discount = gamma ** torch.arange(where.numel(), dtype=torch.float64)
            paid = (extra[row, where] * discount).sum()
            wanted = -experience.values[row, where[0]]
            if not bool(experience.terminated[row, where[-1]]):
                wanted = wanted + gamma * discount[-1] * experience.bootstrap_value[row, where[-1]]
            _close(paid, wanted, "shaping does not telescope: a loop in the episode earns reward")


def check_advantage(
    advantage: Advantage, *, laws: Iterable[str] = tuple(ADVANTAGE), examples: int = 50
) -> None:
    """Search for experience that breaks a law of advantages; shrink what is found.

    Args:
        advantage: Maps an `Experience` to advantages `[B, T]`.
        laws: Names out of `ADVANTAGE`.
        examples: How many examples are drawn for each law.

    Raises:
        AssertionError: The law and the smallest example that breaks it.

    >>> from palaestra.algos import gae, next_values
    >>> def mine(e):
    ...     known = dict(action_mask=e.action_mask, episode_id=e.episode_id)
    ...     after = next_values(
    ...         e.values, e.terminated, e.truncated, bootstrap_value=e.bootstrap_value, **known)
    ...     return gae(e.rewards, e.values, after, e.terminated, e.truncated, **known).advantages
    >>> check_advantage(mine, examples=5)
    """
    for name in laws:
        _search(advantage, ADVANTAGE[name], experiences(max_rows=3, max_time=8), examples)


def check_redistribution(
    function: Redistribution, *, laws: Iterable[str] = tuple(REDISTRIBUTION), examples: int = 50
) -> None:
    """Search for rewards and weights that break a law of redistribution.

    Args:
        function: Maps (rewards `[B]`, weights `[B, T]`, action_mask `[B, T]`) to `[B, T]`.
            A row without actions has reward 0.
        laws: Names out of `REDISTRIBUTION`.
        examples: How many examples are drawn for each law.

    Raises:
        AssertionError: The law and the smallest example that breaks it.

    >>> from palaestra.algos import redistribute
    >>> check_redistribution(lambda r, w, m: redistribute(r, w, action_mask=m), examples=5)
    """
    for name in laws:
        _search(function, REDISTRIBUTION[name], _shares(), examples)


def check_shaping(function: Shaping, *, examples: int = 50) -> None:
    """Search for potentials whose shaping can be farmed.

    Args:
        function: Maps (experience with potentials as `values`, gamma) to extra rewards `[B, T]`.
        examples: How many examples are drawn.

    Raises:
        AssertionError: The smallest example whose extra rewards do not telescope.
    """
    cases = st.tuples(experiences(max_rows=3, max_time=8), rates())
    _search(function, shaping_telescopes, cases, examples)


@st.composite
def _shares(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    shape = draw(shapes(3, 8))
    mask = draw(action_masks(shape))
    reward = draw(rows((shape[0], 1)))[:, 0]
    return torch.where(mask.any(-1), reward, 0.0), draw(rows(shape, 0.0)), mask


def _search(
    function: _Function,
    law: Callable[[_Function, _Example], None],
    cases: st.SearchStrategy[_Example],
    examples: int,
) -> None:
    @settings(max_examples=examples, deadline=None, database=None, derandomize=True)
    @given(cases)
    def holds(case: _Example) -> None:
        law(function, case)

    holds()
