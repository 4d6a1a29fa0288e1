"""A bare subprocess. Unsafe, and says so."""

from __future__ import annotations

from collections.abc import Sequence

from .embedded import Embedded


class Bare(Embedded):
    """Runs guests as ourselves: rlimits, a process tree that is ended, and nothing else.

    It exists so that tools can be tried where nothing better runs. `auto` never takes it.
    """

    def __init__(self, python: str | None, preload: Sequence[str]) -> None:
        """Starts nothing yet.

        Args:
            python: Another interpreter or virtual environment.
            preload: Modules imported once.
        """
        super().__init__(python, preload, (), mode="bare")
