"""The mathematics of `algos`, slow and obvious: float64 loops over plain lists, row by row."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

Numbers = Sequence[float]
Flags = Sequence[bool]
Labels = Sequence[int]


def linear_scan(a: Numbers, b: Numbers) -> list[float]:
    """x_t = b_t + a_t x_{t+1}, from the last position to the first."""
    x = [0.0] * len(b)
    for t in reversed(range(len(b))):
        later = x[t + 1] if t + 1 < len(b) else 0.0
        x[t] = b[t] + (a[t] * later if a[t] != 0 else 0.0)
    return x


def successor(t: int, mask: Flags, episode: Labels) -> int | None:
    """The next action of the same episode, or None."""
    for later in range(t + 1, len(mask)):
        if mask[later]:
            return later if episode[later] == episode[t] else None
    return None


def stops(t: int, terminated: Flags, truncated: Flags, mask: Flags, episode: Labels) -> bool:
    """Whether the episode, or its piece in this row, stops after action t."""
    return terminated[t] or truncated[t] or successor(t, mask, episode) is None


def next_values(
    values: Numbers,
    terminated: Flags,
    truncated: Flags,
    bootstrap_value: Numbers,
    mask: Flags,
    episode: Labels,
) -> list[float]:
    """The value at the next decision; `bootstrap_value` has one number a position."""
    after = [0.0] * len(values)
    for t in range(len(values)):
        if not mask[t] or terminated[t]:
            continue
        later = successor(t, mask, episode)
        after[t] = bootstrap_value[t] if truncated[t] or later is None else values[later]
    return after


def n_step(
    rewards: Numbers,
    terminated: Flags,
    truncated: Flags,
    next_values: Numbers,
    gamma: Numbers,
    n: int,
    mask: Flags,
    episode: Labels,
) -> list[float]:
    """The sum of n discounted rewards, written out, and the bootstrap behind it."""
    returns = [0.0] * len(rewards)
    for start in range(len(rewards)):
        if not mask[start]:
            continue
        discount, total, t = 1.0, 0.0, start
        for step in range(1, n + 1):
            total += discount * rewards[t]
            discount *= gamma[t]
            later = successor(t, mask, episode)
            if terminated[t]:
                break
            if step == n or truncated[t] or later is None:
                total += discount * next_values[t]
                break
            t = later
        returns[start] = total
    return returns


def discounted_return(
    rewards: Numbers,
    terminated: Flags,
    truncated: Flags,
    next_values: Numbers,
    gamma: Numbers,
    mask: Flags,
    episode: Labels,
) -> list[float]:
    """The n-step return whose window never closes."""
    window = len(rewards) + 1
    return n_step(rewards, terminated, truncated, next_values, gamma, window, mask, episode)


def gae(
    rewards: Numbers,
    values: Numbers,
    next_values: Numbers,
    terminated: Flags,
    truncated: Flags,
    gamma: Numbers,
    lam: Numbers,
    mask: Flags,
    episode: Labels,
) -> list[float]:
    """The sum of TD errors ahead, each weighed by the product of gamma lam up to it."""
    advantages = [0.0] * len(rewards)
    for start in range(len(rewards)):
        if not mask[start]:
            continue
        weight, t = 1.0, start
        while True:
            later = 0.0 if terminated[t] else gamma[t] * next_values[t]
            advantages[start] += weight * (rewards[t] + later - values[t])
            following = successor(t, mask, episode)
            if terminated[t] or truncated[t] or following is None:
                break
            weight *= gamma[t] * lam[t]
            t = following
    return advantages


def lambda_return(
    rewards: Numbers,
    terminated: Flags,
    truncated: Flags,
    next_values: Numbers,
    gamma: Numbers,
    lam: float,
    mask: Flags,
    episode: Labels,
) -> list[float]:
    """(1 - lam) Σ lam^(n-1) G(n) + lam^(N-1) G(N), the finite mixture of n-step returns."""
    mixed = [0.0] * len(rewards)
    for t in range(len(rewards)):
        if not mask[t]:
            continue
        left, at = 1, t
        while not stops(at, terminated, truncated, mask, episode):
            at = successor(at, mask, episode) or 0
            left += 1
        for n in range(1, left + 1):
            share = lam ** (n - 1) * (1.0 if n == left else 1 - lam)
            window = n_step(rewards, terminated, truncated, next_values, gamma, n, mask, episode)
            mixed[t] += share * window[t]
    return mixed


def segments(ends: Flags, ids: Labels, mask: Flags, episode: Labels) -> list[list[int]]:
    """The positions of each segment: a run of actions with one label in one episode."""
    found: list[list[int]] = []
    for t in range(len(mask)):
        if not mask[t]:
            continue
        before = found[-1][-1] if found else None
        same = (
            before is not None
            and ids[before] == ids[t]
            and episode[before] == episode[t]
            and not ends[before]
        )
        if same:
            found[-1].append(t)
        else:
            found.append([t])
    return found


def segment_gae(
    rewards: Numbers,
    values: Numbers,
    next_values: Numbers,
    terminated: Flags,
    truncated: Flags,
    ids: Labels,
    gamma: float,
    lam: float,
    mask: Flags,
    episode: Labels,
) -> list[float]:
    """Pool each segment into one decision, run `gae` over them, copy to every action."""
    ends = [terminated[t] or truncated[t] for t in range(len(mask))]
    parts = segments(ends, ids, mask, episode)
    pooled = gae(
        [sum(rewards[t] for t in part) for part in parts],
        [values[part[0]] for part in parts],
        [next_values[part[-1]] for part in parts],
        [terminated[part[-1]] for part in parts],
        [truncated[part[-1]] for part in parts],
        [gamma] * len(parts),
        [lam] * len(parts),
        [True] * len(parts),
        [episode[part[-1]] for part in parts],
    )
    advantages = [0.0] * len(mask)
    for part, advantage in zip(parts, pooled, strict=True):
        for t in part:
            advantages[t] = advantage
    return advantages


def two_pass_gae(
    rewards: Numbers,
    values: Numbers,
    next_values: Numbers,
    terminated: Flags,
    truncated: Flags,
    ids: Labels,
    gammas: Mapping[str, float],
    lams: Mapping[str, float],
    mask: Flags,
    episode: Labels,
) -> list[float]:
    """Segment GAE, then a token loop inside each segment from its last action backwards."""
    row = rewards, values, next_values, terminated, truncated
    outer = segment_gae(*row, ids, gammas["segment"], lams["segment"], mask, episode)
    ends = [terminated[t] or truncated[t] for t in range(len(mask))]
    advantages = [0.0] * len(mask)
    for part in segments(ends, ids, mask, episode):
        last = part[-1]
        after = successor(last, mask, episode)
        if terminated[last]:
            tail = 0.0
        elif truncated[last] or after is None:
            tail = gammas["segment"] * next_values[last]
        else:
            tail = gammas["segment"] * (values[after] + lams["segment"] * outer[after])
        advantages[last] = rewards[last] + tail - values[last]
        for t, later in reversed(list(pairwise(part))):
            delta = rewards[t] + gammas["token"] * next_values[t] - values[t]
            advantages[t] = delta + gammas["token"] * lams["token"] * advantages[later]
    return advantages


def level_schedule(
    levels: Sequence[tuple[str, Labels]], numbers: Mapping[str, float], mask: Flags, episode: Labels
) -> list[float]:
    """The number of the highest level closed; `levels` from the innermost to the outermost."""
    chosen = [0.0] * len(mask)
    for t in range(len(mask)):
        if not mask[t]:
            continue
        chosen[t] = numbers["token"]
        later = successor(t, mask, episode)
        for name, ids in levels:
            if (later is None or ids[later] != ids[t]) and name in numbers:
                chosen[t] = numbers[name]
    return chosen


def fold_rewards(rewards: Numbers, mask: Flags) -> list[float]:
    """Carry each reward back to the nearest action at or before it."""
    folded = [0.0] * len(rewards)
    action = None
    for t in range(len(rewards)):
        action = t if mask[t] else action
        if action is not None:
            folded[action] += rewards[t]
    return folded


def redistribute(reward: float, weights: Numbers, mask: Flags) -> list[float]:
    """R w / Σ w over the actions; equal shares where the weights are all 0."""
    kept = [w if m else 0.0 for w, m in zip(weights, mask, strict=True)]
    if sum(kept) == 0:
        kept = [float(m) for m in mask]
    return [reward * w / sum(kept) if w else 0.0 for w in kept]


def group_advantage(rewards: Numbers, group: Labels, kind: str, eps: float) -> list[float]:
    """Compare every attempt with its group, by loops over the whole batch."""
    advantages: list[float] = []
    for reward, label in zip(rewards, group, strict=True):
        peers = [r for r, g in zip(rewards, group, strict=True) if g == label]
        if len(peers) < 2 or max(peers) == min(peers):
            advantages.append(0.0)
            continue
        centred = reward - sum(peers) / len(peers)
        if kind == "rloo":
            others = (sum(peers) - reward) / (len(peers) - 1)
            centred = reward - others
        elif kind == "grpo":
            centred /= deviation(peers) + eps
        elif kind == "batch_std":
            centred /= deviation(rewards) + eps
        advantages.append(centred)
    return advantages


def deviation(numbers: Numbers) -> float:
    """Unbiased standard deviation; 0 for fewer than two numbers."""
    if len(numbers) < 2:
        return 0.0
    mean = math.fsum(numbers) / len(numbers)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / (len(numbers) - 1))


def whiten(numbers: Numbers, std_floor: float) -> list[float]:
    """(x - mean) / max(std, floor), or x - mean where there is no spread."""
    if not numbers:
        return []
    mean, std = math.fsum(numbers) / len(numbers), deviation(numbers)
    divisor = 1.0 if len(numbers) < 2 or std < 1e-8 else max(std, std_floor)
    return [(x - mean) / divisor for x in numbers]


def ppo(
    ratio: float, advantage: float, clip_low: float, clip_high: float, dual_clip: float | None
) -> float:
    """The clipped loss of one action, case by case."""
    held = min(max(ratio, 1 - clip_low), 1 + clip_high)
    objective = min(ratio * advantage, held * advantage)
    if dual_clip is not None and advantage < 0:
        objective = max(objective, dual_clip * advantage)
    return -objective


def aggregate(rows: Sequence[Numbers], masks: Sequence[Flags], mode: str, max_length: int) -> float:
    """One number of a batch of rows, in the four ways of `losses.aggregate`."""
    pairs = zip(rows, masks, strict=True)
    kept = [[x for x, m in zip(row, mask, strict=True) if m] for row, mask in pairs]
    full = [row for row in kept if row]
    if not full:
        return 0.0
    if mode == "token_mean":
        return sum(map(sum, full)) / sum(map(len, full))
    if mode == "seq_mean_token_mean":
        return sum(sum(row) / len(row) for row in full) / len(full)
    if mode == "seq_mean_token_sum":
        return sum(map(sum, full)) / len(full)
    return sum(map(sum, full)) / (len(kept) * max_length)


def entropy(logits: Numbers) -> float:
    """-Σ p log p of one distribution."""
    probabilities = softmax(logits)
    return -sum(p * math.log(p) for p in probabilities if p > 0)


def kl(logits: Numbers, other: Numbers) -> float:
    """Σ p log(p / q) of two distributions."""
    pairs = zip(softmax(logits), softmax(other), strict=True)
    return sum(p * math.log(p / q) for p, q in pairs if p > 0)


def softmax(logits: Numbers) -> list[float]:
    """Probabilities of logits."""
    top = max(logits)
    weights = [math.exp(x - top) for x in logits]
    return [w / sum(weights) for w in weights]


def explained_variance(values: Numbers, targets: Numbers) -> float:
    """1 - Var(y - v) / Var(y), 0 where y is constant."""
    spread = deviation(targets)
    rest = deviation([y - v for v, y in zip(values, targets, strict=True)])
    return 1 - (rest / spread) ** 2 if spread > 0 else 0.0
