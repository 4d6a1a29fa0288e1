"""The door: a `Sandbox`, its pool of workers, `execute`, `map`, `session`, `grade`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import warnings
import weakref
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import Executor, ThreadPoolExecutor
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack

from .backends import Wish
from .engine import Engine
from .errors import BadRequest, SandboxClosed, UnsafeSandboxWarning
from .limits import LEVELS, Isolation, Job, Language, Level, Limits, Result
from .network import Fetch
from .outcome import Outcome
from .requests import (
    BRANCHES,
    check_files,
    check_limits,
    check_many,
    check_options,
    check_pair,
    check_room,
    check_size,
    request_of,
)
from .resources import usable_cores
from .revocable import Revocable
from .session import Session
from .spread import aspread, no_thread, spread
from .stats import Stats

if TYPE_CHECKING:
    from .grading import Door, Report, Tests

Name = Literal["auto", "cell", "docker", "process"]
_In = TypeVar("_In")
_Out = TypeVar("_Out")

# What programs of this kind import, and cheap to hold: every execution is a fork, and pays for each
# page and each library of the interpreter it is forked from.
COMMON = tuple(
    """abc array ast base64 bisect cmath collections contextlib copy dataclasses datetime decimal
    enum fractions functools heapq io itertools json keyword linecache math numbers operator os
    queue random re reprlib statistics string struct sys textwrap threading time tokenize
    traceback types typing unittest weakref""".split()  # noqa: SIM905
)


class Options(TypedDict, total=False):
    """Keywords that `execute`, `aexecute`, `map` and `amap` share; the fields of `Job`."""

    limits: Limits | None
    stdin: str | bytes
    files: Mapping[str, bytes | str]
    fetch: Sequence[str]
    language: Language
    seed: int | None
    want_value: bool


class Sandbox:
    r"""Runs untrusted code. Starts at the first use; thread-safe; survives a fork of the trainer.

    >>> with Sandbox("cell", workers=1) as sandbox:  # doctest: +SKIP
    ...     sandbox.execute("print(6 * 7)").stdout
    '42\n'
    """

    def __init__(
        self,
        backend: Name = "auto",
        *,
        limits: Limits = Limits(),  # noqa: B008  (frozen)
        workers: int | None = None,
        minimum: Literal["full", "reduced", "none"] = "full",
        python: str | None = None,
        preload: Sequence[str] = COMMON,
        readable: Sequence[str | PathLike[str]] = (),
        network: Fetch | None = None,
        image: str | None = None,
    ) -> None:
        """Checks its arguments; starts nothing.

        Args:
            backend: "auto" takes "cell", else "docker", and never "process".
            limits: Of every execution that names none.
            workers: Executions at the same time; None means as many as there are usable cores.
            minimum: The weakest isolation to accept.
            python: Another interpreter or virtual environment, shown read-only; not for docker.
            preload: Modules imported once, before any guest runs.
            readable: Further paths guests may read.
            network: What programs may fetch through the host, call by call; None: nothing.
            image: Of the docker backend; None means the one that `sandbox build` made.

        Raises:
            BadRequest: An argument that cannot be.
        """
        _check_choice("backend", backend, ("auto", "cell", "docker", "process"))
        _check_choice("minimum", minimum, LEVELS)
        if backend == "process" and minimum != "none":
            raise BadRequest('backend "process" isolates nothing; say minimum="none" with it')
        if backend == "docker" and python is not None:
            raise BadRequest(
                f"python is {python!r}, and docker runs the interpreter of its image; leave it "
                "out, and give image=, which `palaestra sandbox build --from` makes"
            )
        modules, paths = check_options(limits, workers, python, preload, readable, image)
        if network is not None and not isinstance(network, Fetch):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise BadRequest(f"network is {network!r}; give a Fetch, or None")
        if backend == "process":
            words = "the process backend isolates nothing: guests can read, write and kill"
            warnings.warn(words, UnsafeSandboxWarning, stacklevel=2)
        level: Level = minimum
        self._wish = Wish(backend, level, python, modules, paths, image, network)
        self._limits = limits
        self._workers = usable_cores() if workers is None else workers
        self._open()

    def _open(self) -> None:
        self._engine = Engine(self._wish, self._limits, self._workers)
        self._finalizer = weakref.finalize(self, self._engine.close)

    def _living(self) -> Engine:
        if self._engine.pid != os.getpid():
            self._finalizer.detach()  # the parent's; this process opens its own
            self._open()
        if self._engine.closed:
            raise SandboxClosed("this sandbox is closed; make a new one")
        return self._engine

    @property
    def isolation(self) -> Isolation:
        """What holds, as a worker's self-test saw it; starts one worker if need be.

        Raises:
            SandboxUnavailable: No backend reaches the minimum.
        """
        return self._living().isolation

    @property
    def workers(self) -> int:
        """Executions at the same time."""
        return self._workers

    @property
    def limits(self) -> Limits:
        """Of every execution that names none."""
        return self._limits

    def execute(self, code: str, **options: Unpack[Options]) -> Result:
        """Runs one program to its end.

        Args:
            code: Python, or shell text with `language="shell"`.
            options: `limits`; `stdin`; `files` put into the work directory before; `fetch`,
                paths brought back after; `language`; `seed` of `random` (None: drawn by the
                system); `want_value`, whether the last expression's value comes back.

        Returns:
            What came of it, whatever the guest did.

        Raises:
            BadRequest: Refused before anything ran.
            SandboxClosed: After `close`.
            SandboxUnavailable: No backend reaches the minimum.
            BackendFailed: Workers cannot be started.
        """
        return self._run(_job(code, options)).result

    def _run(self, job: Job) -> Outcome:
        engine = self._living()
        return engine.run(request_of(job, self._limits))

    async def aexecute(self, code: str, **options: Unpack[Options]) -> Result:
        """As `execute`; cancelling it kills the execution."""
        return await self._arun(_job(code, options))

    async def _arun(self, job: Job) -> Result:
        engine = self._living()
        outcome = await engine.arun(request_of(job, self._limits))
        return outcome.result

    def map(
        self, codes: Iterable[str | Job], *, ordered: bool = True, **options: Unpack[Options]
    ) -> Iterator[Result]:
        """Runs many programs, as many at a time as there are workers.

        Args:
            codes: Programs, or whole jobs; read at most 2 x workers ahead.
            ordered: Results in the order of the programs; else as they come.
            options: As `execute`, for the programs that are no `Job`.

        Yields:
            One result a program.
        """
        check_many("codes", codes, "programs", Iterable)
        jobs = (item if isinstance(item, Job) else _job(item, options) for item in codes)
        self._living()
        return spread(lambda job: self._run(job).result, jobs, self._workers, ordered)

    def amap(
        self,
        codes: AsyncIterable[str | Job] | Iterable[str | Job],
        *,
        ordered: bool = True,
        **options: Unpack[Options],
    ) -> AsyncIterator[Result]:
        """As `map`, for coroutines."""
        check_many("codes", codes, "programs", Iterable | AsyncIterable)

        def run(item: str | Job) -> Awaitable[Result]:
            return self._arun(item if isinstance(item, Job) else _job(item, options))

        return aspread(run, codes, self._workers, ordered)

    def session(
        self, *, limits: Limits | None = None, files: Mapping[str, bytes | str] | None = None
    ) -> Session:
        """A program that goes on between calls, in a cell of its own.

        Args:
            limits: `wall`, `output` and `output_stop` hold for each call, the others for all.
            files: Put into the work directory at the start.

        Returns:
            The session; it keeps this sandbox alive, so that nobody else has to.

        Raises:
            BadRequest: An argument that cannot be, or no memory for one more session.
            BackendFailed: Its worker cannot be started.
        """
        wanted = check_limits(self._limits if limits is None else limits)
        found = check_files({} if files is None else files)
        check_size(sum(map(len, found.values())))
        check_room(found, b"", wanted, beside=BRANCHES)
        return self._living().session(wanted, found, self)

    def grade(self, candidate: str, tests: Tests, *, limits: Limits | None = None) -> Report:
        """Grades a candidate; expected values never enter a process that holds its code.

        Args:
            candidate: Program text.
            tests: `Calls`, `Script` or `Streams`.
            limits: Of the grading; None means the sandbox' own.
        """
        return self._grade(self._living(), candidate, tests, limits)

    def _grade(self, door: Door, candidate: str, tests: Tests, limits: Limits | None) -> Report:
        from .grading import grade

        wanted = check_limits(self._limits if limits is None else limits)
        report = grade(door, candidate, tests, wanted)
        door.note("graded")
        if report.passed:
            door.note("graded_passed")
        return report

    def grade_many(
        self,
        pairs: Iterable[tuple[str, Tests]],
        *,
        limits: Limits | None = None,
        ordered: bool = True,
    ) -> Iterator[Report]:
        """Grades many candidates, as many at a time as there are workers.

        Args:
            pairs: (candidate, tests); read at most 2 x workers ahead.
            limits: Of each grading.
            ordered: Reports in the order of the pairs; else as they come.

        Yields:
            One report a pair.
        """
        check_many("pairs", pairs, "pairs", Iterable)
        self._living()

        def work(pair: object) -> Report:
            return self.grade(*check_pair(pair), limits=limits)

        return spread(work, pairs, self._workers, ordered)

    async def agrade(self, candidate: str, tests: Tests, *, limits: Limits | None = None) -> Report:
        """As `grade`, for coroutines; cancelling it kills the grading."""
        return await self._agrade(self._living().graders, candidate, tests, limits)

    async def _agrade(
        self, threads: Executor, candidate: str, tests: Tests, limits: Limits | None
    ) -> Report:
        door = Revocable(self._living())
        try:
            report = threads.submit(self._grade, door, candidate, tests, limits)
        except RuntimeError as problem:
            raise no_thread(problem, closed=self._engine.closed) from None
        try:
            return await asyncio.wrap_future(report)
        except BaseException:  # cancelled, or thrown away with its event loop
            report.cancel()
            door.shut()
            raise

    async def agrade_many(
        self,
        pairs: AsyncIterable[tuple[str, Tests]] | Iterable[tuple[str, Tests]],
        *,
        limits: Limits | None = None,
        ordered: bool = True,
    ) -> AsyncIterator[Report]:
        """As `grade_many`, for coroutines."""
        check_many("pairs", pairs, "pairs", Iterable | AsyncIterable)
        threads = ThreadPoolExecutor(self._workers, "palaestra-sandbox")

        def work(pair: object) -> Awaitable[Report]:
            return self._agrade(threads, *check_pair(pair), limits)

        try:
            reports = aspread(work, pairs, self._workers, ordered)
            async with contextlib.aclosing(reports):
                async for report in reports:
                    yield report
        finally:
            threads.shutdown(wait=False)

    @property
    def stats(self) -> Stats:
        """The counters, as of now."""
        return self._engine.counters.freeze()

    def close(self) -> None:
        """Ends workers and sessions, and waits for their end; idempotent."""
        if self._engine.pid == os.getpid():
            self._finalizer()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Sandbox:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def __reduce__(self) -> tuple[Callable[..., Sandbox], tuple[Any, ...]]:
        return _rebuild, (self._wish, self._limits, self._workers)


def _rebuild(wish: Wish, limits: Limits, workers: int) -> Sandbox:
    return Sandbox(
        wish.backend,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        limits=limits,
        workers=workers,
        minimum=wish.minimum,
        python=wish.python,
        preload=wish.preload,
        readable=wish.readable,
        image=wish.image,
        network=wish.network,
    )


def _job(code: str, options: Options) -> Job:
    try:
        return Job(code, **options)  # pyright: ignore[reportArgumentType]
    except TypeError as problem:
        raise BadRequest(str(problem).replace("Job.__init__()", "execute")) from None


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise BadRequest(f"{name} is {value!r}; give one of {', '.join(choices)}")
