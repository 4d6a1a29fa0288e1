"""Heads on the trunk: silent at first, and for free."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from palaestra.agents.core import Want
from palaestra.agents.errors import AgentError
from palaestra.agents.heads import Head, Heads, heads_from, read
from palaestra.agents.solo import Solo

EVERY = (
    Head("value"),
    Head("spread", kind="quantile", size=5),
    Head("cost/privacy", stream="cost", layers=2),
    Head("doubt", kind="ensemble", size=3, detach=True),
    Head("deep", layers=2, detach=True),
)


def test_ag_head2_zero_heads_give_zero_and_change_no_logits(
    sampler: Any, talk: Any, texts: Any, same: Any
) -> None:
    heads = Heads([h for h in EVERY if h.kind != "ensemble"], 16)
    for numbers in heads(torch.randn(7, 16)).values():
        assert bool((numbers == 0).all())
    with_heads = talk(Solo(sampler(), max_tokens=5), texts(0))
    without = talk(Solo(sampler(heads=()), max_tokens=5), texts(0))
    for a, b in zip(with_heads.drawn, without.drawn, strict=True):
        assert a.action.logprobs.tobytes() == b.action.logprobs.tobytes()


def test_members_of_an_ensemble_begin_different() -> None:
    numbers = Heads([EVERY[3]], 16)(torch.randn(7, 16))["doubt"]
    assert numbers.shape == (7, 3)
    assert float(numbers.detach().std(-1).min()) > 0


def test_ag_head3_a_detached_head_moves_no_trunk(sampler: Any, talk: Any, texts: Any) -> None:
    policy = sampler(heads=EVERY)
    (rows,) = talk(Solo(policy, max_tokens=5), texts(0)).rows()
    trunk = [p for n, p in policy.model.named_parameters() if not n.startswith("heads")]
    values = policy.score(rows, Want()).values
    for name in ("doubt", "deep"):
        grads = torch.autograd.grad(
            (values[name] ** 2).sum(), trunk, allow_unused=True, retain_graph=True
        )
        assert all(grad is None or float(grad.abs().max()) == 0 for grad in grads)
    grads = torch.autograd.grad((values["value"] ** 2).sum(), trunk, allow_unused=True)
    assert any(grad is not None and float(grad.abs().max()) > 0 for grad in grads)


def test_ag_head4_heads_cost_no_forward_of_the_trunk(
    sampler: Any, talk: Any, texts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(heads: tuple[Head, ...]) -> int:
        policy = sampler(heads=heads)
        calls: list[int] = []
        inner = policy.model.hidden

        def counting(*arguments: Any) -> torch.Tensor:
            calls.append(1)
            return inner(*arguments)

        monkeypatch.setattr(policy.model, "hidden", counting)
        (rows,) = talk(Solo(policy, max_tokens=5), texts(0)).rows()
        policy.score(rows, Want(ends=True))
        return len(calls)

    assert count(EVERY) == count(())


def test_one_layer_heads_are_one_product() -> None:
    heads = Heads([Head("a"), Head("b", kind="quantile", size=3), Head("c")], 8)
    assert [tuple(p.shape) for p in heads.parameters()] == [(5, 8), (5,)]
    heads.start("c", 2.5)
    heads.rows(heads.heads[1])[0].fill_(1.0)
    out = heads(torch.ones(2, 8))
    assert out["a"].tolist() == [0.0, 0.0]
    assert out["b"].tolist() == [[8.0] * 3] * 2
    assert out["c"].tolist() == [2.5, 2.5]


def test_heads_stay_float32_under_bfloat16() -> None:
    assert Heads([Head("a")], 4)(torch.randn(2, 4).bfloat16())["a"].dtype == torch.float32


def test_a_head_is_read_as_one_number() -> None:
    numbers = torch.tensor([4.0, 1.0, 3.0, 2.0])
    assert float(read(Head("q", kind="quantile", size=4), numbers)) == 2.5
    assert float(read(Head("q", kind="quantile", size=4), numbers, level=0.25)) == 1.0
    assert float(read(Head("e", kind="ensemble", size=4), numbers)) == 2.5
    assert read(Head("s"), numbers) is numbers
    with pytest.raises(AgentError, match="its recipe knows"):
        read(Head("m", kind="menu", size=4), numbers)


def test_heads_are_described_as_plain_data() -> None:
    assert heads_from(Heads(EVERY, 8).describe()) == EVERY


def test_impossible_heads_are_refused() -> None:
    with pytest.raises(AgentError, match="give 1 or 2"):
        Head("a", layers=3)
    with pytest.raises(AgentError, match="a scalar has 1"):
        Head("a", size=2)
    with pytest.raises(AgentError, match="its own name"):
        Heads([Head("a"), Head("a")], 4)
