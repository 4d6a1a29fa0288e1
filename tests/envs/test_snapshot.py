"""Going back, branching, going on elsewhere."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from palaestra.envs.core import Env, EnvError, run
from palaestra.envs.registry import make
from palaestra.envs.snapshot import Snapshot, anchor, duplicate

TEXTS = [
    '<tool_call>{"name": "echo", "arguments": {"text": "a"}}</tool_call>',
    '<tool_call>{"name": "dice", "arguments": {}}</tool_call>',
    '<tool_call>{"name": "clap", "arguments": {}}</tool_call>',
    "<tool_call>",
]
ACTIONS = st.lists(st.sampled_from(TEXTS), min_size=1, max_size=5)


def play(env: Env, actions: list[str]) -> list[Any]:
    return [env.advance(action) for action in actions if not env.episode.over]


@settings(max_examples=40)
@given(ACTIONS, ACTIONS)
def test_a_restored_episode_goes_on_as_if_nothing_was_env_snap1(
    echo: Any, before: list[str], after: list[str]
) -> None:
    plain, saved = echo(), echo()
    plain.start(seed=2)
    saved.start(seed=2)
    play(plain, before)
    play(saved, before)
    snapshot = saved.snapshot()
    play(saved, after)
    other = echo()
    for env in (saved, other):
        env.restore(Snapshot.load(bytes(snapshot)))
        assert play(env, after) == play_copy(plain, after)
        assert env.messages[: len(plain.messages)] == plain.messages


def play_copy(env: Env, actions: list[str]) -> list[Any]:
    return play(env.fork()[0], actions)


@given(ACTIONS, ACTIONS)
def test_forks_do_not_touch_each_other_env_snap2(
    echo: Any, first: list[str], second: list[str]
) -> None:
    env = echo()
    env.start(seed=2)
    play(env, TEXTS[:2])
    before = bytes(env.snapshot())
    one, two = env.fork(2)
    expected = play_copy(two, second)
    play(one, first)
    assert play(two, second) == expected
    assert bytes(env.snapshot()) == before


def test_an_episode_is_replayed_from_its_identity_env_snap4(echo: Any) -> None:
    one, two = echo(), echo()
    one.start(seed=5)
    one.start()
    two.start(seed=5, options={"episode": 1})
    assert play(one, TEXTS) == play(two, TEXTS)
    assert bytes(one.snapshot()) == bytes(two.snapshot())


def test_salted_forks_have_a_future_of_their_own(echo: Any) -> None:
    env = echo(limits={"turns": 20})
    env.start(seed=5)
    env.advance(TEXTS[1])

    def rolls(each: Env) -> list[str]:
        dice = '<tool_call>{"name": "dice", "arguments": {"sides": 1000000}}</tool_call>'
        return [each.advance(dice).messages[0].content for _ in range(3)]

    plain = [rolls(fork) for fork in env.fork(2)]
    salted = [rolls(fork) for fork in env.fork(3, salt=1)]
    again = [rolls(fork) for fork in env.fork(3, salt=1)]
    other = [rolls(fork) for fork in env.fork(1, salt=2)]
    assert plain[0] == plain[1]
    assert salted == again
    assert len({tuple(r) for r in [plain[0], *salted, *other]}) == 5


def test_a_snapshot_restores_in_another_process_env_snap3(tmp_path: Path) -> None:
    env = make("palaestra/Compare-v0", domain="uniform")
    env.start(seed=9)
    call = '<tool_call>{"name": "compare", "arguments": {"n": 40}}</tool_call>'
    env.advance(call)
    (tmp_path / "saved").write_bytes(bytes(env.snapshot()))
    code = f"""
import sys
from palaestra.envs.registry import make, register_builtins
from palaestra.envs.snapshot import Snapshot
env = make("palaestra/Compare-v0", domain="uniform")
env.restore(Snapshot.load(open({str(tmp_path / "saved")!r}, "rb").read()))
print(env.advance({call!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", "import palaestra\n" + code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(env.advance(call))


class Evil:
    """Runs code when it is loaded."""

    def __reduce__(self) -> Any:
        return print, ("gotcha",)


def test_bytes_that_could_run_code_are_refused() -> None:
    with pytest.raises(EnvError, match=r"names builtins.print; list the class"):
        Snapshot.load(pickle.dumps({"version": 1, "state": Evil()}))


@pytest.mark.parametrize("data", [b"", b"nonsense", pickle.dumps([1, 2])])
def test_damaged_bytes_are_no_snapshot(data: bytes) -> None:
    with pytest.raises(EnvError, match="no snapshot"):
        Snapshot.load(data)


def test_another_version_is_refused() -> None:
    with pytest.raises(EnvError, match="version 0"):
        Snapshot.load(pickle.dumps({"version": 0}))


def test_a_snapshot_of_another_environment_is_refused(echo: Any, silent: Any) -> None:
    env = echo()
    env.start(seed=1)
    with pytest.raises(EnvError, match="the snapshot is of"):
        silent().restore(env.snapshot())


def test_before_the_start_there_is_nothing_to_take(echo: Any) -> None:
    with pytest.raises(EnvError, match="no episode has begun"):
        echo().snapshot()


def test_a_sandbox_session_is_replayed_from_its_journal(echo: Any, sandbox: Any) -> None:
    env = echo(sandbox=sandbox)
    env.start(seed=1)
    bench = env.open_session()
    assert sandbox.sessions == 0
    bench.write("a.txt", "hello")
    saved = env.snapshot()
    assert saved.exact
    [fork] = env.fork()
    env.close_session()
    assert fork.session is not None
    assert fork.session.read("a.txt") == "hello"
    other = echo(sandbox=sandbox)
    other.restore(Snapshot.load(bytes(saved)))
    assert other.open_session().read("a.txt") == "hello"
    assert sandbox.sessions == 3


def test_the_end_closes_the_session(echo: Any, sandbox: Any) -> None:
    env = echo(sandbox=sandbox)
    env.start(seed=1)
    env.open_session().write("a", "b")
    env.advance("done")
    assert env.session is None


def test_equal_states_have_equal_anchors() -> None:
    assert anchor({"a": 1, "b": {2, 1}}) == anchor({"b": {1, 2}, "a": 1})
    assert anchor({"a": 1}) != anchor({"a": 2})


def test_duplicates_share_nothing() -> None:
    state: Any = {"a": [1, {"b": {1}}], "c": (1, [2])}
    copy = duplicate(state)
    assert copy == state
    assert copy["a"][1]["b"] is not state["a"][1]["b"]
    assert copy["c"][1] is not state["c"][1]


def test_pending_work_of_the_trunk_is_refused_by_a_fork(echo: Any, sandbox: Any, say: Any) -> None:
    env = echo(sandbox=sandbox)
    env.start(seed=1)
    pending = env.propose(say("run", '{"code": "a"}'))
    [fork] = env.fork()
    with pytest.raises(EnvError, match="was read elsewhere"):
        fork.settle(pending, run([pending])[0])
