"""From logits to a token: what is drawn follows what is stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from palaestra.agents.core import uniforms
from palaestra.agents.drawing import Hooks, draw, effective, entropy
from palaestra.agents.rows import Decoding, Part, Support, Transform

SIZE, DRAWS = 24, 100_000
LEGAL = torch.arange(SIZE) % 3 != 1
SEEN = torch.arange(SIZE) % 4 == 0


def hooks(names: str) -> Hooks:
    """The named hooks at one position."""
    every = {
        "legal": LEGAL[None],
        "repetition": torch.tensor([1.4]),
        "seen": SEEN[None],
        "temperature": torch.tensor([0.6]),
        "top_k": torch.tensor([9]),
        "top_p": torch.tensor([0.8]),
        "min_p": torch.tensor([0.05]),
    }
    chosen = names.split()
    chosen += ["seen"] if "repetition" in chosen else []
    return Hooks(**{name: every[name] for name in chosen})


@pytest.mark.parametrize(
    "names",
    ["", "legal", "repetition", "temperature", "top_k", "top_p", "min_p",
     "legal repetition temperature top_k top_p min_p"],
)  # fmt: skip
def test_ag_sample4_frequencies_follow_the_stored_log_probs(names: str) -> None:
    logits = torch.randn(1, SIZE, generator=torch.Generator().manual_seed(3)) * 1.5
    logprobs = effective(logits, hooks(names))
    seeds = np.full(DRAWS, 11, np.uint64)
    numbers = uniforms(seeds, np.arange(DRAWS, dtype=np.uint64))
    ids = draw(logprobs.expand(DRAWS, -1), numbers)
    counts = torch.bincount(ids, minlength=SIZE).double()
    expected = logprobs[0].double().exp() * DRAWS
    assert bool((counts[expected == 0] == 0).all())
    there = expected > 0
    chi2 = float(((counts - expected)[there] ** 2 / expected[there]).sum())
    freedom = int(there.sum()) - 1
    assert chi2 < freedom + 6 * (2 * max(1, freedom)) ** 0.5


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ag_sample5_an_impossible_id_is_never_drawn(u: float, dtype: torch.dtype) -> None:
    logits = torch.randn(50, SIZE, dtype=dtype, generator=torch.Generator().manual_seed(0))
    legal = torch.rand(50, SIZE, generator=torch.Generator().manual_seed(1)) < 0.3
    legal[:, 0] = legal[:, -1] = False
    legal[:, 5] = True
    logprobs = effective(logits, Hooks(legal=legal))
    ids = draw(logprobs, np.full(50, u))
    assert bool(legal[torch.arange(50), ids].all())


def test_the_draw_is_the_inverse_of_the_distribution_function() -> None:
    logprobs = torch.tensor([[0.25, 0.0, 0.5, 0.25]], dtype=torch.float64).log()
    drawn = [int(draw(logprobs, np.array([u]))) for u in (0.0, 0.2499, 0.25, 0.7499, 0.75, 0.9999)]
    assert drawn == [0, 0, 2, 2, 3, 3]


def test_ag_shield1_odds_of_legal_ids_do_not_change_and_others_are_impossible() -> None:
    logits = torch.randn(5, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    raw, masked = logits.log_softmax(-1), effective(logits, Hooks(legal=LEGAL.expand(5, -1)))
    assert bool((masked[:, ~LEGAL] == float("-inf")).all())
    shift = (masked - raw)[:, LEGAL]
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), rtol=0, atol=1e-12)


def test_stages_come_in_their_fixed_order() -> None:
    # masked first: the best legal id is kept by a cut that an illegal one would have won
    logits = torch.tensor([[5.0, 1.0, 0.0]])
    hooked = Hooks(legal=torch.tensor([[False, True, True]]), top_k=torch.tensor([1]))
    assert effective(logits, hooked).exp().tolist() == [[0.0, 1.0, 0.0]]
    # temperature before top-p: at low temperature one id holds all of it
    cold = Hooks(temperature=torch.tensor([0.1]), top_p=torch.tensor([0.9]))
    assert effective(torch.tensor([[1.0, 0.5, 0.0]]), cold).exp()[0, 0] == 1.0


def test_cuts_keep_what_they_say() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64).log()

    def kept(hooked: Hooks) -> list[bool]:
        return [bool(x) for x in effective(logits, hooked)[0] > float("-inf")]

    assert kept(Hooks(top_k=torch.tensor([2]))) == [True, True, False, False]
    assert kept(Hooks(top_p=torch.tensor([0.71]))) == [True, True, True, False]
    assert kept(Hooks(top_p=torch.tensor([0.05]))) == [True, False, False, False]
    assert kept(Hooks(min_p=torch.tensor([0.5]))) == [True, True, True, False]
    equal = effective(torch.zeros(1, 4), Hooks(top_k=torch.tensor([2]))).exp()
    assert equal.tolist() == [[0.5, 0.5, 0.0, 0.0]]  # of equals the lowest ids


def test_rows_with_and_without_a_hook_share_a_batch() -> None:
    logits = torch.randn(2, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    both = effective(
        logits,
        Hooks(
            temperature=torch.tensor([1.0, 0.0]),
            top_k=torch.tensor([0, 0]),
            top_p=torch.tensor([1.0, 1.0]),
            min_p=torch.tensor([0.0, 0.0]),
        ),
    )
    torch.testing.assert_close(both[0], logits[0].log_softmax(-1))
    assert int(both[1].argmax()) == int(logits[1].argmax())
    assert float(both[1].max()) == 0.0


def test_greedy_takes_the_lowest_of_equal_ids() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0]])
    assert effective(logits, Hooks(temperature=torch.zeros(1))).tolist()[0][1] == 0.0


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_entropy_is_that_of_the_distribution_and_its_gradient_is_finite(
    size: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, size + 1, dtype=torch.float64, generator=generator, requires_grad=True)
    legal = torch.rand(3, size + 1, generator=generator) < 0.6
    legal[:, 0] = True
    spread = entropy(effective(logits, Hooks(legal=legal)))
    p = logits.detach().masked_fill(~legal, float("-inf")).softmax(-1)
    wanted = -(p * torch.where(p > 0, p, torch.ones(())).log()).sum(-1)
    torch.testing.assert_close(spread.detach(), wanted)
    (grad,) = torch.autograd.grad(spread.sum(), logits)
    assert bool(grad.isfinite().all())
    assert bool((grad[~legal] == 0).all())


def test_a_transform_joins_parts_and_takes_positions() -> None:
    support = Support(np.array([1, 2, 5], np.int32), np.array([0, 2, 3]))
    parts = [
        Part(np.array([4, 5], np.int32), None, Decoding(temperature=0.5), support),
        Part(np.array([6], np.int32)),
    ]
    joined = Transform.of(parts)
    assert joined.temperature.tolist() == [0.5, 0.5, 1.0]
    assert joined.states.tolist() == [-1, -1, -1]
    assert joined.support is not None
    assert joined.support.offsets.tolist() == [0, 2, 3, 3]
    some = joined.take(np.array([False, True, True]))
    assert some.support is not None
    assert (some.temperature.tolist(), some.support.ids.tolist()) == ([0.5, 1.0], [5])
    assert Transform.of([]).states.tolist() == []
