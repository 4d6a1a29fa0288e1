"""What a backend knows of a worker besides its socket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Keeper(Protocol):
    """Knows a worker's processes, and ends them."""

    def take(self, data: Mapping[str, Any], fds: Sequence[int]) -> None:
        """Receives the descriptors of the worker's processes, while it starts."""
        ...

    def settle(self) -> None:
        """Called once, when the worker is ready."""
        ...

    def oom_kills(self) -> int:
        """The kernel's count of kills for memory, 0 where it keeps none."""
        ...

    def stands_still(self) -> bool:
        """Whether somebody outside has stopped the worker."""
        ...

    def kill(self) -> None:
        """Kills the worker and all in it, at once."""
        ...

    def release(self) -> None:
        """Waits for the worker's end, then frees what it held; idempotent."""
        ...

    def forget(self) -> None:
        """In a forked copy of the trainer: closes descriptors, ends nothing."""
        ...
