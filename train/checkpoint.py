"""Save and resume, bit for bit: folders that are whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError

INDEX = "index.json"
FOLDER = "checkpoints"
BEST = "best"
TEMPORARY = ".saving-"

Part = Callable[[Path], None] | Mapping[str, Any]


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An intact checkpoint on disk.

    Attributes:
        path: its folder.
        iteration: the iterations that were done when it was made.
        skipped: one line for each later checkpoint that was damaged.
    """

    path: Path
    iteration: int
    skipped: tuple[str, ...] = ()

    def json(self, name: str) -> dict[str, Any]:
        """A part that was saved under a name ending in ``.json``."""
        return cast(dict[str, Any], json.loads((self.path / name).read_text(encoding="utf-8")))

    def tensors(self, name: str) -> Any:
        """A part that was saved under a name ending in ``.pt``; only plain data and tensors."""
        import torch

        return torch.load(self.path / name, map_location="cpu", weights_only=True)


def save(run_dir: Path, iteration: int, parts: Mapping[str, Part], *, keep: int = 2) -> Path:
    """Write ``checkpoints/iteration-NNNNNN`` whole or not at all, then drop the oldest.

    Args:
        run_dir: folder of the run.
        iteration: iterations done.
        parts: name -> content. A callable is given the folder and writes files of its own (as
            ``policy.save``); a mapping under ``NAME.json`` is written as JSON, under ``NAME.pt``
            by ``torch.save``.
        keep: how many checkpoints stay, at least 2: one to fall back to.

    Returns:
        The folder.

    Raises:
        CheckpointError: it could not be written (a full disk); those before it are intact.
    """
    path = run_dir / FOLDER / f"iteration-{iteration:06d}"
    _write(path, iteration, parts)
    for old in _numbered(run_dir)[max(2, keep) :]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def save_best(run_dir: Path, iteration: int, parts: Mapping[str, Part]) -> Path:
    """Write ``checkpoints/best`` in the place of the one before; as ``save``."""
    path = run_dir / FOLDER / BEST
    _write(path, iteration, parts)
    return path


def save_model(run_dir: Path, write: Callable[[Path], None]) -> Path:
    """Write ``model/``, the weights after the last iteration; as ``save``, without an index."""
    path = run_dir / "model"
    _write(path, None, {"model": write})
    return path


def latest(run_dir: Path) -> Checkpoint:
    """The last intact checkpoint; damaged ones after it are named in ``skipped``.

    Raises:
        CheckpointError: the run has no intact checkpoint.
    """
    skipped: list[str] = []
    for path in _numbered(run_dir):
        problem = damage(path)
        if problem is None:
            return Checkpoint(path, _iteration(path), tuple(skipped))
        skipped.append(f"{path.name} is damaged ({problem})")
    found = "; ".join(skipped) or "none was written"
    raise CheckpointError(
        f"{run_dir} has no whole checkpoint: {found}; start the run again in another folder."
    )


def best(run_dir: Path) -> Checkpoint | None:
    """``checkpoints/best`` where there is one.

    Raises:
        CheckpointError: it is damaged.
    """
    path = run_dir / FOLDER / BEST
    left = _aside(path)
    if left.is_dir() and not path.exists():  # stopped between the two renames of a save
        left.rename(path)
    if not path.is_dir():
        return None
    problem = damage(path)
    if problem is not None:
        raise CheckpointError(f"{path} is damaged ({problem}); use --last for the last weights.")
    index = json.loads((path / INDEX).read_text(encoding="utf-8"))
    return Checkpoint(path, int(index["iteration"]))


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's files by their sums; None where nothing is."""
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        sums = cast(dict[str, str], index["sha256"])
        for name, wanted in sums.items():
            if _sum(path / name) != wanted:
                return f"{name} was changed or cut"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{INDEX}: {error}"
    return None


def claim(run_dir: Path, *, resume: bool) -> None:
    """Make the folder of a new run, or check that there is a run to resume.

    Raises:
        CheckpointError: a new run's folder holds files, or there is nothing to resume.
    """
    if resume:
        if not (run_dir / "config.toml").is_file():
            raise CheckpointError(
                f"{run_dir} holds no run (no config.toml); give the folder of a run to --resume."
            )
        return
    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise CheckpointError(
            f"{run_dir} is not empty; give another folder, or --resume {run_dir} to go on with it."
        )
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{run_dir} cannot be made ({error.strerror}).") from None


def write_text(path: Path, text: str) -> None:
    """Replace a text file whole: the old text or the new one is there, never half of it."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def _write(path: Path, iteration: int | None, parts: Mapping[str, Part]) -> None:
    temporary = path.parent / f"{TEMPORARY}{path.name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for name, part in parts.items():
            _write_part(temporary, name, part)
        if iteration is not None:
            _write_index(temporary, iteration)
        _sync(temporary)
        _swap(temporary, path)
    except (
        OSError,
        RuntimeError,
        SafetensorError,
    ) as error:  # torch and safetensors wrap a full disk
        shutil.rmtree(temporary, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise CheckpointError(
            f"{path} could not be written ({reason}); the checkpoints before it are whole: "
            "make room and go on with --resume."
        ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_part(folder: Path, name: str, part: Part) -> None:
    if callable(part):
        part(folder)
    elif name.endswith(".json"):
        (folder / name).write_text(json.dumps(part, indent=1, allow_nan=True), encoding="utf-8")
    elif name.endswith(".pt"):
        import torch

        torch.save(dict(part), folder / name)
    else:
        raise ValueError(f'part "{name}" is a mapping; give it a name ending in .json or .pt')


def _write_index(folder: Path, iteration: int) -> None:
    sums = {str(file.relative_to(folder)): _sum(file) for file in _files(folder)}
    text = json.dumps({"iteration": iteration, "sha256": sums}, indent=1)
    (folder / INDEX).write_text(text, encoding="utf-8")


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _sum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    for file in _files(folder):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    for inner in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
        _sync_folder(inner)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _swap(new: Path, path: Path) -> None:
    """Put ``new`` at ``path``; between the two renames the old one stands under another name."""
    old = _aside(path)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    new.rename(path)
    _sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _aside(path: Path) -> Path:
    return path.parent / f"{TEMPORARY}{path.name}.old"


def _iteration(path: Path) -> int:
    return int(path.name.removeprefix("iteration-"))


def _numbered(run_dir: Path) -> list[Path]:
    """Folders of the checkpoints, the last one first."""
    folder = run_dir / FOLDER
    found = [
        path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if re.fullmatch(r"iteration-\d{6,}", path.name) and path.is_dir()
    ]
    return sorted(found, key=_iteration, reverse=True)
