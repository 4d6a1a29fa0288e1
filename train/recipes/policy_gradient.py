"""On-policy policy gradients: one estimator, one loss, controllers, all chosen by config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...agents.rows import Scores
from ...algos import credit, divergence, levels, losses, masking, returns, values
from ...algos import segments as units
from ...rollout.batch import Batch
from ..recipe import Loss, Targets, Weights
from ..schedules import Linear
from ..settings import Config

GROUP_KINDS: dict[str, losses.Baseline] = {
    "rloo": "rloo",
    "grpo": "grpo",
    "ppo": "mean",
    "reinforce": "mean",
}


class PolicyGradient:
    """REINFORCE, RLOO, GRPO and PPO over any estimator, in the order of algorithms.md 0.8.

    Every optional stage at its neutral setting leaves the update bit-identical to plain PPO.

    Args:
        config: the run's settings; ``algo``, ``kl``, ``entropy`` and ``train.null`` are read.
    """

    name = "policy_gradient"

    def __init__(self, config: Config) -> None:
        self.config = config
        self.algo = config.algo
        bonus = config.entropy
        self.entropy = Linear(bonus.start, bonus.end, bonus.decay_iterations)
        self.kl: divergence.AdaptiveKL | None = None
        if config.kl.mode != "none" and config.kl.target > 0:
            self.kl = divergence.AdaptiveKL(
                config.kl.coef, target=config.kl.target, horizon=config.kl.horizon
            )

    # --- targets: stages 3 to 7 -------------------------------------------------------------

    @torch.no_grad()
    def targets(
        self, batch: Batch, reference_logprobs: Float[Tensor, "B T"] | None = None
    ) -> Targets:
        """Rewards, credit and whitening of a whole batch."""
        rewards, extra = self._rewards(batch, reference_logprobs)
        advantages, value_targets, value_mask = self._estimate(batch, rewards)
        advantages, whitening = self._whiten(batch, advantages)
        if self.config.train.null == "shuffle":
            advantages = _shuffled(advantages, batch.action_mask)
        return Targets(
            advantages=advantages,
            value_targets=value_targets,
            value_mask=value_mask & batch.action_mask,
            old_logprobs=batch.logprobs,
            reference_logprobs=reference_logprobs if self.config.kl.mode == "loss" else None,
            metrics={
                **extra,
                **whitening,
                **_credit_metrics(batch, advantages, value_targets, value_mask),
            },
        )

    def _rewards(
        self, batch: Batch, reference: Tensor | None
    ) -> tuple[Float[Tensor, "B T"], dict[str, float]]:
        rewards = credit.fold_rewards(batch.rewards, action_mask=batch.action_mask)
        if self.config.train.null == "random_reward":
            rewards = _permuted_between_calls(rewards, batch)
        if reference is None:
            return rewards, {}
        shaped = credit.kl_reward(
            rewards, batch.logprobs, reference, beta=self.beta, action_mask=batch.action_mask
        )
        # a sum over the episode, not a mean over tokens: the controller's target is one, too
        row = {"kl/sequence": float(shaped.kl.sum(-1).mean())}
        return (shaped.rewards if self.config.kl.mode == "reward" else rewards), row

    def _estimate(
        self, batch: Batch, rewards: Tensor
    ) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """Advantages, value targets, and where the critic is fitted."""
        algo, mask, everywhere = self.algo, batch.action_mask, batch.action_mask & ~batch.forced
        if algo.estimator == "group":
            scores = rewards.sum(-1)
            whole = losses.group_advantage(scores, batch.group, kind=GROUP_KINDS[algo.name])
            fitted = torch.zeros_like(mask)
            return torch.where(mask, whole[:, None], 0.0), scores[:, None] * mask, fitted
        own = batch.values.get("value", torch.zeros_like(rewards))
        flags = self._flags(batch)
        boot = batch.bootstrap.get("value", torch.zeros(len(batch), dtype=rewards.dtype))
        ahead = returns.next_values(own, *flags, bootstrap_value=boot, action_mask=mask)
        ids = self._unit_ids(batch)
        rate: dict[str, Any] = {"gamma": algo.gamma, "lam": algo.lam}
        match algo.estimator:
            case "segment":
                out = levels.segment_gae(rewards, own, ahead, *flags, ids, **rate, action_mask=mask)
                return out.advantages, out.value_targets, out.value_mask
            case "two_pass":
                gammas = {"token": 1.0, "segment": algo.gamma}
                lams = {"token": 1.0, "segment": algo.lam}
                two = levels.two_pass_gae(
                    rewards, own, ahead, *flags, ids, gammas=gammas, lams=lams, action_mask=mask
                )
                return two.advantages, two.value_targets, everywhere
            case "boundary":
                schedule = self._boundaries(batch)
                out = returns.gae(
                    rewards,
                    own,
                    ahead,
                    *flags,
                    gamma=schedule.gamma,
                    lam=schedule.lam,
                    action_mask=mask,
                )
                return out.advantages, out.value_targets, everywhere
            case "token":
                out = returns.gae(rewards, own, ahead, *flags, **rate, action_mask=mask)
                return out.advantages, out.value_targets, everywhere
            case "n_step":
                return self._n_step(batch, rewards, own, ahead, flags)
            case _:
                rates = self._boundaries(batch).gamma
                target = returns.discounted_return(
                    rewards, *flags, ahead, gamma=rates, action_mask=mask
                )
        return torch.where(mask, target - own, 0.0), target, everywhere

    def _flags(self, batch: Batch) -> tuple[Bool[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """Terminated and truncated, as ``algo.on_truncation`` sees them."""
        if self.algo.on_truncation == "terminate":
            return batch.terminated | batch.truncated, torch.zeros_like(batch.truncated)
        return batch.terminated, batch.truncated

    def _n_step(
        self,
        batch: Batch,
        rewards: Tensor,
        own: Tensor,
        ahead: Tensor,
        flags: tuple[Tensor, Tensor],
    ) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """The rewards of ``n`` units, then the value: one advantage a unit."""
        ids, mask = self._unit_ids(batch), batch.action_mask
        pooled = units.segment_reduce(rewards, own, ids, action_mask=mask)
        terminated, truncated = (flag.gather(-1, pooled.last) & pooled.mask for flag in flags)
        target = returns.n_step(
            pooled.rewards,
            terminated,
            truncated,
            ahead.gather(-1, pooled.last),
            gamma=self.algo.gamma,
            n=self.algo.n,
            action_mask=pooled.mask,
        )
        begins = torch.zeros(mask.shape, dtype=torch.int64)
        begins = begins.scatter_add(-1, pooled.first, pooled.mask.long()) > 0
        whole = units.segment_broadcast(target, ids, action_mask=mask)
        start = units.segment_broadcast(pooled.values, ids, action_mask=mask)
        return whole - start, torch.where(begins, whole, 0.0), begins

    def _unit_ids(self, batch: Batch) -> Int[Tensor, "B T"]:
        match self.algo.unit:
            case "call":
                return batch.call_id
            case "turn":
                return batch.turn_id
            case _:
                return torch.zeros_like(batch.turn_id)

    def _boundaries(self, batch: Batch) -> levels.Schedule:
        """Gamma and lam at the ends of units of ``unit`` and above; 1 inside."""
        order = ("token", "tool", "turn", "plan")
        first = {"call": "tool", "turn": "turn", "episode": "plan"}[self.algo.unit]
        outer = order[order.index(first) :]
        gamma = {name: self.algo.gamma if name in outer else 1.0 for name in order}
        lam = {name: self.algo.lam if name in outer else 1.0 for name in order}
        return levels.level_schedule(
            batch.turn_id,
            batch.call_id,
            batch.plan_id,
            gamma=gamma,
            lam=lam,
            action_mask=batch.action_mask,
        )

    def _whiten(self, batch: Batch, advantages: Tensor) -> tuple[Tensor, dict[str, float]]:
        counted = batch.counted
        raw = masking.moments(advantages, counted)
        row = {"adv/mean_raw": float(raw.mean), "adv/std_raw": float(raw.std)}
        if not self.algo.whiten:
            return advantages, row
        white = masking.whiten(
            advantages, action_mask=batch.action_mask, std_floor=self.algo.std_floor
        )
        return white, row

    # --- loss: stage 8 ----------------------------------------------------------------------

    def weights(self, batch: Batch, targets: Targets, rows: Int[Tensor, " b"]) -> Weights:
        """Weights under which sums over any micro-batches equal the minibatch's means.

        An aggregation is linear in its row, so its gradient is its weights: one truth.
        """
        counted = batch.counted[rows]
        ones = torch.ones(counted.shape, dtype=batch.logprobs.dtype, requires_grad=True)
        scalar = losses.aggregate(
            ones,
            mode=self.algo.aggregate,
            action_mask=counted,
            max_length=self.config.policy.context or None,
        )
        (policy,) = torch.autograd.grad(scalar, ones)
        fitted = (targets.value_mask & batch.loss_mask)[rows].to(policy.dtype)
        return Weights(policy, fitted / fitted.sum().clamp(min=1.0), counted.sum().clamp(min=1))

    def loss(
        self,
        batch: Batch,
        targets: Targets,
        rows: Int[Tensor, " b"],
        where: Int[Tensor, " P"],
        scores: Scores,
        weights: Weights,
        iteration: int,
    ) -> Loss:
        """Policy, value, entropy and KL losses of some rows."""

        def grid(column: Tensor) -> Tensor:
            flat = torch.zeros(mask.numel(), dtype=column.dtype, device=column.device)
            return flat.index_put((where,), column).view(mask.shape)

        mask = batch.action_mask[rows]
        logprobs = grid(scores.logprobs)
        old, advantages = targets.old_logprobs[rows], targets.advantages[rows]
        counted = batch.counted[rows]
        policy, seen = self._policy_loss(logprobs, old, advantages, counted)
        share = counted.sum() / weights.counted
        sums = {"policy/loss": (weights.policy * policy).sum()}
        sums["policy/ratio_max"] = seen.pop("ratio_max")
        sums |= {f"policy/{name}": value * share for name, value in seen.items()}
        total = sums["policy/loss"]
        if scores.entropy is not None:
            spread = (weights.policy * grid(scores.entropy)).sum()
            sums["policy/entropy_nonforced"] = spread
            total = total - self.entropy_coef(iteration) * spread
        if "value" in scores.values and self.algo.value_coef > 0:
            errors = values.value_loss(
                grid(scores.values["value"]), targets.value_targets[rows], action_mask=mask
            )
            sums["value/loss"] = (weights.value * errors).sum()
            total = total + self.algo.value_coef * sums["value/loss"]
        if targets.reference_logprobs is not None:
            kernel = {"k1": divergence.kl_k1, "k2": divergence.kl_k2, "k3": divergence.kl_k3}
            distance = kernel[self.config.kl.estimator](
                logprobs, targets.reference_logprobs[rows], action_mask=mask
            )
            sums["kl/token"] = (weights.policy * distance).sum()
            total = total + self.beta * sums["kl/token"]
        return Loss(total, {name: value.detach() for name, value in sums.items()})

    def _policy_loss(
        self, logprobs: Tensor, old: Tensor, advantages: Tensor, counted: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss a token, and how far the policy has moved (means over ``counted``)."""
        algo = self.algo
        out = losses.ppo(
            logprobs,
            old,
            advantages,
            clip=algo.clip,
            clip_high=algo.clip_high or None,
            dual_clip=algo.dual_clip or None,
            action_mask=counted,
        )
        seen = {"kl_update": out.metrics["kl"], "ratio_max": out.metrics["ratio_max"]}
        if algo.name in ("reinforce", "rloo"):
            return losses.reinforce(logprobs, advantages, action_mask=counted), seen
        return out.row, seen | {"clip_fraction": out.metrics["clip_fraction"]}

    # --- controllers: stage 9 ---------------------------------------------------------------

    @property
    def beta(self) -> float:
        """The weight of the KL to the reference."""
        return self.kl.beta if self.kl else self.config.kl.coef

    def entropy_coef(self, iteration: int) -> float:
        """The weight of the entropy bonus at an iteration (from 1)."""
        return self.entropy(iteration - 1)

    def after(self, metrics: Mapping[str, float], episodes: int) -> dict[str, float]:
        """Steer the KL weight by the episodes' KL."""
        if self.kl is not None and "kl/sequence" in metrics:
            self.kl.update(metrics["kl/sequence"], episodes)
        return {"kl/coef": self.beta} if self.config.kl.mode != "none" else {}

    def state_dict(self) -> dict[str, Any]:
        """The KL controller's state."""
        return {"kl": self.kl.state_dict() if self.kl else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        if self.kl is not None and state.get("kl") is not None:
            self.kl.load_state_dict(state["kl"])


def _credit_metrics(
    batch: Batch, advantages: Tensor, targets: Tensor, value_mask: Tensor
) -> dict[str, float]:
    mask = batch.action_mask
    fitted = value_mask & mask
    own = batch.values.get("value")
    row: dict[str, float] = {"policy/forced_fraction": float(batch.forced[mask].float().mean())}
    if own is not None and bool(fitted.any()):
        explained = values.explained_variance(own, targets, action_mask=fitted)
        row["value/explained_variance"] = float(explained)
        row["value/mean"] = float(own[fitted].mean())
    pooled = units.segment_reduce(
        torch.zeros_like(advantages), advantages, batch.call_id, action_mask=mask
    )
    count = pooled.mask.sum(-1)
    at = (count - 1).clamp(min=0)[:, None]
    first, last = pooled.values[:, 0].abs().mean(), pooled.values.gather(-1, at).abs().mean()
    row["credit/first_to_last_call"] = float(first / last.clamp(min=1e-8))
    return row


def _shuffled(advantages: Tensor, mask: Tensor) -> Tensor:
    """Null control: the same advantages on the wrong tokens."""
    pool = advantages[mask]
    draw = torch.Generator().manual_seed(int(pool.numel()))
    out = advantages.clone()
    out[mask] = pool[torch.randperm(pool.numel(), generator=draw)]
    return out


def _permuted_between_calls(rewards: Tensor, batch: Batch) -> Tensor:
    """Null control: rewards of the same mean (the same ones), given to calls at random."""
    nothing = torch.zeros_like(rewards)
    pooled = units.segment_reduce(rewards, nothing, batch.call_id, action_mask=batch.action_mask)
    pool = pooled.rewards[pooled.mask]
    draw = torch.Generator().manual_seed(int(pool.numel()))
    pooled_rewards = torch.zeros_like(pooled.rewards)
    pooled_rewards[pooled.mask] = pool[torch.randperm(pool.numel(), generator=draw)]
    out = torch.zeros_like(rewards)
    return out.scatter_add(-1, pooled.last, pooled_rewards)
