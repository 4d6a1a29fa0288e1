"""Counters of a sandbox, and the frozen copy that users read."""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from .limits import REASONS, Reason, Result

logger = logging.getLogger("palaestra.sandbox")
# Upper bounds of the latency classes in seconds; the last class is open.
BOUNDS = tuple(round(1e-4 * 2.0 ** (i / 2), 7) for i in range(36))


@dataclass(frozen=True, slots=True)
class Latency:
    """A histogram of seconds over `BOUNDS`."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    total: float = 0.0

    @property
    def count(self) -> int:
        """How many were measured."""
        return sum(self.counts)

    def less(self, earlier: Latency) -> Latency:
        """What was added since an earlier copy.

        >>> Latency((3,), 0.5).less(Latency((1,), 0.25))
        Latency(counts=(2,), total=0.25)
        """
        counts = (now - then for now, then in zip(self.counts, earlier.counts, strict=True))
        return Latency(tuple(counts), self.total - earlier.total)

    def quantile(self, share: float) -> float:
        """Upper bound of the class in which this share of all lies; 0 without any.

        >>> Latency().quantile(0.5)
        0.0
        """
        left = share * self.count
        for bound, count in zip((*BOUNDS, BOUNDS[-1]), self.counts, strict=True):
            left -= count
            if count and left <= 0:
                return bound
        return 0.0


@dataclass(frozen=True, slots=True)
class Stats:
    """What a sandbox has done so far.

    Attributes:
        executions: Finished; calls of sessions count, and both halves of a `Script`.
        reasons: Of these, by reason.
        dispatch: Seconds from asking for a worker to handing over.
        run: Seconds a program ran.
        clean_up: Seconds between a program's end and its result.
        cells_started: Workers started.
        cells_retired: Workers ended, by cause.
        lost: Executions whose worker was lost; blames nobody.
        malformed: Answers of a worker or a driver that did not parse, and gradings by `Script`
            that could not be expressed.
        unclean: Workers retired since an execution left something behind.
        judge_failed: Gradings whose judge failed by itself.
        sessions_open: Sessions now open.
        branches: Branches now held by them.
        queue_wait: Seconds spent waiting for a free worker, in all.
        bytes_in: Bytes of programs, inputs and files handed over.
        bytes_out: Bytes of output written.
        memory_peak: Highest seen, in bytes; None where unknown.
        graded: Candidates graded.
        graded_passed: Of these, those that passed every test.
    """

    executions: int = 0
    reasons: Mapping[Reason, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    dispatch: Latency = Latency()
    run: Latency = Latency()
    clean_up: Latency = Latency()
    cells_started: int = 0
    cells_retired: Mapping[str, int] = field(default_factory=dict[str, int])
    lost: int = 0
    malformed: int = 0
    unclean: int = 0
    judge_failed: int = 0
    sessions_open: int = 0
    branches: int = 0
    queue_wait: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    memory_peak: int | None = None
    graded: int = 0
    graded_passed: int = 0


class _Histogram:
    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def freeze(self) -> Latency:
        return Latency(tuple(self.counts), self.total)


class Counters:
    """The living counters; every method may be called from any thread."""

    def __init__(self) -> None:
        # Again and again: collecting garbage may end a session while its thread is in here.
        self._lock = threading.RLock()
        self._reasons: Counter[Reason] = Counter()
        self._retired: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._histograms = _Histogram(), _Histogram(), _Histogram()
        self._queue_wait = 0.0
        self._peak: int | None = None

    def note(self, name: str, count: int = 1) -> None:
        """Adds to one of the plain counters of `Stats`, by its name."""
        with self._lock:
            self._counts[name] += count

    def retired(self, cause: str) -> None:
        """A worker ended."""
        with self._lock:
            self._retired[cause] += 1

    def waited(self, seconds: float) -> None:
        """A caller waited for a worker."""
        with self._lock:
            self._queue_wait += seconds

    def executed(self, result: Result, dispatch: float, total: float, size: int) -> None:
        """An execution finished.

        Args:
            result: What came of it.
            dispatch: Seconds before it was handed over.
            total: Seconds from handing over to the result.
            size: Bytes handed over.
        """
        with self._lock:
            self._reasons[result.reason] += 1
            number = self._reasons.total()
            self._counts["bytes_in"] += size
            self._counts["bytes_out"] += result.stdout_bytes + result.stderr_bytes
            times = (dispatch, result.wall, max(0.0, total - result.wall))
            for histogram, seconds in zip(self._histograms, times, strict=True):
                histogram.add(seconds)
            if result.memory_peak is not None:
                self._peak = max(self._peak or 0, result.memory_peak)
        logger.debug("execution %d: %s, %.4f s, %d bytes in", number, result.reason, total, size)

    def renew(self) -> None:
        """In a forked copy: a thread that is not in it may have held the lock at that moment."""
        self._lock = threading.RLock()

    def freeze(self) -> Stats:
        """A copy of now."""
        with self._lock:
            counts = self._counts
            reasons: dict[Reason, int] = {reason: self._reasons[reason] for reason in REASONS}
            dispatch, run, clean_up = (one.freeze() for one in self._histograms)
            return Stats(
                sum(reasons.values()),
                reasons,
                dispatch,
                run,
                clean_up,
                counts["cells_started"],
                dict(self._retired),
                reasons["lost"],
                counts["malformed"],
                self._retired["unclean"],
                counts["judge_failed"],
                counts["sessions_open"],
                counts["branches"],
                self._queue_wait,
                counts["bytes_in"],
                counts["bytes_out"],
                self._peak,
                counts["graded"],
                counts["graded_passed"],
            )
