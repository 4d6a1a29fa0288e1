"""What a person sees while a run goes on: a live table, lines, or nothing."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import IO, Literal, NamedTuple

from rich.console import Console as Rich
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

Mode = Literal["live", "lines", "quiet"]
EVERY = 10  # iterations between two lines
ROWS = 12  # rows of the live table


class Column(NamedTuple):
    """One figure of the table."""

    title: str
    tag: str
    form: Callable[[float], str]


COLUMNS = (
    Column("success", "train/success", "{:.3f}".format),
    Column("fraction", "train/frac", "{:.3f}".format),
    Column("entropy", "policy/entropy_nonforced", "{:.3f}".format),
    Column("KL", "policy/kl_update", "{:.4f}".format),
    Column("tokens/s", "rollout/tokens_per_second", "{:,.0f}".format),
)


class Console:
    """Shows progress on a stream.

    Args:
        quiet: show nothing but errors and the end of the run.
        stream: where to write; None: standard output.
        live: a table that stays in place; None: where the stream is a terminal.
    """

    def __init__(
        self, *, quiet: bool = False, stream: IO[str] | None = None, live: bool | None = None
    ) -> None:
        self._rich = Rich(file=stream or sys.stdout, highlight=False, soft_wrap=True)
        terminal = self._rich.is_terminal if live is None else live
        self.mode: Mode = "quiet" if quiet else "live" if terminal else "lines"
        self._total = 0
        self._times: deque[float] = deque(maxlen=20)
        self._rows: deque[tuple[int, Mapping[str, float]]] = deque(maxlen=ROWS)
        self._live: Live | None = None

    def start(self, total: int, done: int = 0) -> None:
        """Begin to show a run of ``total`` iterations of which ``done`` are done."""
        self._total = total
        self._times.append(time.monotonic())
        if self.mode == "live" and done < total:
            self._live = Live(console=self._rich, refresh_per_second=4, transient=False)
            self._live.start()

    def line(self, text: str) -> None:
        """One line of news: a choice, a warning, an evaluation."""
        if self.mode != "quiet":
            self._rich.print(Text(text))

    def iteration(self, iteration: int, figures: Mapping[str, float]) -> None:
        """Show the figures of an iteration, by TensorBoard tag."""
        self._times.append(time.monotonic())
        self._rows.append((iteration, dict(figures)))
        if self._live is not None:
            self._live.update(self._table())
        elif self.mode == "lines" and (iteration % EVERY == 0 or iteration == self._total):
            self._rich.print(Text(self._words(iteration, figures)))

    def text(self, title: str, body: str) -> None:
        """A longer text, as a transcript, under a title."""
        if self.mode != "quiet":
            self._rich.print(Group(Text(title, style="bold"), Text(body.rstrip("\n")), Text("")))

    def stop(self) -> None:
        """Leave the live table as it is; further lines go under it."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def time_left(self, iteration: int) -> float | None:
        """Seconds to the end at the pace of the last iterations; None before the first one."""
        if len(self._times) < 2:
            return None
        pace = (self._times[-1] - self._times[0]) / (len(self._times) - 1)
        return pace * max(0, self._total - iteration)

    def _words(self, iteration: int, figures: Mapping[str, float]) -> str:
        width = len(str(self._total))
        parts = [f"iteration {iteration:>{width}}/{self._total}"]
        parts += [
            f"{column.title} {column.form(figures[column.tag])}"
            for column in COLUMNS
            if column.tag in figures
        ]
        parts.append(f"left {clock(self.time_left(iteration))}")
        return "  ".join(parts)

    def _table(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        shown = [
            column for column in COLUMNS if any(column.tag in figures for _, figures in self._rows)
        ]
        table.add_column("iteration", justify="right")
        for column in shown:
            table.add_column(column.title, justify="right", min_width=8)
        for iteration, figures in self._rows:
            cells = [
                column.form(figures[column.tag]) if column.tag in figures else ""
                for column in shown
            ]
            table.add_row(f"{iteration}/{self._total}", *cells)
        return Group(table, Text(f"time left {clock(self.time_left(self._rows[-1][0]))}"))


def clock(seconds: float | None) -> str:
    """Seconds as m:ss or h:mm:ss.

    >>> clock(75), clock(3_675), clock(None)
    ('1:15', '1:01:15', '-')
    """
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
