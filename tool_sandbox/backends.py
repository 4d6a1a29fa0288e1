"""Which backend serves a sandbox: probes by starting one, and fails closed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol

from .advice import explain
from .cell import Cell, StartFailed
from .embedded import Embedded
from .errors import BackendFailed, SandboxUnavailable
from .limits import LEVELS, Isolation, Level, Limits
from .network import Fetch

logger = logging.getLogger("palaestra.sandbox")
_said: set[str] = set()
_REFUSALS = (StartFailed, BackendFailed, OSError)


class Backend(Protocol):
    """What makes workers."""

    @property
    def name(self) -> str:
        """As in `Isolation.backend`."""
        ...

    @property
    def lacks(self) -> str:
        """Why memory is only polled; empty where a group counts it."""
        ...

    def begin(self, limits: Limits) -> Cell:
        """A worker that is starting."""
        ...

    def close(self) -> None:
        """Frees what is not a worker's own."""
        ...

    def forget(self) -> None:
        """In a forked copy of the trainer: closes descriptors, ends nothing."""
        ...


class Wish(NamedTuple):
    """What a sandbox was asked for."""

    backend: str
    minimum: Level
    python: str | None
    preload: tuple[str, ...]
    readable: tuple[str, ...]
    image: str | None
    network: Fetch | None = None


def isolation_of(cell: Cell, backend: Backend) -> Isolation:
    """What a ready cell's self-test observed."""
    seen = cell.wait_ready()
    layers = tuple(str(layer) for layer in seen["layers"])
    missing = [str(layer) for layer in seen["missing"]]
    advice = ""
    if backend.lacks:
        missing.append("resource group")
        advice = (
            f"memory is polled every 20 ms ({backend.lacks}); the kernel counts it for what runs "
            "by: systemd-run --user --scope COMMAND"
        )
    if "shared folder" in missing:
        advice = "Script, Fetch and Session.fork are refused: use an engine that sees our folders"
    level: Level = next(one for one in LEVELS if one == seen["level"])
    return Isolation(backend.name, level, layers, tuple(missing), advice)


def choose(wish: Wish, limits: Limits) -> tuple[Backend, Cell, Isolation]:
    """The first backend that reaches the wish, its first worker, and what that observed.

    Raises:
        SandboxUnavailable: None does; the message lists each with what it lacks.
    """
    complaints: list[str] = []
    for name, make in candidates(wish):
        backend: Backend | None = None
        cell: Cell | None = None
        try:
            backend = make()
            cell = backend.begin(limits)
            isolation = isolation_of(cell, backend)
        except BaseException as problem:
            if cell is not None:
                cell.close()
            if backend is not None:
                backend.close()
            if not isinstance(problem, _REFUSALS) or isinstance(problem, TimeoutError):
                raise  # an interrupt, or the time-out of a handler of the trainer's signals
            complaints.append(f"{name}: {explain(problem)}")
            continue
        if LEVELS.index(isolation.level) >= LEVELS.index(wish.minimum):
            _say(isolation)
            _say_absent(cell)
            return backend, cell, isolation
        words = f'{isolation.backend}: reaches "{isolation.level}" only'
        complaints.append(f"{words}; {isolation.advice}" if isolation.advice else words)
        cell.close()
        backend.close()
    wanted = f'no backend reaches "{wish.minimum}" here'
    raise SandboxUnavailable("\n  ".join((wanted, *complaints)))


def candidates(wish: Wish) -> list[tuple[str, Callable[[], Backend]]]:
    """What can be tried for a wish, the best first; `auto` never holds "process"."""
    embedded = wish.python, wish.preload, wish.readable
    makers: list[tuple[str, Callable[[], Backend]]] = []
    if wish.backend in ("auto", "cell"):
        makers.append(("cell", lambda: Embedded(*embedded)))
        if wish.minimum == "reduced":
            makers.append(("cell", lambda: Embedded(*embedded, mode="reduced")))
    if wish.backend in ("auto", "docker"):
        makers.append(("docker", lambda: _docker(wish)))
    if wish.backend == "process":
        makers.append(("process", lambda: _process(wish)))
    return makers


def _docker(wish: Wish) -> Backend:
    if wish.python is not None:
        words = f"docker runs the interpreter of its image, not {wish.python!r}"
        raise StartFailed("python", 0, words, "give image= instead of python=")
    try:
        from .docker import Docker  # imports a heavy library, and only here
    except ImportError as problem:
        raise StartFailed("library", 0, str(problem)) from None
    return Docker(wish.image, wish.preload, wish.readable)


def _process(wish: Wish) -> Backend:
    from .process import Bare

    return Bare(wish.python, wish.preload)


def _say(isolation: Isolation) -> None:
    """One line, once per process, if a layer that is not required is absent."""
    if isolation.backend == "process" or not isolation.missing:
        return
    line = (
        f"sandbox: {isolation.backend}, {isolation.level}; without {', '.join(isolation.missing)}"
    )
    if "resource group" in isolation.missing:
        line += ' (memory is polled; see "palaestra sandbox doctor")'
    _warn(line)


def _say_absent(cell: Cell) -> None:
    """Which modules of `preload` were not there; programs that need them fail, too."""
    for name, why in cell.wait_ready().get("failed", {}).items():
        words = f"sandbox: preload: {name!r} could not be imported ({why})"
        _warn(f"{words}; leave it out, or take an interpreter that has it")


def _warn(line: str) -> None:
    if line not in _said:
        _said.add(line)
        logger.warning(line)
