from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from palaestra.tool_sandbox import Sandbox, Session
from palaestra.tool_sandbox.session import Snapshot

pytestmark = pytest.mark.linux

MOST = 4  # branches of each kind at a time


@dataclass
class Model:
    """What a branch should hold, in memory and in its folder."""

    known: dict[str, int] = field(default_factory=dict[str, int])

    def copy(self) -> Model:
        return Model(dict(self.known))

    @property
    def files(self) -> dict[str, bytes]:
        return {key: str(value).encode() for key, value in self.known.items()}


class Branches(RuleBasedStateMachine):
    """A session behaves as a dictionary that is copied by fork, snapshot and restore."""

    cells: Sandbox

    @initialize()
    def open(self) -> None:
        self.live: list[tuple[Session, Model]] = [(self.cells.session(), Model())]
        self.kept: list[tuple[Snapshot, Model]] = []
        self.live[0][0].execute("d = {}")

    @rule(which=st.integers(0, 9), key=st.sampled_from("abc"), value=st.integers(0, 9))
    def execute(self, which: int, key: str, value: int) -> None:
        session, model = self.live[which % len(self.live)]
        session.execute(f"d[{key!r}] = {value}; open({key!r}, 'w').write('{value}')")
        model.known[key] = value

    @precondition(lambda self: len(self.live) < MOST)
    @rule(which=st.integers(0, 9))
    def fork(self, which: int) -> None:
        session, model = self.live[which % len(self.live)]
        self.live.append((session.fork(), model.copy()))

    @precondition(lambda self: len(self.kept) < MOST)
    @rule(which=st.integers(0, 9))
    def snapshot(self, which: int) -> None:
        session, model = self.live[which % len(self.live)]
        self.kept.append((session.snapshot(), model.copy()))

    @precondition(lambda self: self.kept)
    @rule(which=st.integers(0, 9), from_which=st.integers(0, 9), ended=st.booleans())
    def restore(self, which: int, from_which: int, ended: bool) -> None:
        place = which % len(self.live)
        session, _ = self.live[place]
        snapshot, model = self.kept[from_which % len(self.kept)]
        if ended:
            session.execute("d['z'] = 1; open('z', 'w'); import os; os._exit(0)")
        session.restore(snapshot)
        self.live[place] = session, model.copy()

    @precondition(lambda self: len(self.live) > 1)
    @rule(which=st.integers(0, 9))
    def drop(self, which: int) -> None:
        session, _ = self.live.pop(which % len(self.live))
        session.close()

    @precondition(lambda self: self.kept)
    @rule(which=st.integers(0, 9))
    def drop_snapshot(self, which: int) -> None:
        snapshot, _ = self.kept.pop(which % len(self.kept))
        snapshot.close()
        assert not snapshot.alive

    @invariant()
    def agree(self) -> None:
        for session, model in getattr(self, "live", []):
            shown = session.execute("sorted(d.items())").stdout
            assert shown == f"{sorted(model.known.items())}\n"
            assert {i.path: session.read(i.path) for i in session.list()} == model.files

    def teardown(self) -> None:
        for holder, _ in (*getattr(self, "live", []), *getattr(self, "kept", [])):
            holder.close()


def try_examples(cells: Sandbox, examples: int, steps: int) -> None:
    Branches.cells = cells
    state = cast("Any", Branches).TestCase
    state.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    state("runTest").runTest()


def test_sessions_agree_with_a_dictionary(cells: Sandbox) -> None:
    try_examples(cells, 8, 12)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sessions_agree_with_a_dictionary_two_thousand_times(cells: Sandbox) -> None:
    try_examples(cells, 2_000, 6)
