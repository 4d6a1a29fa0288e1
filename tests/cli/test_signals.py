"""The real command under real signals: once it saves and leaves, twice it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from palaestra.train import checkpoint
from palaestra.train.metrics import read

pytestmark = pytest.mark.timeout(900)  # runs of the real command, on a machine with much to do
WORDS = (
    "--run",
    "r",
    "--env.id",
    "palaestra/KeyDoor-v0",
    "--policy",
    "nano",
    "--rollout.batch",
    "4",
    "--rollout.max_action_tokens",
    "12",
    "--policy.context",
    "256",
    "--train.eval_every",
    "0",
    "--train.eval_episodes",
    "1",
    "--log.tensorboard",
    "false",
)

# sends signals to its own process when a number of rows were written: no clock, no race
SENDER = """
import os, signal, sys
from palaestra.cli import main
from palaestra.train import metrics, loop
from palaestra.rollout import engine

times = int(sys.argv[1])
write = metrics.Metrics.write

def writing(self, iteration, row):
    write(self, iteration, row)
    if iteration == 2:
        decode = engine._Gather.decode
        def decoding(gather):
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
            return decode(gather)
        engine._Gather.decode = decoding

metrics.Metrics.write = writing
main.main(sys.argv[2:])
"""


@contextmanager
def command(folder: Path, *words: str) -> Generator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_one_interrupt_saves_and_leaves_and_the_run_goes_on(tmp_path: Path) -> None:
    words = ("-c", SENDER, "1", "train", *WORDS, "--train.iterations", "50")
    with command(tmp_path, *words) as process:
        out, err = process.communicate(timeout=840)
    assert process.returncode == 130, err
    assert "stopped and saved after 2 iterations" in out
    assert "palaestra train --resume r" in out
    assert "Traceback" not in err
    assert checkpoint.latest(tmp_path / "r").iteration == 2
    again = ("-m", "palaestra", "train", "--resume", "r", "--train.iterations", "3")
    with command(tmp_path, *again) as process:
        out, err = process.communicate(timeout=840)
    assert process.returncode == 0, err
    assert [row["iteration"] for row in read(tmp_path / "r")] == [1, 2, 3]


def test_a_second_interrupt_leaves_without_saving(tmp_path: Path) -> None:
    words = ("-c", SENDER, "2", "train", *WORDS, "--train.iterations", "50")
    with command(tmp_path, *words, "--train.save_every", "1") as process:
        _, err = process.communicate(timeout=840)
    assert process.returncode == 130, err
    assert "interrupted at once" in err
    assert "Traceback" not in err
    assert checkpoint.latest(tmp_path / "r").iteration == 2
    assert not (tmp_path / "r" / "model").exists()


@pytest.mark.slow
def test_an_interrupt_from_outside_ends_the_command_with_its_code(tmp_path: Path) -> None:
    words = ("-m", "palaestra", "train", *WORDS, "--train.iterations", "100000")
    with command(tmp_path, *words) as process:
        assert process.stdout is not None
        for line in process.stdout:  # a row is on the screen: the loop runs
            if line.startswith("iteration"):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=840)
    assert process.returncode == 130, err
    assert "--resume r" in out
