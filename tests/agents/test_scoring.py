"""The learner's door: what it computes is what the sampler drew, packed or not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
import torch
from palaestra.agents.chat import Chat
from palaestra.agents.core import Ask, Decoding, Key, Part, Want
from palaestra.agents.heads import Heads
from palaestra.agents.rows import Rows, Scores, Transform
from palaestra.agents.sampling import Sampler
from palaestra.agents.shield import Shield, machine_of
from palaestra.agents.solo import Solo
from palaestra.envs.messages import Message
from torch import nn

HOOKED = Decoding(temperature=0.7, top_k=20, top_p=0.95, min_p=0.001, repetition=1.2)


def columns(scores: Scores) -> list[torch.Tensor]:
    """All that is compared."""
    assert scores.entropy is not None
    found = [scores.logprobs, scores.entropy, scores.values["value"], scores.ends["value"]]
    return [column.detach() for column in found]


def packed(
    policy: Sampler, talk: Any, texts: Any, shield: Shield, n: int
) -> tuple[list[Rows], Rows]:
    """Rows of n conversations, one by one and laid end to end."""
    batch: list[Rows] = []
    parts: list[Part] = []
    for episode in range(n):
        played = talk(Solo(policy, shield=shield, max_tokens=5), texts(episode), episode)
        batch += played.rows()
        parts += [Part(d.action.tokens, machine_of(d.ask)) for d in played.drawn]
    offsets = list(accumulate(len(rows.tokens) for rows in batch))
    offsets.insert(0, 0)
    action = np.concatenate([rows.action + o for rows, o in zip(batch, offsets, strict=False)])
    tokens = np.concatenate([rows.tokens for rows in batch])
    return batch, Rows(tokens, np.array(offsets, np.int32), action, Transform.of(parts))


@pytest.mark.parametrize("decoding", [Decoding(), HOOKED, Decoding(temperature=1.3)])
@pytest.mark.parametrize(
    ("dtype", "most", "mean"),
    [
        (torch.float64, 1e-9, 1e-9),
        (torch.float32, 1e-3, 2e-4),
    ],
)
def test_ag_sample2_the_learner_computes_the_log_probs_that_were_drawn(
    sampler: Any,
    talk: Any,
    texts: Any,
    grammar: Shield,
    decoding: Decoding,
    dtype: torch.dtype,
    most: float,
    mean: float,
) -> None:
    policy = sampler(dtype)
    agent = Solo(policy, decoding, grammar, max_tokens=5)
    free = Solo(policy, decoding, max_tokens=5)
    for solo in (agent, free):
        for episode in range(4):
            played = talk(solo, texts(episode), episode)
            (rows,) = played.rows()
            scores = policy.score(rows, Want(raw=True, ends=True))
            actions = [drawn.action for drawn in played.drawn]
            for got, name in ((scores.logprobs, "logprobs"), (scores.logprobs_raw, "logprobs_raw"),
                              (scores.entropy, "entropy")):  # fmt: skip
                drawn = np.concatenate([getattr(action, name) for action in actions])
                gap = np.abs(got.detach().numpy() - drawn)
                assert gap.max() <= most
                assert gap.mean() <= mean
            values = np.concatenate([action.values["value"] for action in actions])
            np.testing.assert_allclose(
                scores.values["value"].detach().numpy(), values, rtol=0, atol=max(most, 1e-9)
            )
            assert scores.ends["value"].shape == (1,)


def test_ag_sample2_bfloat16_matrices_agree_within_their_rounding(
    sampler: Any, talk: Any, texts: Any
) -> None:
    policy = sampler(dtype=torch.float32)
    half = Sampler(policy.model, dtype=torch.bfloat16)
    gaps: list[float] = []
    for episode in range(6):
        played = talk(Solo(half, max_tokens=8), texts(episode), episode)
        (rows,) = played.rows()
        got = half.score(rows, Want()).logprobs.detach().numpy()
        drawn = np.concatenate([d.action.logprobs for d in played.drawn])
        assert drawn.dtype == np.float32
        gaps += np.abs(got - drawn).tolist()
    assert float(np.mean(gaps)) <= 2e-3


def test_ag_sample2_packed_rows_equal_rows_one_by_one(
    sampler: Any, talk: Any, texts: Any, grammar: Shield
) -> None:
    policy = sampler(torch.float64)
    batch, whole_rows = packed(policy, talk, texts, grammar, 9)
    whole = policy.score(whole_rows, Want(ends=True))
    single = [policy.score(rows, Want(ends=True)) for rows in batch]
    for got, parts_ in zip(columns(whole), zip(*map(columns, single), strict=True), strict=True):
        torch.testing.assert_close(got, torch.cat(parts_), rtol=0, atol=1e-11)


def gradients(policy: Sampler, rows: Sequence[Rows], scale: float = 1.0) -> list[torch.Tensor]:
    """Gradients of a loss summed over batches."""
    for parameter in policy.parameters():
        parameter.grad = None
    for one in rows:
        scores = policy.score(one, Want())
        assert scores.entropy is not None
        loss = (scores.logprobs * 0.3 + scores.entropy * 0.1 + scores.values["value"] ** 2).sum()
        (loss * scale).backward()
    return [p.grad.clone() for p in policy.parameters() if p.grad is not None]


def test_gradients_of_a_packed_batch_are_the_sum_over_its_rows(
    sampler: Any, talk: Any, texts: Any, grammar: Shield
) -> None:
    policy = sampler(torch.float64)
    batch, whole_rows = packed(policy, talk, texts, grammar, 6)
    for a, b in zip(gradients(policy, [whole_rows]), gradients(policy, batch), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_a_large_vocabulary_is_scored_in_pieces_with_the_same_result(
    sampler: Any, talk: Any, texts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = sampler(torch.float64)
    (rows,) = talk(Solo(policy, HOOKED, max_tokens=9), texts(0)).rows()
    whole = policy.score(rows, Want(raw=True))
    before = gradients(policy, [rows])
    monkeypatch.setattr("palaestra.agents.scoring.LOGITS", 40 * 5)
    pieces = policy.score(rows, Want(raw=True))
    torch.testing.assert_close(pieces.logprobs, whole.logprobs)
    torch.testing.assert_close(pieces.logprobs_raw, whole.logprobs_raw)
    torch.testing.assert_close(pieces.entropy, whole.entropy)
    for a, b in zip(before, gradients(policy, [rows]), strict=True):
        torch.testing.assert_close(a, b)


def test_the_menu_holds_the_log_probs_of_whole_messages(
    sampler: Any, seat: Any, words: Any
) -> None:
    policy = sampler(torch.float64)
    chat = Chat.for_(policy, seat())
    chat.add([Message("user", "w1 w2")])
    items = ["w3", "w3 w4", "w5 w6 w7"]
    (got,) = policy.menu([chat], items)
    for item, logprob in zip(items, got, strict=True):
        ids = np.array([*words.encode(item), words.end_of_turn], np.int32)
        action = policy.act([Ask(policy, chat, key=Key(0, 0, 0), force=ids)])[0]
        assert abs(action.logprobs.sum() - logprob) < 1e-10


class Bag(nn.Module):
    """One layer of attention and nothing else: an author's own network."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self.tokenizer, self.context, self.heads = tokenizer, 64, Heads((), 8)
        self.embed = nn.Embedding(tokenizer.size, 8)
        self.mix = nn.Linear(8, 24)

    def hidden(self, tokens: Any, segments: Any, cache: Any = None, at: Any = None) -> torch.Tensor:
        q, k, v = self.mix(self.embed(tokens)).view(-1, 3, 2, 4).unbind(1)
        out = (segments if cache is None else cache).attend(0, q, k, v)
        return out if at is None else out[at]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return 3 * hidden @ self.embed.weight.T


def test_an_own_network_is_a_policy_at_once(words: Any, talk: Any, texts: Any) -> None:
    torch.manual_seed(0)
    policy = Sampler(Bag(words))
    played = talk(Solo(policy, max_tokens=5), texts(0))
    (rows,) = played.rows()
    got = policy.score(rows, Want()).logprobs.detach().numpy()
    drawn = np.concatenate([d.action.logprobs for d in played.drawn])
    np.testing.assert_allclose(got, drawn, rtol=0, atol=1e-5)
