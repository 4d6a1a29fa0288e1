"""Figures of a run: screen, ``metrics.jsonl`` and TensorBoard; the only file that imports it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .checkpoint import write_text
from .console import Console

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FILE = "metrics.jsonl"


class Metrics:
    """Writes each figure three times: for eyes, for scripts, for TensorBoard.

    Args:
        run_dir: folder of the run; events and ``metrics.jsonl`` lie directly in it.
        total: iterations of the whole run.
        console: what shows them; None: nothing.
        resume_from: iterations done by the checkpoint a run goes on from; what was written after
            it is cut off. None: a new run.
        tensorboard: write events.
    """

    def __init__(
        self,
        run_dir: Path,
        total: int,
        console: Console | None = None,
        resume_from: int | None = None,
        *,
        tensorboard: bool = True,
    ) -> None:
        self.path = run_dir / FILE
        self._console = console or Console(quiet=True)
        if resume_from is not None:
            cut_back(self.path, resume_from)
        self._file = self.path.open("a", encoding="utf-8")
        self._events = _events(run_dir, resume_from) if tensorboard else None
        self._console.start(total, resume_from or 0)

    def write(self, iteration: int, figures: Mapping[str, float]) -> None:
        """Write one row, at once, so that it is there whatever happens next.

        A figure that is no finite number is null in the row (JSON has no NaN).

        Args:
            iteration: iterations done, counted from 1.
            figures: TensorBoard tag -> number.
        """
        row = {"iteration": iteration} | {tag: _number(value) for tag, value in figures.items()}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()
        if self._events is not None:
            for tag, value in figures.items():
                self._events.add_scalar(tag, value, iteration)
            self._events.flush()
        self._console.iteration(iteration, figures)

    def text(self, tag: str, body: str, iteration: int) -> None:
        """Write a sample of text, as a transcript: TensorBoard's text tab and the screen."""
        if self._events is not None:
            fenced = "\n".join("    " + line for line in body.splitlines())  # markdown: verbatim
            self._events.add_text(tag, fenced, iteration)
            self._events.flush()
        self._console.text(f"{tag}, iteration {iteration}", body)

    def settings(self, values: Mapping[str, Any], figures: Mapping[str, float]) -> None:
        """Write the settings and the final figures, for TensorBoard's hparams tab."""
        if self._events is None:
            return
        from torch.utils.tensorboard import summary

        plain = {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in values.items()
        }
        writer = cast(Any, self._events)._get_file_writer()
        hparams = cast(Callable[..., tuple[object, ...]], cast(Any, summary).hparams)
        for part in hparams(plain, dict(figures)):
            writer.add_summary(part)

    def close(self) -> None:
        """Close the files and leave the screen as it is."""
        self._console.stop()
        self._file.close()
        if self._events is not None:
            self._events.close()


def read(run_dir: Path) -> list[dict[str, Any]]:
    """Rows of a run's ``metrics.jsonl``; a last row that was cut in half is left out."""
    path = run_dir / FILE
    return _rows(path.read_text(encoding="utf-8")) if path.is_file() else []


def cut_back(path: Path, iteration: int) -> None:
    """Drop rows after ``iteration``, and one that was cut in half; the file is replaced whole."""
    if not path.is_file():
        return
    rows = _rows(path.read_text(encoding="utf-8", errors="replace"))
    kept = [row for row in rows if row.get("iteration", 0) <= iteration]
    write_text(path, "".join(json.dumps(row) + "\n" for row in kept))


def _rows(text: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # the process was killed while it wrote this row
            break
    return rows


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _events(run_dir: Path, resume_from: int | None) -> SummaryWriter:
    from torch.utils.tensorboard import SummaryWriter

    purge = None if resume_from is None else resume_from + 1
    return SummaryWriter(str(run_dir), purge_step=purge)
