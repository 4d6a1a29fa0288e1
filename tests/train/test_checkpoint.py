"""Checkpoints are whole or not there."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from palaestra.train import checkpoint
from palaestra.train.checkpoint import CheckpointError, Part
from safetensors import torch as safetensors


def save_file(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write tensors."""
    cast(Any, safetensors).save_file(tensors, path)


def load_file(path: Path) -> dict[str, torch.Tensor]:
    """Read them."""
    return cast(Any, safetensors).load_file(path)


def parts(value: float = 1.0) -> dict[str, Part]:
    """A policy's files, a state and an optimiser."""

    def write(folder: Path) -> None:
        save_file({"weight": torch.full((3,), value)}, folder / "model.safetensors")
        (folder / "tokenizer").mkdir()
        (folder / "tokenizer" / "words.json").write_text("[]")

    return {
        "model": write,
        "trainer_state.json": {"iteration": 3, "best": [0.1, None]},
        "optimizer.pt": {"step": 5, "moments": {0: torch.arange(2.0)}},
    }


def names(folder: Path) -> list[str]:
    """Names in a folder, in order."""
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 10, parts(2.5))
    assert path == tmp_path / "checkpoints" / "iteration-000010"
    found = checkpoint.latest(tmp_path)
    assert (found.iteration, found.path, found.skipped) == (10, path, ())
    assert found.json("trainer_state.json") == {"iteration": 3, "best": [0.1, None]}
    assert torch.equal(found.tensors("optimizer.pt")["moments"][0], torch.arange(2.0))
    assert load_file(path / "model.safetensors")["weight"].tolist() == [2.5] * 3


def test_the_last_ones_and_the_best_stay(tmp_path: Path) -> None:
    checkpoint.save_best(tmp_path, 10, parts())
    for iteration in (10, 20, 30, 40):
        checkpoint.save(tmp_path, iteration, parts(), keep=2)
    assert names(tmp_path / "checkpoints") == ["best", "iteration-000030", "iteration-000040"]
    best = checkpoint.best(tmp_path)
    assert best is not None
    assert best.iteration == 10


def test_there_may_be_no_best(tmp_path: Path) -> None:
    assert checkpoint.best(tmp_path) is None


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "index.json"])
@pytest.mark.parametrize("way", ["half", "empty", "gone", "flipped"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, name: str, way: str
) -> None:
    checkpoint.save(tmp_path, 10, parts())
    file = checkpoint.save(tmp_path, 20, parts()) / name
    content = file.read_bytes()
    if way == "gone":
        file.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        file.write_bytes({"half": content[:middle], "empty": b"", "flipped": flipped}[way])
    found = checkpoint.latest(tmp_path)
    if name == "index.json" and way == "flipped" and found.iteration == 20:
        return  # the flipped byte was white space or the number of the iteration
    assert found.iteration == 10
    assert len(found.skipped) == 1
    assert "iteration-000020 is damaged" in found.skipped[0]


def test_a_damaged_best_is_refused_not_used(tmp_path: Path) -> None:
    path = checkpoint.save_best(tmp_path, 10, parts())
    (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="--last"):
        checkpoint.best(tmp_path)


def test_a_run_without_a_whole_checkpoint_cannot_go_on(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="none was written"):
        checkpoint.latest(tmp_path)
    (checkpoint.save(tmp_path, 10, parts()) / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        checkpoint.latest(tmp_path)


def full(folder: Path) -> None:
    """A policy that meets a full disk."""
    (folder / "model.safetensors").write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_old_checkpoint_and_no_rest(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 10, parts())
    checkpoint.save_best(tmp_path, 10, parts())
    for write in (checkpoint.save, checkpoint.save_best):
        with pytest.raises(CheckpointError, match=r"No space left on device.*--resume"):
            write(tmp_path, 20, parts() | {"model": full})
    assert names(tmp_path / "checkpoints") == ["best", "iteration-000010"]
    assert checkpoint.latest(tmp_path).iteration == 10
    best = checkpoint.best(tmp_path)
    assert best is not None
    assert best.iteration == 10


LIMITED = """
import resource, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from palaestra.train import checkpoint
run, kind = Path(sys.argv[1]), sys.argv[2]
big = torch.zeros(100_000)
small = {"model": lambda folder: (folder / "a.txt").write_text("x")}
large = {
    "safetensors": {"model": lambda folder: save_file({"w": big}, folder / "model.safetensors")},
    "torch": {"optimizer.pt": {"moment": big}},
    "json": {"state.json": {"text": "x" * 400_000}},
}[kind]
checkpoint.save(run, 1, small)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    checkpoint.save(run, 2, large)
except checkpoint.CheckpointError as error:
    print("refused:", error)
print("left:", checkpoint.latest(run).iteration, sorted(p.name for p in run.glob("checkpoints/*")))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["safetensors", "torch", "json"])
def test_a_disk_that_really_takes_no_more_leaves_the_old_checkpoint(
    tmp_path: Path, kind: str
) -> None:
    assert resource.RLIMIT_FSIZE
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path), kind],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "refused:" in done.stdout, done.stdout + done.stderr
    assert "left: 1 ['iteration-000001']" in done.stdout


def test_a_mistake_in_a_part_is_raised_as_it_is_and_leaves_no_rest(tmp_path: Path) -> None:
    wrong: dict[str, Any] = {"state.json": {"x": object()}}
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path, 1, wrong)
    with pytest.raises(ValueError, match=r"ending in \.json or \.pt"):
        checkpoint.save(tmp_path, 1, {"state": {"x": 1}})
    assert names(tmp_path / "checkpoints") == []


def test_saving_an_iteration_again_replaces_it(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 10, parts(1.0))
    path = checkpoint.save(tmp_path, 10, parts(7.0))
    assert load_file(path / "model.safetensors")["weight"][0] == 7.0
    assert names(tmp_path / "checkpoints") == ["iteration-000010"]


def test_what_a_killed_save_left_behind_is_cleared_by_the_next_one(tmp_path: Path) -> None:
    left = tmp_path / "checkpoints" / ".saving-iteration-000010"
    left.mkdir(parents=True)
    (left / "half").write_text("x")
    path = checkpoint.save(tmp_path, 10, parts())
    assert not (path / "half").exists()
    assert names(tmp_path / "checkpoints") == ["iteration-000010"]


def test_a_best_set_aside_by_a_killed_save_is_found(tmp_path: Path) -> None:
    path = checkpoint.save_best(tmp_path, 10, parts())
    path.rename(path.parent / ".saving-best.old")
    best = checkpoint.best(tmp_path)
    assert best is not None
    assert best.iteration == 10


def test_an_optimizer_file_that_holds_code_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 10, parts())
    torch.save({"evil": Path}, path / "optimizer.pt")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        checkpoint.Checkpoint(path, 10).tensors("optimizer.pt")


def test_the_model_of_the_run_is_replaced_whole(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        path = checkpoint.save_model(
            tmp_path,
            lambda folder, v=value: save_file({"w": torch.tensor(v)}, folder / "m.safetensors"),
        )
    assert names(path) == ["m.safetensors"]
    assert load_file(path / "m.safetensors")["w"] == 2.0


def test_a_folder_that_is_not_empty_is_never_written_over(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    checkpoint.claim(run, resume=False)
    checkpoint.claim(run, resume=False)
    (run / "config.toml").write_text("")
    with pytest.raises(CheckpointError, match=r"not empty.*--resume"):
        checkpoint.claim(run, resume=False)
    checkpoint.claim(run, resume=True)
    with pytest.raises(CheckpointError, match="not empty"):
        checkpoint.claim(run / "config.toml", resume=False)
    with pytest.raises(CheckpointError, match="cannot be made"):
        checkpoint.claim(run / "config.toml" / "deeper", resume=False)


def test_there_is_nothing_to_resume_in_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no run"):
        checkpoint.claim(tmp_path, resume=True)


def test_a_text_is_replaced_whole(tmp_path: Path) -> None:
    checkpoint.write_text(tmp_path / "a.json", "old")
    checkpoint.write_text(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "new"
    assert names(tmp_path) == ["a.json"]
