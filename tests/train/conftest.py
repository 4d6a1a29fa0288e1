"""Small runs that take a second or two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from palaestra.train import config as settings
from palaestra.train.config import Config

MakeConfig = Callable[..., Config]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_config() -> MakeConfig:
    """Settings of a run in KeyDoor that takes a second; dotted keys override."""

    def make(**changes: Any) -> Config:
        values = {
            "env.id": "palaestra/KeyDoor-v0",
            "train.iterations": "3",
            "train.eval_every": "2",
            "train.eval_episodes": "8",
            "train.save_every": "1",
            "rollout.batch": "8",
            "rollout.max_action_tokens": "12",
            "algo.minibatch": "4",
            "policy.preset": "nano",
            "policy.context": "400",
        }
        values |= {name.replace("__", "."): str(value) for name, value in changes.items()}
        return settings.load(None, values, preset="drill-code")

    return make
