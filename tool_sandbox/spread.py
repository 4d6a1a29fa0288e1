"""Many pieces of work, as many at a time as there are workers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
)
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from .errors import SandboxClosed, SandboxError

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def spread(
    work: Callable[[_In], _Out], items: Iterable[_In], workers: int, ordered: bool
) -> Iterator[_Out]:
    """Does the work in threads.

    Args:
        work: What to do with an item.
        items: Read at most 2 x workers ahead.
        workers: How many at a time.
        ordered: Results in the order of the items; else as they come.

    Raises:
        SandboxError: Python starts no threads any more.
    """
    with ThreadPoolExecutor(workers, "palaestra-sandbox") as threads:
        waiting: deque[Future[_Out]] = deque()
        try:
            for item in items:
                try:
                    waiting.append(threads.submit(work, item))
                except RuntimeError as problem:
                    raise no_thread(problem) from None
                while len(waiting) >= 2 * workers:
                    yield _next(waiting, ordered)
            while waiting:
                yield _next(waiting, ordered)
        finally:
            for future in waiting:
                future.cancel()


async def aspread(
    work: Callable[[_In], Awaitable[_Out]],
    items: AsyncIterable[_In] | Iterable[_In],
    workers: int,
    ordered: bool,
) -> AsyncGenerator[_Out]:
    """As `spread`, with coroutines; what still runs at its end is cancelled."""
    waiting: deque[asyncio.Future[_Out]] = deque()
    try:
        async for item in _async(items):
            waiting.append(asyncio.ensure_future(work(item)))
            while len(waiting) >= 2 * workers:
                yield await _anext(waiting, ordered)
        while waiting:
            yield await _anext(waiting, ordered)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _next(waiting: deque[Future[_Out]], ordered: bool) -> _Out:
    if ordered:
        return waiting.popleft().result()
    done = next(iter(wait(waiting, return_when=FIRST_COMPLETED).done))
    waiting.remove(done)
    return done.result()


async def _anext(waiting: deque[asyncio.Future[_Out]], ordered: bool) -> _Out:
    if ordered:
        task = waiting[0]
        result = await task
        waiting.popleft()
        return result
    done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    task = next(iter(done))
    waiting.remove(task)
    return task.result()


async def _async(items: AsyncIterable[_In] | Iterable[_In]) -> AsyncIterator[_In]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def no_thread(problem: RuntimeError, *, closed: bool = False) -> SandboxError:
    """Why a pool of threads takes no more work.

    Args:
        problem: What it raised.
        closed: Whether the sandbox was closed meanwhile.

    >>> no_thread(RuntimeError("cannot schedule new futures after shutdown"), closed=True)
    SandboxClosed('the sandbox was closed while waiting')
    """
    if closed:
        return SandboxClosed("the sandbox was closed while waiting")
    return SandboxError(
        f"no thread can be started ({problem}); once Python's main thread has ended, only "
        "execute, grade and session work: end the work before it does"
    )
