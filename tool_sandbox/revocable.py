"""A grading that can be given up: its workers are killed, and it gets no others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from .cell import Cell, Request
from .limits import Limits
from .outcome import Outcome

if TYPE_CHECKING:
    from .engine import Engine


class Revocable:
    """The way of one grading to the workers; somebody else may shut it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._held: set[Cell] = set()
        self._shut = False

    def shut(self) -> None:
        """Kills the workers it holds. Whoever grades meets `CancelledError` at his next step."""
        with self._lock:  # so a worker that has gone back is nobody's to kill
            self._shut = True
            for cell in self._held:
                cell.kill()

    def run(self, request: Request) -> Outcome:
        """As `Door.run`."""
        return self._engine.run(request, self)

    @contextlib.contextmanager
    def borrow(self, limits: Limits) -> Generator[Cell]:
        """As `Door.borrow`."""
        with self._engine.borrow(limits) as cell, self._holding(cell):
            yield cell

    @contextlib.contextmanager
    def judge(self, limits: Limits) -> Generator[Cell]:
        """As `Door.judge`."""
        with self._engine.judge(limits) as cell, self._holding(cell):
            yield cell

    @contextlib.contextmanager
    def _holding(self, cell: Cell) -> Generator[None]:
        with self._lock:
            self._go_on()
            self._held.add(cell)
        try:
            yield
        finally:
            with self._lock:
                self._held.discard(cell)

    def _go_on(self) -> None:
        if self._shut:
            raise CancelledError("this grading was given up")

    def note(self, name: str) -> None:
        """As `Door.note`."""
        self._go_on()
        self._engine.note(name)

    def count(
        self, cell: Cell, request: Request, outcome: Outcome, dispatch: float, total: float
    ) -> None:
        """As `Door.count`; what was killed counts as nothing."""
        self._go_on()
        self._engine.count(cell, request, outcome, dispatch, total)
