"""A polite way to be stopped: the first signal asks, the second one insists."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any


class Stop:
    """Watches SIGINT and SIGTERM while the block runs.

    The first signal sets ``requested``: the loop saves and leaves. A second one raises
    ``KeyboardInterrupt`` where the program stands.

    >>> with Stop() as stop:
    ...     signal.raise_signal(signal.SIGINT)
    ...     stop.requested, stop.exit_code
    (True, 130)
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.number is not None

    @property
    def exit_code(self) -> int:
        """What the shell expects of a program ended by the signal (128 + number); 0 without one."""
        return 0 if self.number is None else 128 + self.number

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._take)
            except ValueError:  # not in the main thread: whoever runs us there watches signals
                break
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.number = number
