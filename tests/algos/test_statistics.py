import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from palaestra.algos import statistics
from torch import Tensor


def real(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_wilson_equals_the_textbook_numbers() -> None:
    """Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for successes, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        got = statistics.wilson(successes, n)
        assert got.estimate == successes / n
        assert got.low == pytest.approx(low, abs=5e-5)
        assert got.high == pytest.approx(high, abs=5e-5)


@given(n=st.integers(1, 500), data=st.data(), confidence=st.sampled_from([0.5, 0.95, 0.999]))
def test_wilson_is_symmetric_and_holds_its_estimate(
    n: int, data: st.DataObject, confidence: float
) -> None:
    successes = data.draw(st.integers(0, n))
    got = statistics.wilson(successes, n, confidence=confidence)
    mirror = statistics.wilson(n - successes, n, confidence=confidence)
    assert 0 <= got.low <= got.estimate <= got.high <= 1
    assert mirror.low == pytest.approx(1 - got.high, abs=1e-12)


def test_no_trial_says_nothing() -> None:
    got = statistics.wilson(0, 0)
    assert math.isnan(got.estimate)
    assert got[1:] == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"successes is {successes} of {n}"):
        statistics.wilson(successes, n)


@given(n=st.integers(1, 6), data=st.data())
def test_pass_at_k_counts_all_choices_of_k_attempts(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(itertools.combinations([i < c for i in range(n)], k))
    some = statistics.pass_at_k(torch.tensor([c]), torch.tensor([n]), k=k)
    every = statistics.pass_hat_k(torch.tensor([c]), torch.tensor([n]), k=k)
    assert float(some) == pytest.approx(sum(map(any, draws)) / len(draws))
    assert float(every) == pytest.approx(sum(map(all, draws)) / len(draws))


def test_pass_at_one_is_success_and_k_widens_the_gap() -> None:
    """FB-EV1."""
    c, n = torch.tensor([0, 1, 3, 8]), torch.tensor([8, 8, 8, 8])
    share = c / n
    at = torch.stack([statistics.pass_at_k(c, n, k=k) for k in range(1, 9)])
    hat = torch.stack([statistics.pass_hat_k(c, n, k=k) for k in range(1, 9)])
    torch.testing.assert_close(at[0].float(), share)
    torch.testing.assert_close(hat[0].float(), share)
    assert bool((at.diff(dim=0) >= 0).all() & (hat.diff(dim=0) <= 0).all())


def test_many_attempts_do_not_overflow() -> None:
    got = statistics.pass_at_k(torch.tensor([1]), torch.tensor([5000]), k=2500)
    assert float(got) == pytest.approx(0.5)


@pytest.mark.parametrize("k", [0, 4])
def test_more_tries_than_attempts_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"k is {k}"):
        statistics.pass_at_k(torch.tensor([1]), torch.tensor([3]), k=k)
    with pytest.raises(ValueError, match="outside 0 to attempts"):
        statistics.pass_hat_k(torch.tensor([4]), torch.tensor([3]), k=1)


def test_the_interquartile_mean_drops_a_quarter_at_each_side() -> None:
    assert float(statistics.iqm(torch.arange(8.0))) == 3.5
    assert float(statistics.iqm(real([9.0, 1.0, 2.0]))) == 4.0
    assert float(statistics.iqm(real([-1e9, 1.0, 3.0, 1e9]))) == 2.0


def test_the_bootstrap_of_the_mean_agrees_with_the_normal_interval() -> None:
    source = torch.Generator().manual_seed(0)
    samples = torch.randn(400, generator=source, dtype=torch.float64)
    got = statistics.bootstrap(samples, draws=4000, seed=3)
    half = 1.96 * float(samples.std()) / 20
    assert got.estimate == pytest.approx(float(samples.mean()))
    assert got.low == pytest.approx(got.estimate - half, abs=0.015)
    assert got.high == pytest.approx(got.estimate + half, abs=0.015)


def test_the_same_seed_draws_the_same_interval_and_leaves_the_global_stream() -> None:
    samples = torch.arange(30.0)
    before = torch.random.get_rng_state()
    first = statistics.bootstrap(samples, seed=1)
    assert statistics.bootstrap(samples, seed=1) == first
    assert statistics.bootstrap(samples, seed=2) != first
    assert torch.equal(torch.random.get_rng_state(), before)


def test_any_statistic_can_be_drawn() -> None:
    samples = torch.cat([torch.arange(40.0), real([1e6]).float()])
    got = statistics.bootstrap(samples, statistic=statistics.iqm, draws=200)
    assert got.low < got.estimate < got.high < 1000


def test_attempts_at_one_task_count_as_one() -> None:
    """Copies of every attempt change neither estimate nor interval."""
    success = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    task = torch.arange(8)
    alone = statistics.cluster_bootstrap(success, task)
    copied = statistics.cluster_bootstrap(success.repeat(16), task.repeat(16))
    assert copied == alone
    naive = statistics.bootstrap(success.repeat(16))
    assert naive.high - naive.low < (alone.high - alone.low) / 2


def test_tasks_weigh_the_same_however_often_they_were_tried() -> None:
    success = torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert statistics.cluster_bootstrap(success, torch.tensor([0, 0, 0, 1])).estimate == 0.5


@pytest.mark.slow
def test_the_cluster_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    """200 experiments of 64 tasks x 4 attempts: 95 % within 6 standard errors."""
    source = torch.Generator().manual_seed(0)
    inside, experiments = 0, 200
    for seed in range(experiments):
        skill = torch.rand(64, 1, generator=source)
        success = (torch.rand(64, 4, generator=source) < skill).float()
        task = torch.arange(64)[:, None].expand(64, 4)
        got = statistics.cluster_bootstrap(success.flatten(), task.flatten(), seed=seed)
        inside += got.low <= 0.5 <= got.high
    assert abs(inside / experiments - 0.95) < 6 * math.sqrt(0.95 * 0.05 / experiments)


def test_no_sample_has_no_interval() -> None:
    assert all(math.isnan(x) for x in statistics.bootstrap(torch.zeros(0)))
    empty = statistics.cluster_bootstrap(torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert math.isnan(empty.estimate)


@pytest.mark.parametrize("known", [{"draws": 0}, {"confidence": 1.0}, {"confidence": 0.0}])
def test_impossible_bootstraps_are_refused(known: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(known))):
        statistics.bootstrap(torch.zeros(3), **known)
