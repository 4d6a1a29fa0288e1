"""The message-level process: reading, settling, ending."""

from typing import Any

import pytest
from gymnasium import Env as GymEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from palaestra.envs.core import (
    Env,
    EnvError,
    EpisodeOver,
    Limits,
    Need,
    Pending,
    Reply,
    RewardError,
    Step,
    Thinks,
    run,
)
from palaestra.envs.messages import Message, Problem, ToolCall, ToolResult
from palaestra.envs.rewards import Outcome, Penalty, Progress, Rewards, SelfEvaluation
from palaestra.envs.tasks import TaskSet
from palaestra.envs.tools import tool


def settled(env: Env, pending: Pending, answers: Any = ()) -> Step:
    out = env.settle(pending, answers)
    assert isinstance(out, Step)
    return out


def test_an_environment_is_a_gymnasium_environment(echo: Any) -> None:
    assert isinstance(echo(), GymEnv)


def test_a_call_is_answered_under_its_id_and_credited_to_it(echo: Any, say: Any) -> None:
    env = echo()
    env.start(seed=1)
    step = env.advance(say("echo", '{"text": "hi"}'))
    assert step.messages == (Message("tool", "hi", (), "c0"),)
    assert step.credits == (("said", pytest.approx(0.1), "c0", None),)
    assert step.reward == sum(step.terms.values())
    assert not step.ended
    assert step.info["potentials"] == {"said": 0.25}


def test_parallel_calls_take_effect_in_order_and_ids_go_on(echo: Any, say: Any) -> None:
    env = echo()
    env.start(seed=1)
    first = env.advance(say("echo", '{"text": "a"}') + say("echo", '{"text": "b"}'))
    second = env.advance(say("echo", '{"text": "c"}'))
    assert [m.call_id for m in first.messages] == ["c0", "c1"]
    assert [c.call_id for c in first.credits] == ["c0", "c1"]
    assert second.messages[0].call_id == "c2"


def test_propose_changes_nothing(echo: Any, say: Any) -> None:
    env = echo()
    env.start(seed=1)
    before = bytes(env.snapshot())
    env.propose(say("echo", '{"text": "hi"}'))
    env.propose(say("run", '{"code": "x"}'))
    assert bytes(env.snapshot()) == before


def test_an_answer_ends_the_episode_with_its_score(echo: Any) -> None:
    env = echo()
    env.start(seed=1)
    step = env.advance("done")
    assert (step.terminated, step.truncated, step.reason) == (True, False, "answered")
    assert step.success is True
    assert env.success is True
    assert step.terms["success"] == 1.0


def test_a_wrong_answer_ends_without_success(echo: Any) -> None:
    env = echo()
    env.start(seed=1)
    step = env.advance("what?")
    assert step.terminated
    assert step.success is False
    assert step.reward == 0.0


def test_after_the_end_every_message_raises_env_end2(echo: Any) -> None:
    env = echo()
    env.start(seed=1)
    env.advance("done")
    with pytest.raises(EpisodeOver, match=r"has ended \(answered\); call reset"):
        env.advance("more")


def test_before_the_start_every_message_raises(echo: Any) -> None:
    with pytest.raises(EpisodeOver, match="no episode has begun"):
        echo().advance("hello")


def test_the_limit_of_turns_truncates_and_is_no_success(silent: Any) -> None:
    env = silent()
    env.start(seed=1)
    steps = [env.advance("hm") for _ in range(3)]
    assert [step.ended for step in steps] == [False, False, True]
    assert (steps[-1].terminated, steps[-1].truncated) == (False, True)
    assert steps[-1].reason == "turns"
    assert steps[-1].success is False


def test_tokens_and_seconds_truncate_too(silent: Any) -> None:
    env = silent(limits={"tokens": 5})
    env.start(seed=1)
    assert env.advance("abc").reason is None
    assert env.advance("abc").reason == "tokens"


def test_the_end_by_the_rules_wins_over_a_limit_env_end1(echo: Any) -> None:
    env = echo(limits=Limits(turns=1))
    env.start(seed=1)
    step = env.advance("done")
    assert (step.terminated, step.truncated) == (True, False)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("<tool_call>{oops", "malformed"),
        ('<tool_call>{"name": "ecco", "arguments": {}}</tool_call>', "unknown_tool"),
        ('<tool_call>{"name": "echo", "arguments": {}}</tool_call>', "bad_arguments"),
        ("x" * 9000, "too_long"),
    ],
)
def test_bad_calls_are_observations_and_a_penalty(echo: Any, text: str, code: str) -> None:
    env = echo()
    env.start(seed=1)
    step = env.advance(text)
    assert step.info["problems"] == {code: 1}
    assert step.terms == {"format": -0.05}
    assert step.messages[0].role == "tool"
    assert not step.ended


def test_penalties_stop_at_their_cap(echo: Any) -> None:
    env = echo(limits={"turns": 10})
    env.start(seed=1)
    total = sum(env.advance("<tool_call>").reward for _ in range(8))
    assert total == pytest.approx(-0.2)


def test_a_long_message_is_cut_and_its_calls_do_not_run(echo: Any, say: Any) -> None:
    env = echo()
    env.start(seed=1)
    step = env.advance(say("echo", '{"text": "a"}') + "x" * 9000)
    assert env.state["said"] == 0
    assert "at most 8,192" in step.messages[0].content
    assert len(env.messages[1].content) == 8192


def test_calls_beyond_the_limit_do_not_run(echo: Any, say: Any) -> None:
    env = echo(limits={"calls": 1})
    env.start(seed=1)
    step = env.advance(say("echo", '{"text": "a"}') + say("echo", '{"text": "b"}'))
    assert env.state["said"] == 1
    assert step.info["problems"] == {"too_many_calls": 1}


def test_a_converted_argument_is_told_and_costs_nothing(echo: Any, say: Any) -> None:
    env = echo()
    env.start(seed=1)
    step = env.advance(say("dice", '{"sides": "1"}'))
    assert step.messages[0].content == "1"
    assert step.info["problems"] == {"coerced": 1}
    assert step.reward == 0.0


def test_a_tools_own_error_is_its_result(echo: Any, say: Any) -> None:
    env = echo()
    env.start(seed=1)
    step = env.advance(say("fail", '{"how": "tool"}'))
    assert step.messages[0].content == "The tool is busy. Wait."
    assert step.info["problems"] == {"failed": 1}


def test_any_other_error_of_a_tool_names_how_to_come_back(echo: Any, say: Any) -> None:
    env = echo()
    env.start(seed=41)
    with pytest.raises(EnvError) as caught:
        env.advance(say("fail", '{"how": "bug"}'))
    text = str(caught.value)
    assert "ZeroDivisionError: division by zero" in text
    assert "seed=41" in text
    assert "'episode': 0" in text
    assert f"task {env.task.id!r}" in text
    assert "[user] Say" in text
    assert "in fail" in caught.value.traceback
    assert caught.value.__cause__ is not None


def test_lax_environments_turn_a_bug_into_an_excluded_end(echo: Any, say: Any) -> None:
    env = echo()
    env.strict_tools = False
    env.start(seed=1)
    step = env.advance(say("clap") + say("fail", '{"how": "bug"}'))
    assert (step.truncated, step.excluded, step.success) == (True, True, None)
    assert (step.reward, step.terms) == (0.0, {})


def test_events_are_credited_to_the_call_and_capped(echo: Any, say: Any) -> None:
    env = echo()
    env.start(seed=1)
    step = env.advance(say("clap") * 4)
    assert [c.call_id for c in step.credits] == ["c0", "c1", "c2"]
    assert step.reward == pytest.approx(0.25)


# sans-IO


def test_sandbox_calls_wait_for_answers_from_outside(echo: Any, say: Any, sandbox: Any) -> None:
    env = echo(sandbox=sandbox)
    env.start(seed=1)
    pending = env.propose(say("run", '{"code": "a"}'))
    assert [(r.key, r.kind, r.work.code) for r in pending.requests] == [("c0", "sandbox", "a")]
    assert env.state["marks"] == []
    [answers] = run([pending])
    step = settled(env, pending, answers)
    assert step.messages[0].content == "A"
    assert env.state["marks"] == ["a"]


def test_a_tool_that_asks_twice_makes_a_second_pending(echo: Any, say: Any, sandbox: Any) -> None:
    env = echo(sandbox=sandbox)
    env.start(seed=1)
    pending = env.propose(say("run", '{"code": "twice"}') + say("run", '{"code": "b"}'))
    second = env.settle(pending, run([pending])[0])
    assert isinstance(second, Pending)
    assert [r.work.code for r in second.requests] == ["twice again"]
    assert env.state["marks"] == []
    step = settled(env, second, run([second])[0])
    assert env.state["marks"] == ["twice", "b"]
    assert [m.content for m in step.messages] == ["TWICE AGAIN", "B"]


def test_the_order_of_arrival_changes_nothing_env_settle1(
    echo: Any, say: Any, sandbox: Any
) -> None:
    text = "".join(say("run", f'{{"code": "{c}"}}') for c in "abc")
    steps: list[Step] = []
    for order in (1, -1):
        env = echo(sandbox=sandbox)
        env.start(seed=1)
        pending = env.propose(text)
        steps.append(settled(env, pending, run([pending])[0][::order]))
    assert steps[0] == steps[1]


def test_inline_and_sandbox_calls_keep_their_order(echo: Any, say: Any, sandbox: Any) -> None:
    env = echo(sandbox=sandbox)
    env.start(seed=1)
    text = say("echo", '{"text": "1"}') + say("run", '{"code": "x"}') + say("echo", '{"text": "2"}')
    step = env.advance(text)
    assert [m.content for m in step.messages] == ["1", "X", "2"]


def test_answers_must_fit_the_requests(echo: Any, say: Any, sandbox: Any) -> None:
    env = echo(sandbox=sandbox)
    env.start(seed=1)
    pending = env.propose(say("run", '{"code": "a"}'))
    with pytest.raises(EnvError, match=r"wants one for each of \['c0'\]"):
        env.settle(pending, ())
    with pytest.raises(EnvError, match="nothing was asked"):
        env.settle(env.propose("hello"), [ToolResult("c9", "", True)])


def test_a_message_read_at_another_turn_is_refused(echo: Any) -> None:
    env = echo()
    env.start(seed=1)
    old = env.propose("<tool_call>")
    env.advance("<tool_call>")
    with pytest.raises(EnvError, match="was read elsewhere"):
        env.settle(old)


def test_our_own_failure_ends_without_blame(echo: Any, say: Any, sandbox: Any) -> None:
    sandbox.lose = True
    env = echo(sandbox=sandbox)
    env.start(seed=1)
    step = env.advance(say("clap") + say("run", '{"code": "a"}'))
    assert (step.terminated, step.truncated, step.excluded) == (False, True, True)
    assert step.reason == "infrastructure"
    assert (step.reward, step.terms, step.credits) == (0.0, {}, ())
    assert step.info["problems"] == {"infrastructure": 1}


def test_a_shield_refuses_a_call(echo: Any, say: Any, sandbox: Any) -> None:
    env = echo(sandbox=sandbox)
    env.start(seed=1)
    pending = env.propose(say("run", '{"code": "a"}') + say("echo", '{"text": "b"}'))
    pending.refuse("c0", Problem("blocked", "run was refused: this tool is not on the list."))
    assert pending.requests == ()
    step = settled(env, pending)
    assert step.messages[0].content.startswith("run was refused")
    assert step.messages[1].content == "b"
    assert step.info["problems"] == {"blocked": 1}
    assert env.state["marks"] == []
    with pytest.raises(KeyError, match="no call 'c7'"):
        pending.refuse("c7", Problem("blocked", "no"))


class Asking(Env):
    """Asks a simulated user."""

    def begin(self, task: Any) -> str:
        self.state = {"answers": []}
        return "hello"

    def respond(self, message: Message) -> Need:
        return Need("user", (message,), f"user/{self.episode.turn}")

    def resume(self, need: Need, answer: ToolResult) -> Reply:
        self.state["answers"].append(answer.value)
        return Reply((Message("user", str(answer.value)),))


def test_a_need_is_answered_through_the_next_settle() -> None:
    env = Asking()
    env.start(seed=1)
    pending = env.settle(env.propose("hi"))
    assert isinstance(pending, Pending)
    [request] = pending.requests
    assert (request.key, request.kind, request.work.kind) == ("user/0", "need", "user")
    step = settled(env, pending, [ToolResult("user/0", "", True, None, "fine")])
    assert step.messages == (Message("user", "fine"),)
    assert env.state["answers"] == ["fine"]


def test_a_need_without_anybody_to_ask_says_so() -> None:
    env = Asking()
    env.start(seed=1)
    with pytest.raises(EnvError, match=r"asks a model \(user"):
        env.advance("hi")


class Doubting(Env):
    """Its value is asked of a judge."""

    rewards = Rewards(success=Outcome(1.0), belief=SelfEvaluation(0.2))

    def begin(self, task: Any) -> str:
        self.state = {}
        return "go"

    @tool
    def look(self) -> str:
        """Look."""
        return "seen"


@pytest.mark.parametrize("judge", [0.0, 0.3, 1.0, None])
def test_a_self_evaluation_sums_to_minus_half_its_weight_env_self1(judge: float | None) -> None:
    env = Doubting()
    env.start(seed=1)
    total = 0.0
    for text in ('<tool_call>{"name": "look", "arguments": {}}</tool_call>', "done"):
        out: Step | Pending = env.propose(text)
        while not isinstance(out, Step):
            out = env.settle(out, [ToolResult(r.key, "", True, None, judge) for r in out.requests])
        total += out.reward
    assert total == pytest.approx(-0.1)


# thinking text


def test_thinking_is_split_off_before_parsing(silent: Any) -> None:
    env = silent()
    env.start(seed=1)
    pending = env.propose("<think>a plan</think>\n hello")
    assert (pending.message.content, pending.message.reasoning) == ("hello", "a plan")
    settled(env, pending)
    assert env.state["heard"] == [("hello", "")]
    assert env.messages[1].reasoning == "a plan"


def test_rules_that_ask_for_thinking_get_it(silent: Any) -> None:
    env = silent()
    env.reads_reasoning = True
    env.start(seed=1)
    env.advance("<think>a plan</think>hello")
    assert env.state["heard"] == [("hello", "a plan")]


@pytest.mark.parametrize("thinks", [None, Thinks(), Thinks("[", "]"), Thinks(inside=True)])
@given(st.text("<think>/ []a\n", max_size=40))
def test_offset_and_content_tile_the_text_env_think3(thinks: Any, silent: Any, text: str) -> None:
    env = silent()
    env.thinks = thinks
    env.start(seed=1)
    pending = env.propose(text)
    assert pending.raw[pending.offset :] == pending.message.content


def test_messages_that_differ_in_thinking_are_equal_env_think1(echo: Any, say: Any) -> None:
    steps: list[Step] = []
    states: list[bytes] = []
    for thought in ("", "<think>x</think>", "<think>" + say("clap") + "</think>"):
        env = echo()
        env.start(seed=1)
        steps.append(env.advance(thought + say("echo", '{"text": "hi"}')))
        states.append(env.anchor())
    assert steps[0] == steps[1] == steps[2]
    assert len(set(states)) == 1


def test_a_call_inside_the_block_never_runs_env_think2(echo: Any, say: Any) -> None:
    env = echo()
    env.start(seed=1)
    step = env.advance("<think>" + say("echo", '{"text": "hi"}'))
    assert env.state["said"] == 0
    assert step.info["problems"] == {"too_long": 1}
    assert "never closes" in step.messages[0].content


def test_thinking_beyond_its_limit_is_cut_and_counted(silent: Any) -> None:
    env = silent(limits={"reasoning_chars": 4})
    env.start(seed=1)
    pending = env.propose("<think>123456</think>hello")
    assert pending.message.reasoning == "1234"
    assert settled(env, pending).info["problems"] == {"too_long": 1}


# totality


@settings(max_examples=200)
@given(st.text(max_size=200))
def test_any_text_gives_a_step_env_total1(echo: Any, text: str) -> None:
    env = echo()
    env.start(seed=1)
    env.observation_space.contains(env.reset(seed=1)[0])
    observation, *_ = env.step(text)
    assert observation in env.observation_space


@pytest.mark.parametrize(
    "text",
    [
        "\ud800",
        '<tool_call>{"name": "echo", "arguments": {"text": "\\ud800"}}</tool_call>',
        "\0" * 100,
        "<tool_call>" + "[" * 100_000,
        "é" * 100_000,
        '<tool_call>{"name": "echo", "arguments": {"text": "' + "é" * 8000 + '"}}</tool_call>',
        "<tool_call>" * 500,
    ],
)
def test_hostile_text_gives_an_observation_inside_its_space(echo: Any, text: str) -> None:
    env = echo()
    env.reset(seed=1)
    observation, *_ = env.step(text)
    assert observation in env.observation_space


def test_a_long_result_keeps_head_and_tail(echo: Any, say: Any) -> None:
    env = echo(limits={"result_chars": 100})
    env.start(seed=1)
    step = env.advance(say("echo", '{"text": "' + "a" * 500 + "b" * 500 + '"}'))
    content = step.messages[0].content
    assert 90 <= len(content) <= 100
    assert content.startswith("aaa")
    assert content.endswith("bbb")
    assert "characters left out" in content


def test_many_results_share_the_limit_of_an_observation(echo: Any, say: Any) -> None:
    env = echo(limits={"observation_chars": 1000})
    env.reset(seed=1)
    text = say("echo", '{"text": "' + "a" * 400 + '"}') * 9
    observation, *_ = env.step(text)
    assert observation in env.observation_space
    assert sum(len(m.content) for m in env.messages[2:]) <= 1000


# rewards of the base class


def exact(task: Any, answer: str) -> float:
    return float(answer == task["answer"])


def length(state: Any) -> float:
    return min(1.0, len(state["said"]) / 10)


class Terms(Env):
    """Pays by rubric."""

    rewards = Rewards(
        success=Outcome(1.0, fn=exact),
        length=Progress(0.5, fn=length),
        step=Penalty(-0.01, cap=0.05),
    )
    tasks = TaskSet.load([{"id": "t", "answer": "yes"}])

    def begin(self, task: Any) -> str:
        self.state = {"said": ""}
        return "?"

    def respond(self, message: Message) -> Reply:
        self.state["said"] += message.content
        return Reply(end="answered" if message.content == "yes" else None)


def test_terms_may_be_plain_functions_of_what_they_name() -> None:
    env = Terms()
    env.start(seed=1)
    first = env.advance("no...")
    last = env.advance("yes")
    assert first.terms == {"length": pytest.approx(0.25), "step": -0.01}
    assert last.terms["success"] == 1.0
    assert last.success is True


class Repeating(Env):
    """Dislikes repetition."""

    rewards = Rewards(success=Outcome(1.0), repeat=Penalty(-0.05, cap=0.2))

    def begin(self, task: Any) -> str:
        self.state = {"n": 0}
        return "?"

    @tool
    def look(self) -> str:
        """Look."""
        return "seen"

    @tool
    def move(self) -> str:
        """Move."""
        self.state["n"] += 1
        return "moved"


def test_the_same_call_on_an_unchanged_state_is_a_repeat() -> None:
    env = Repeating()
    env.start(seed=1)
    look = '<tool_call>{"name": "look", "arguments": {}}</tool_call>'
    move = '<tool_call>{"name": "move", "arguments": {}}</tool_call>'
    rewards = [env.advance(text).reward for text in (look, look, move, look, move)]
    assert rewards == [0.0, -0.05, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("value", [float("nan"), "1", None, 2.0])
def test_a_reward_that_is_no_number_names_the_term_and_the_task(value: Any) -> None:
    class Broken(Env):
        tasks = TaskSet.load([{"id": "t7"}])

        def begin(self, task: Any) -> str:
            self.state = {}
            return "?"

        def score(self, answer: str) -> float:
            return value

    env = Broken()
    env.start(seed=3)
    with pytest.raises(RewardError) as caught:
        env.advance("x")
    assert "'success'" in str(caught.value)
    assert "'t7'" in str(caught.value)


def test_a_missing_or_foreign_potential_is_named(echo: Any) -> None:
    class Broken(echo):
        def potentials(self) -> dict[str, float]:
            return {"sayd": 0.5}

    with pytest.raises(RewardError, match="reads potentials\\(\\)\\['said'\\]"):
        Broken().start(seed=1)


def test_an_environment_that_raises_in_begin_is_wrapped() -> None:
    class Broken(Env):
        def begin(self, task: Any) -> str:
            raise KeyError("prompt")

    with pytest.raises(EnvError, match="KeyError: 'prompt'"):
        Broken().reset(seed=3)


# construction and options


def test_arguments_change_weights_limits_and_parser(echo: Any) -> None:
    env = echo(reward={"format": 0}, limits={"turns": 2}, parser="react")
    env.start(seed=1)
    step = env.advance("Action: nothing\nAction Input: {}")
    assert step.terms == {}
    assert step.info["signals"] == {"format": 1.0}
    assert env.limits == Limits(turns=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reward": {"formt": 1}}, "did you mean 'format'"),
        ({"limits": {"turn": 1}}, "did you mean 'turns'"),
        ({"limits": {"turns": 0}}, "Limits.turns is 0; give at least 1"),
        ({"render_mode": "rgb"}, "give one of ansi, human"),
        ({"domain": {"x": 1}}, "no domain parameter 'x'"),
        ({"domain": "unifrom"}, "domain mode is 'unifrom'"),
    ],
)
def test_impossible_arguments_are_refused_with_advice(
    echo: Any, arguments: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        echo(**arguments)


def test_options_force_task_episode_and_attempt(echo: Any) -> None:
    env = echo()
    said = env.start(seed=3, options={"task": "b", "episode": 4, "attempt": 2})
    assert said == (Message("user", "Say beta."),)
    assert (env.episode.seed, env.episode.episode, env.episode.attempt) == (3, 4, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"taks": "a"}, "did you mean 'task'"),
        ({"task": "z"}, "no task 'z'"),
        ({"params": {"p": 1}}, "no domain parameter 'p'"),
    ],
)
def test_impossible_options_are_refused_with_advice(echo: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        echo().start(seed=1, options=options)


def test_calls_of_a_ready_message_are_taken_and_bare_content_is_parsed(echo: Any, say: Any) -> None:
    env = echo()
    env.start(seed=1)
    step = env.advance(Message("assistant", "", (ToolCall("", "echo", {"text": "a"}, (0, 0)),)))
    assert step.messages[0].content == "a"
    step = env.advance(Message("assistant", say("echo", '{"text": "b"}'), reasoning="so"))
    assert step.messages[0].content == "b"
    assert env.messages[-2].reasoning == "so"


def test_the_system_message_is_filled_in() -> None:
    class Polite(Env):
        system = 'Be {"polite": true}. Tools:\n{tools}'

        def begin(self, task: Any) -> str:
            self.state = {}
            return "?"

        @tool
        def look(self) -> str:
            """Look."""
            return "seen"

    system, first = Polite().start(seed=1)
    assert system.role == "system"
    assert system.content.startswith('Be {"polite": true}. Tools:\n{"type": "function"')
    assert first.content == "?"


def test_a_subclass_inherits_tools_and_may_replace_them(echo: Any, say: Any) -> None:
    class Loud(echo):
        clap = None

        @tool
        def echo(self, text: str) -> str:
            """Shout."""
            return text.upper()

    env = Loud()
    env.start(seed=1)
    assert list(env.tools) == ["echo", "dice", "fail", "run"]
    assert env.advance(say("echo", '{"text": "hi"}')).messages[0].content == "HI"
    assert "clap" in echo.tools
