"""A small policy in KeyDoor: several turns, inline tools, rewards along the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from palaestra.agents.heads import Head
from palaestra.agents.sampling import Sampler
from palaestra.agents.shield import Grammar, Shield
from palaestra.agents.solo import Solo
from palaestra.agents.tiny import Tiny
from palaestra.envs.small import KeyDoor
from palaestra.envs.tokenizers import FragmentTokenizer
from palaestra.rollout.engine import Engine, Start
from palaestra.rollout.trajectory import Trajectory

MakeSolo = Callable[..., Solo]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_solo() -> MakeSolo:
    def make(*, max_tokens: int = 12, context: int = 400, exact: bool = False) -> Solo:
        env = KeyDoor()
        assert isinstance(env.tokenizer, FragmentTokenizer)
        model = Tiny("nano", env.tokenizer, (Head("value"),), context=context, seed=1)
        shield = None
        if env.grammar is not None:
            shield = Shield((Grammar(env.grammar.automaton(env.tokenizer)),))
        return Solo(Sampler(model, exact=exact, slots=8), shield=shield, max_tokens=max_tokens)

    return make


@pytest.fixture(scope="session")
def played(make_solo: MakeSolo) -> list[Trajectory]:
    torch.set_num_threads(1)
    engine = Engine(make_solo(), KeyDoor, run=5)
    try:
        return engine.gather([Start(100 + i // 2, attempt=i % 2, group=i // 2) for i in range(8)])
    finally:
        engine.close()
