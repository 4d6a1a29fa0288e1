"""The learner: what it leaves out, what it bootstraps, and that it scores what was sampled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from palaestra.agents.heads import Head
from palaestra.agents.rows import Want
from palaestra.agents.sampling import Sampler
from palaestra.agents.solo import Solo
from palaestra.agents.tiny import Tiny
from palaestra.envs.small import KeyDoor
from palaestra.rollout.batch import Batch
from palaestra.rollout.engine import Engine, Start
from palaestra.rollout.trajectory import Trajectory
from palaestra.train import build
from palaestra.train.choices import resolve
from palaestra.train.config import Config, load
from palaestra.train.learner import Learner
from palaestra.train.recipe import Targets
from palaestra.train.recipes.policy_gradient import PolicyGradient

MakeConfig = Callable[..., Config]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def gather(policy: Sampler, config: Config, env: Any, count: int = 6) -> list[Trajectory]:
    agent = build.agent(config, policy, env)
    engine = Engine(agent, build.env_maker(config.env.id, config.env.options))
    try:
        return engine.gather(
            [Start(40 + i // 2, attempt=i % 2, group=i // 2) for i in range(count)]
        )
    finally:
        engine.close()


@pytest.fixture(scope="module")
def played(small_config: MakeConfig) -> tuple[Sampler, Config, list[Trajectory]]:
    torch.set_num_threads(1)
    config = small_config()
    env = KeyDoor()
    policy = build.policy(config, env)
    with torch.no_grad():  # so that values and bootstraps are not all 0
        for parameter in policy.model.heads.parameters():
            parameter.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(1))
    return policy, config, gather(policy, config, env)


def ended(one: Trajectory, **changes: Any) -> Trajectory:
    return replace(one, outcome=replace(one.outcome, **changes))


class Watched(PolicyGradient):
    """Remembers the batch and the targets of an update."""

    batch: Batch
    found: Targets

    def targets(self, batch: Batch, reference_logprobs: Any = None) -> Targets:
        self.batch = batch
        self.found = super().targets(batch, reference_logprobs)
        return self.found


def learn(
    policy: Sampler, config: Config, episodes: Sequence[Trajectory], iteration: int = 1
) -> tuple[dict[str, float], Watched]:
    recipe = Watched(config)
    config = replace(config, optim=replace(config.optim, lr=0.0))
    row = Learner(policy, recipe, config).update(episodes, iteration)
    return row, recipe


def test_excluded_and_silent_episodes_teach_nothing(played: Any) -> None:
    policy, config, episodes = played
    silent = replace(episodes[2], time=np.full(len(episodes[2].tokens), -1, np.int32))
    row, recipe = learn(policy, config, [ended(episodes[0], excluded=True), episodes[1], silent])
    assert len(recipe.batch) == 1
    assert row["batch/excluded"] == 2.0
    nothing, _ = learn(policy, config, []), None
    assert nothing[0] == {"batch/excluded": 0.0}


@pytest.mark.parametrize(("mode", "kept"), [("bootstrap", 2), ("terminate", 2), ("mask", 1)])
def test_a_truncated_episode_is_bootstrapped_ended_or_left_out(
    played: Any, small_config: MakeConfig, mode: str, kept: int
) -> None:
    policy, _, episodes = played
    cut = ended(episodes[0], terminated=False, truncated=True)
    whole = ended(episodes[1], terminated=True, truncated=False)
    config = small_config(
        algo__on_truncation=mode, algo__estimator="monte_carlo", algo__whiten="false"
    )
    _, recipe = learn(policy, config, [cut, whole])
    assert len(recipe.batch) == kept
    if mode == "mask":
        return
    batch = recipe.batch
    packed, _ = batch.pack([0])
    with torch.no_grad():
        ends = policy.score(packed, Want(entropy=False, ends=True)).ends["value"]
    wanted = batch.rewards.sum(-1)[0] + (float(ends[-1]) if mode == "bootstrap" else 0.0)
    assert float(recipe.found.value_targets[0, 0]) == pytest.approx(float(wanted), abs=1e-5)
    if mode == "bootstrap":
        assert abs(float(ends[-1])) > 1e-3
    assert float(recipe.found.value_targets[1, 0]) == pytest.approx(
        float(batch.rewards.sum(-1)[1]), abs=1e-5
    )


def test_bootstraps_do_not_depend_on_how_they_are_packed(
    played: Any, small_config: MakeConfig
) -> None:
    policy, _, episodes = played
    cut = [ended(one, terminated=False, truncated=True) for one in episodes]
    found = [
        learn(policy, small_config(optim__microbatch_tokens=tokens), cut)[1].batch.bootstrap
        for tokens in (1, 1_000_000)
    ]
    torch.testing.assert_close(found[0]["value"], found[1]["value"])
    assert found[0]["value"].unique().numel() > 1


def test_a_group_that_lost_members_compares_those_that_are_left(
    played: Any, small_config: MakeConfig
) -> None:
    policy, _, episodes = played
    config = small_config(algo__name="rloo", rollout__group_size=2, algo__whiten="false")
    config, _ = resolve(config, KeyDoor())
    lost = [ended(episodes[0], excluded=True), *episodes[1:4]]
    _, recipe = learn(policy, config, lost)
    advantages = recipe.found.advantages[:, 0]
    scores = recipe.batch.rewards.sum(-1)
    assert float(advantages[0]) == 0.0  # alone in its group
    assert float(advantages[1]) == pytest.approx(float(scores[1] - scores[2]), abs=1e-6)


def split(one: Trajectory) -> Trajectory:
    """The same episode, each message in a context of its own."""
    turns = sorted({int(turn) for turn in one.turn_id if turn >= 0})
    source: list[int] = []
    mine: list[bool] = []
    offsets = [0]
    for turn in turns:
        end = int(np.flatnonzero(one.turn_id == turn)[-1]) + 1
        source += range(end)
        mine += [bool(one.turn_id[at] == turn) for at in range(end)]
        offsets.append(len(source))
    at, own = np.array(source), np.array(mine)

    def column(values: Any, fill: float) -> Any:
        return np.where(own, values[at], np.asarray(fill, values.dtype))

    return replace(
        one,
        tokens=one.tokens[at],
        context_offsets=np.array(offsets, np.int64),
        logprobs=column(one.logprobs, 0),
        entropy=column(one.entropy, 0),
        values={name: column(value, 0) for name, value in one.values.items()},
        rewards={name: column(value, 0) for name, value in one.rewards.items()},
        loss_mask=column(one.loss_mask, False),
        forced=column(one.forced, False),
        **{
            name: column(getattr(one, name), -1)
            for name in ("time", "turn_id", "call_id", "step_id", "plan_id")
        },
    )


@pytest.mark.parametrize("estimator", ["segment", "boundary", "token", "two_pass", "n_step"])
def test_an_episode_in_several_contexts_has_the_same_advantages(
    played: Any, small_config: MakeConfig, estimator: str
) -> None:
    policy, _, episodes = played  # AG-CORE1
    whole = [ended(one, terminated=True, truncated=False) for one in episodes]
    config = small_config(algo__estimator=estimator)
    one, two = (learn(policy, config, rows)[1] for rows in (whole, [split(x) for x in whole]))
    assert torch.equal(one.found.advantages, two.found.advantages)
    assert torch.equal(one.found.value_targets, two.found.value_targets)
    assert one.batch.pack([0])[0].offsets.tolist() != two.batch.pack([0])[0].offsets.tolist()
    scored = [
        policy.score(learner.batch.pack([0])[0], Want()).logprobs.detach() for learner in (one, two)
    ]
    torch.testing.assert_close(*scored, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "bound"), [("float64", 1e-9), ("float32", 1e-3), ("bfloat16", 2e-1)]
)
def test_the_default_drill_is_scored_as_it_was_sampled(dtype: str, bound: float) -> None:
    changes = {"train.dtype": dtype, "rollout.batch": "8", "algo.minibatch": "4"}
    config = load(None, changes, preset="drill-code")
    env = build.env_maker(config.env.id, config.env.options)()
    config, _ = resolve(config, env)
    policy = build.policy(config, env)
    episodes = gather(policy, config, env, 8)
    wanted = np.float64 if dtype == "float64" else np.float32
    assert all(one.logprobs.dtype == wanted for one in episodes)
    row, recipe = learn(policy, config, episodes)
    assert recipe.batch.logprobs.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    assert 0 <= row["check/logprob_mismatch"] <= bound
    env.close()


def test_the_largest_ratio_is_not_averaged(played: Any, small_config: MakeConfig) -> None:
    policy, _, episodes = played
    for tokens in (1, 1_000_000):  # lag 0: every ratio is 1, however it is cut up
        row, _ = learn(policy, small_config(optim__microbatch_tokens=tokens), episodes)
        assert row["policy/ratio_max"] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("mode", ["reward", "loss"])
def test_the_kl_controller_is_fed_the_kl_of_whole_episodes(
    played: Any, small_config: MakeConfig, mode: str
) -> None:
    policy, _, episodes = played
    config = small_config(kl__mode=mode, kl__coef=0.1, kl__target=2, kl__horizon=100)
    other = Sampler(Tiny("nano", policy.tokenizer, (Head("value"),), context=400, seed=9))  # type: ignore[arg-type]
    recipe = PolicyGradient(config)
    config = replace(config, optim=replace(config.optim, lr=0.0))
    row = Learner(policy, recipe, config, reference=other).update(episodes, 1)
    assert row["kl/sequence"] != 0.0
    assert row["kl/coef"] != 0.1
    again = PolicyGradient(config)
    again.load_state_dict(recipe.state_dict())
    assert again.beta == recipe.beta == row["kl/coef"]


def test_constant_normalisation_divides_by_the_context(
    played: Any, small_config: MakeConfig
) -> None:
    policy, _, episodes = played
    rows = {
        mode: learn(policy, small_config(algo__aggregate=mode, algo__minibatch=6), episodes)
        for mode in ("const_norm", "token_mean")
    }
    counted = int(rows["token_mean"][1].batch.counted.sum())
    wanted = rows["token_mean"][0]["policy/entropy_nonforced"] * counted / (6 * 400)
    assert rows["const_norm"][0]["policy/entropy_nonforced"] == pytest.approx(wanted, rel=1e-4)


def test_n_steps_are_counted_in_units(played: Any, small_config: MakeConfig) -> None:
    policy, _, episodes = played
    whole = [ended(one, terminated=True, truncated=False) for one in episodes]
    config = small_config(
        algo__estimator="n_step", algo__unit="turn", algo__whiten="false", algo__gamma=0.5
    )
    _, recipe = learn(policy, config, whole)
    batch = recipe.batch
    turns = batch.turn_id[0][batch.action_mask[0]]
    values, rewards = batch.values["value"][0], batch.rewards[0]
    own = [turns == turn for turn in range(int(turns.max()) + 1)]
    first = [int(of.nonzero()[0]) for of in own]
    earned = [float(rewards[: len(turns)][of].sum()) for of in own]
    for unit, at in enumerate(first):
        after = float(values[first[unit + 1]]) if unit + 1 < len(first) else 0.0
        wanted = earned[unit] + 0.5 * after - float(values[at])
        assert float(recipe.found.advantages[0, at]) == pytest.approx(wanted, abs=1e-5)
    assert torch.equal(recipe.found.value_mask[0].nonzero()[:, 0], torch.tensor(first))


def test_a_gradient_that_is_no_number_stops_with_words(
    played: Any, small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, config, episodes = played

    def broken(*_: Any) -> torch.Tensor:
        return torch.tensor(torch.nan)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", broken)
    with pytest.raises(FloatingPointError, match=r"norm is nan at update 1; lower optim\.lr"):
        learn(policy, config, episodes)


def test_a_greedy_agent_is_one_of_temperature_zero(played: Any) -> None:
    policy, config, _ = played
    agent = build.agent(config, policy, KeyDoor(), greedy=True)
    assert isinstance(agent, Solo)
    assert agent.decoding is not None
    assert agent.decoding.temperature == 0.0
