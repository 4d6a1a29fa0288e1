"""Numbers about runs and how sure they are: intervals, pass@k, pass^k, interquartile mean."""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .rows import at_least_float32, changes, need_shape
from .segments import Runs


class Interval(NamedTuple):
    """An estimate and the interval in which it is believed to lie."""

    estimate: float
    low: float
    high: float


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion: right at 0 and n too, where others are empty.

    Args:
        successes: How many of `n` independent trials succeeded.
        n: Trials; 0 gives the interval [0, 1] around nan.
        confidence: Between 0 and 1.

    Raises:
        ValueError: successes outside 0 to n, or confidence outside (0, 1).

    >>> wilson(0, 100).high < 0.04
    True
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes is {successes} of {n}; give 0 to n")
    z = _quantile(confidence)
    if n == 0:
        return Interval(math.nan, 0.0, 1.0)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(share, low, high)


def _quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; give a number between 0 and 1, as 0.95")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def pass_at_k(
    successes: Int[Tensor, " tasks"], attempts: Int[Tensor, " tasks"], *, k: int
) -> Float[Tensor, " tasks"]:
    """Chance that at least one of k attempts succeeds, 1 - C(n-c, k) / C(n, k) (2107.03374).

    Args:
        successes: c, of each task, `[tasks]`.
        attempts: n, of each task, `[tasks]`.
        k: How many attempts count, at most the least n.

    Returns:
        Unbiased estimate for each task, float64 `[tasks]`; the benchmark is their mean.

    Raises:
        ValueError: k below 1 or above the attempts of a task; successes outside 0 to n.

    >>> pass_at_k(torch.tensor([1]), torch.tensor([4]), k=2)
    tensor([0.5000], dtype=torch.float64)
    """
    return 1 - _all_from(attempts - successes, successes, attempts, k)


def pass_hat_k(
    successes: Int[Tensor, " tasks"], attempts: Int[Tensor, " tasks"], *, k: int
) -> Float[Tensor, " tasks"]:
    """Chance that all of k attempts succeed, pass^k = C(c, k) / C(n, k) (2406.12045).

    Arguments, result and errors are those of `pass_at_k`.

    >>> pass_hat_k(torch.tensor([2]), torch.tensor([4]), k=2)
    tensor([0.1667], dtype=torch.float64)
    """
    return _all_from(successes, successes, attempts, k)


def _all_from(chosen: Tensor, successes: Tensor, attempts: Tensor, k: int) -> Tensor:
    """C(chosen, k) / C(attempts, k), exactly where both fit a float."""
    need_shape("attempts", attempts, successes.shape)
    if k < 1 or bool((attempts < k).any()):
        raise ValueError(f"k is {k}; give 1 to the number of attempts at each task")
    if bool(((successes < 0) | (successes > attempts)).any()):
        raise ValueError("successes lie outside 0 to attempts; count the successes of each task")
    pairs = zip(cast(list[int], chosen.tolist()), cast(list[int], attempts.tolist()), strict=True)
    return torch.tensor([math.comb(c, k) / math.comb(n, k) for c, n in pairs], dtype=torch.float64)


@torch.no_grad()
def iqm(scores: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Interquartile mean: the mean without the lowest and the highest quarter (2108.13264).

    Returns:
        A scalar; nan where there is no score.

    >>> iqm(torch.tensor([-100.0, 1.0, 3.0, 100.0]))
    tensor(2.)
    """
    (line,) = at_least_float32(scores.flatten())
    cut = line.numel() // 4
    return line.sort().values[cut : line.numel() - cut].mean()


@torch.no_grad()
def bootstrap(
    samples: Float[Tensor, " n"],
    *,
    statistic: Callable[[Tensor], Tensor] | None = None,
    draws: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a statistic of independent samples.

    Args:
        samples: `[n]`, independent of each other. For several attempts at one task, which are
            not, use `cluster_bootstrap`.
        statistic: Maps `[n]` to a scalar, as `iqm`; the mean by default.
        draws: How many times the samples are drawn anew.
        confidence: Between 0 and 1.
        seed: The same seed gives the same interval.

    Returns:
        The statistic of the samples themselves and the percentiles of the draws; nan, nan,
        nan where there is no sample.

    Raises:
        ValueError: draws below 1, or confidence outside (0, 1).

    >>> bootstrap(torch.tensor([1.0, 1.0, 1.0]))
    Interval(estimate=1.0, low=1.0, high=1.0)
    """
    _quantile(confidence)
    if draws < 1:
        raise ValueError(f"draws is {draws}; give at least 1, as 1000")
    n = samples.numel()
    if n == 0:
        return Interval(math.nan, math.nan, math.nan)
    line = samples.detach().to(torch.float64, copy=True).flatten().cpu()
    source = torch.Generator().manual_seed(seed)
    picks = torch.randint(n, (draws, n), generator=source)
    if statistic is None:
        estimate, drawn = line.mean(), line[picks].mean(-1)
    else:
        estimate = statistic(line)
        drawn = torch.stack([statistic(line[pick]) for pick in picks])
    tail = (1 - confidence) / 2
    ends = torch.quantile(drawn, torch.tensor([tail, 1 - tail], dtype=drawn.dtype))
    return Interval(float(estimate), float(ends[0]), float(ends[1]))


@torch.no_grad()
def cluster_means(
    samples: Float[Tensor, " n"], cluster: Int[Tensor, " n"]
) -> Float[Tensor, " clusters"]:
    """Average the samples of each cluster, clusters in the order of their labels.

    >>> cluster_means(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([4, 4, 9]))
    tensor([2., 5.], dtype=torch.float64)
    """
    need_shape("cluster", cluster, samples.shape)
    order = cluster.argsort(stable=True)
    parts = Runs.of(changes(cluster[order]))
    line = samples.to(torch.float64)[order]
    return parts.total(line) / parts.total(torch.ones_like(line))


@torch.no_grad()
def cluster_bootstrap(
    samples: Float[Tensor, " n"],
    cluster: Int[Tensor, " n"],
    *,
    statistic: Callable[[Tensor], Tensor] | None = None,
    draws: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval over tasks: the attempts at one task stand and fall together.

    The estimate is the mean over tasks of the attempts' mean (or `statistic` of those means);
    whole tasks are drawn anew. Arguments, result and errors are those of `bootstrap`, with

    Args:
        samples: One a attempt, `[n]`.
        cluster: Label of its task, `[n]`.
        statistic: Maps the means of the tasks to a scalar; their mean by default.
        draws: How many times the tasks are drawn anew.
        confidence: Between 0 and 1.
        seed: The same seed gives the same interval.

    >>> cluster_bootstrap(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 1])).estimate
    0.75
    """
    means = cluster_means(samples, cluster)
    return bootstrap(means, statistic=statistic, draws=draws, confidence=confidence, seed=seed)
