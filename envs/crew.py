"""Threads that run the outside work of rows, so that nobody waits for the slowest."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from .exchange import Pending
from .messages import ToolResult
from .outside import lost, run
from .work import SessionCall

__all__ = ["Crew"]

Came = tuple[int, "list[ToolResult] | Exception"]


class Crew:
    """Takes pending messages, gives back the answers to their requests.

    Jobs and judgements that wait at one moment travel as one batch; session and network calls are
    run each by itself, since they would hold up a batch.
    """

    def __init__(self, workers: int, *, threads: int) -> None:
        """Starts the crew.

        Args:
            workers: batches of sandbox work under way at one time.
            threads: session and network calls under way at one time.
        """
        self._jobs: queue.SimpleQueue[tuple[int, Pending] | None] = queue.SimpleQueue()
        self._came: queue.SimpleQueue[Came] = queue.SimpleQueue()
        self._calls = ThreadPoolExecutor(threads, "palaestra-calls")
        self._workers = [
            threading.Thread(target=self._work, name="palaestra-batches", daemon=True)
            for _ in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    def take(self, row: int, pending: Pending) -> None:
        """Accepts work; its answers come out of `come`. At most one message a row is under way."""
        alone = any(
            r.kind == "network" or isinstance(r.work, SessionCall) for r in pending.requests
        )
        if alone:
            self._calls.submit(self._run, [(row, pending)])
        else:
            self._jobs.put((row, pending))

    def come(self, timeout: float | None) -> tuple[int, list[ToolResult]] | None:
        """Returns (row, answers) of work that is done.

        Args:
            timeout: seconds to wait; None: until something is done.

        Raises:
            SandboxUnavailable: there is no sandbox at all.
        """
        try:
            row, answers = self._came.get(timeout=timeout) if timeout else self._next(timeout)
        except queue.Empty:
            return None
        if isinstance(answers, Exception):
            raise answers
        return row, answers

    def _next(self, timeout: float | None) -> Came:
        return self._came.get() if timeout is None else self._came.get_nowait()

    def close(self) -> None:
        """Stops the threads; work under way is finished and forgotten."""
        for _ in self._workers:
            self._jobs.put(None)
        self._calls.shutdown(wait=False, cancel_futures=True)

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            batch = [first]
            # a share of what waits, so that the other workers find something too
            for _ in range(self._jobs.qsize() // len(self._workers)):
                try:
                    more = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    self._jobs.put(None)
                    break
                batch.append(more)
            self._run(batch)

    def _run(self, batch: Sequence[tuple[int, Pending]]) -> None:
        from ..tool_sandbox import SandboxUnavailable

        try:
            answers = run([pending for _, pending in batch])
        except SandboxUnavailable as error:
            for row, _ in batch:
                self._came.put((row, error))
        except Exception as error:  # the work is ours: its episodes are excluded, the run goes on
            detail = f"{type(error).__name__}: {error}"
            for row, pending in batch:
                self._came.put((row, [lost(r.key, detail) for r in pending.requests]))
        else:
            for (row, _), answer in zip(batch, answers, strict=True):
                self._came.put((row, answer))
