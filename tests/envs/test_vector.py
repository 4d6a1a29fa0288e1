"""Many environments side by side."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from palaestra.envs.core import EnvError, Step
from palaestra.envs.registry import register_builtins
from palaestra.envs.vector import TextVectorEnv, WorkerVectorEnv

ID = "palaestra/Compare-v0"
register_builtins()


def twenty(mode: str, view: str = "turn", **options: Any) -> list[Any]:
    envs = gymnasium.make_vec(ID, num_envs=3, vectorization_mode=mode, view=view, **options)
    first, _ = envs.reset(seed=5)
    envs.action_space.seed(3)
    found: list[Any] = [str(first)]
    for _ in range(20):
        seen, reward, terminated, truncated, _ = envs.step(envs.action_space.sample())
        found.append((str(seen), reward.tolist(), terminated.tolist(), truncated.tolist()))
    envs.close()
    return found


@pytest.mark.parametrize("view", ["turn", "tool", "token"])
def test_vector_and_sync_give_the_same_steps_env_vec1(view: str) -> None:
    expected = twenty("sync", view)
    assert twenty("vector_entry_point", view) == expected
    if view == "turn":
        assert twenty("vector_entry_point", workers=2) == expected


def test_async_gives_the_same_steps_with_and_without_shared_memory() -> None:
    expected = twenty("sync")
    assert twenty("async") == expected
    assert twenty("async", vector_kwargs={"shared_memory": False}) == expected


def test_results_do_not_depend_on_the_width() -> None:
    def row(width: int) -> list[Any]:
        envs: Any = gymnasium.make_vec(ID, num_envs=width)
        envs.reset(seed=list(range(7, 7 + width)))
        call = '<tool_call>{"name": "compare", "arguments": {"n": 50}}</tool_call>'
        found = [envs.step([call] * width) for _ in range(3)]
        return [(seen[0], float(reward[0])) for seen, reward, *_ in found]

    assert row(1) == row(8)


def made(kind: Any, echo: Any, rows: int = 3, sandbox: Any = None, **options: Any) -> Any:
    envs = kind([echo(sandbox=sandbox) for _ in range(rows)], **options)
    envs.reset(seed=1)
    return envs


@pytest.mark.parametrize("kind", [TextVectorEnv, WorkerVectorEnv])
def test_next_step_begins_anew_in_the_step_after_an_end(echo: Any, kind: Any) -> None:
    envs = made(kind, echo)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    _, rewards, terminated, _, _ = envs.step(["done", "<tool_call>", "done"])
    assert rewards.tolist() == [1.0, -0.05, 1.0]
    assert terminated.tolist() == [True, False, True]
    seen, rewards, terminated, _, _ = envs.step(["ignored", "done", "ignored"])
    assert [text[:3] for text in seen] == ["Say", "", "Say"]
    assert rewards.tolist() == [0.0, 1.0, 0.0]
    assert terminated.tolist() == [False, True, False]
    envs.close()


def test_same_step_shows_the_last_observation_in_infos(echo: Any, say: Any) -> None:
    envs = made(TextVectorEnv, echo, rows=2, autoreset_mode="SameStep", info_keys=("success",))
    seen, _, terminated, _, infos = envs.step(["done", say("clap")])
    assert terminated.tolist() == [True, False]
    assert seen[0][:3] == "Say"
    assert infos["_final_obs"].tolist() == [True, False]
    assert infos["final_info"]["success"].tolist() == [True, False]


def test_disabled_leaves_the_reset_to_the_caller(echo: Any) -> None:
    envs = made(TextVectorEnv, echo, rows=2, autoreset_mode=AutoresetMode.DISABLED)
    envs.step(["done", "<tool_call>"])
    with pytest.raises(EnvError, match=r"rows \[0\] have ended"):
        envs.step(["x", "x"])
    seen, _ = envs.reset(options={"reset_mask": np.array([True, False])})
    assert seen[0][:3] == "Say"
    assert envs.envs[1].episode.turn == 1
    envs.step(["<tool_call>", "done"])


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("step", {"actions": ["x"]}, "1 actions for 3 rows"),
        ("reset", {"seed": [1, 2]}, "2 seeds for 3 rows"),
        ("reset", {"options": {"reset_mask": np.zeros(3, np.bool_)}}, "reset_mask is"),
        ("__init__", {"envs": []}, "give at least one"),
    ],
)
def test_impossible_calls_are_refused(echo: Any, method: str, arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(made(TextVectorEnv, echo), method)(**arguments)


def test_infos_hold_only_what_was_asked_for(echo: Any, say: Any) -> None:
    envs = made(TextVectorEnv, echo, info_keys=("terms", "success"))
    *_, infos = envs.step(["done", say("clap"), "<tool_call>"])
    assert infos["terms"]["clap"].tolist() == [0.0, 0.1, 0.0]
    assert infos["success"].tolist() == [True, False, False]
    assert made(TextVectorEnv, echo).step(["done"] * 3)[4] == {}


def test_gymnasiums_statistics_wrapper_works(echo: Any) -> None:
    envs = RecordEpisodeStatistics(made(TextVectorEnv, echo))
    envs.reset(seed=1)
    *_, infos = envs.step(["done", "<tool_call>", "done"])
    assert infos["episode"]["r"].tolist() == [1.0, 0.0, 1.0]


def test_the_work_of_all_rows_travels_together(echo: Any, say: Any, sandbox: Any) -> None:
    envs = made(TextVectorEnv, echo, sandbox=sandbox)
    seen, *_ = envs.step([say("run", f'{{"code": "{c}"}}') for c in "abc"])
    assert seen == ("A", "B", "C")
    assert sandbox.batches == [["a", "b", "c"]]


# without a barrier


def test_submitted_messages_come_back_in_the_order_asked_for_env_vec2(
    echo: Any, say: Any, sandbox: Any
) -> None:
    found: list[Any] = []
    for order in ([0, 1, 2], [2, 0, 1]):
        envs = made(WorkerVectorEnv, echo, sandbox=sandbox)
        for i in order:
            envs.submit(i, say("run", f'{{"code": "{i}x"}}'))
        came = envs.ready(ids=[0, 1, 2])
        assert [i for i, _ in came] == [0, 1, 2]
        found.append(came)
        envs.close()
    assert found[0] == found[1]


def test_ready_returns_whatever_has_come(echo: Any, say: Any, sandbox: Any) -> None:
    envs = made(WorkerVectorEnv, echo, sandbox=sandbox)
    assert envs.ready() == []
    envs.submit(1, "done")
    pending = envs.envs[0].propose(say("run", '{"code": "twice"}'))
    envs.submit(0, pending)
    got: dict[int, Any] = {}
    while len(got) < 2:
        got |= dict(envs.ready())
    assert isinstance(got[0], Step)
    assert got[0].messages[0].content == "TWICE AGAIN"
    assert got[1].terminated
    assert envs.start(1, seed=4)[0].content.startswith("Say")
    envs.close()


def test_a_lost_worker_excludes_only_the_episodes_it_held_env_vec3(
    echo: Any, say: Any, sandbox: Any
) -> None:
    envs = made(WorkerVectorEnv, echo, sandbox=sandbox)
    sandbox.lose = True
    envs.submit(0, say("run", '{"code": "a"}'))
    envs.submit(1, say("echo", '{"text": "b"}'))
    steps = dict(envs.ready(ids=[0, 1]))
    assert (steps[0].excluded, steps[0].reason) == (True, "infrastructure")
    assert not steps[1].ended
    envs.close()


def test_work_that_breaks_on_our_side_excludes_the_episode(echo: Any, say: Any) -> None:
    class Broken:
        def map(self, jobs: Any) -> Any:
            raise OSError("no space left")

    envs = made(WorkerVectorEnv, echo, sandbox=Broken())
    envs.submit(0, say("run", '{"code": "a"}'))
    [(_, step)] = envs.ready(ids=[0])
    assert step.excluded
    assert "no space left" in step.messages[0].content
    envs.close()


def test_a_missing_sandbox_is_loud(echo: Any, say: Any) -> None:
    from palaestra.tool_sandbox import SandboxUnavailable

    class Missing:
        def map(self, jobs: Any) -> Any:
            raise SandboxUnavailable("nothing isolates here")

    envs = made(WorkerVectorEnv, echo, sandbox=Missing())
    envs.submit(0, say("run", '{"code": "a"}'))
    with pytest.raises(SandboxUnavailable, match="nothing isolates"):
        envs.ready(ids=[0])
    envs.close()


def test_one_message_a_row_is_under_way(echo: Any) -> None:
    envs = made(WorkerVectorEnv, echo)
    envs.submit(0, "<tool_call>")
    with pytest.raises(EnvError, match="row 0 has a message under way"):
        envs.submit(0, "again")
    with pytest.raises(EnvError, match="row 1 has nothing under way"):
        envs.ready(ids=[1])
    envs.close()
