"""The first signal asks, the second one insists."""

from __future__ import annotations

import signal
import threading

import pytest
from palaestra.train.signals import Stop


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_asks_and_gives_the_exit_code(number: signal.Signals, code: int) -> None:
    with Stop() as stop:
        assert (stop.requested, stop.exit_code) == (False, 0)
        signal.raise_signal(number)
        assert (stop.requested, stop.exit_code) == (True, code)


def test_the_second_signal_leaves_at_once() -> None:
    with Stop() as stop:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.exit_code == 130


def test_afterwards_signals_go_where_they_went_before() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Stop():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_thread_that_may_not_watch_signals_runs_without() -> None:
    seen: list[bool] = []

    def work() -> None:
        with Stop() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
