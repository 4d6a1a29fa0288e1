"""CodeDrill: its words, its chances, its rules; expressions are really executed."""

from __future__ import annotations

import io
import math
import sys
from functools import cache
from typing import Any

import numpy as np
import pytest
from palaestra.envs.core import Step, run
from palaestra.envs.drills import expressions
from palaestra.envs.drills.code import CodeDrill
from palaestra.envs.drills.expressions import AMBIGUOUS, LEVELS, draw, grammar, vocabulary
from palaestra.envs.grammar import Automaton
from palaestra.envs.messages import Message, Problem, ToolCall
from palaestra.envs.tokenizers import FragmentTokenizer
from palaestra.testing.fakes import FakeSandbox
from palaestra.tool_sandbox import Job, Result

SIZE: dict[str, Any] = {
    "tests": 4,
    "readings": (0.5, 0.5),
    "length": (4, 6),
    "digits": (0, 9),
}


def evaluated(job: Job) -> Result:
    """Runs a job of the closed set of expressions here: tests of rules need no isolation."""
    head, _, last = job.code.rpartition("\n\n")
    names: dict[str, Any] = {}
    exec(head, names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.StringIO(str(job.stdin)))
        return Result("ok", 0, value=eval(last, names))


def drill(**options: Any) -> CodeDrill:
    return CodeDrill(sandbox=FakeSandbox(evaluated), **options)


def tokenizer(env: CodeDrill) -> FragmentTokenizer:
    assert isinstance(env.tokenizer, FragmentTokenizer)
    return env.tokenizer


def automaton(env: CodeDrill) -> Automaton:
    assert env.grammar is not None
    return env.grammar.automaton(tokenizer(env))


def said(step: Step) -> list[str]:
    return [message.content for message in step.messages]


def first_with(env: CodeDrill, *words: str) -> int:
    """Finds a seed whose first function is one of `words`."""
    return next(s for s in range(500) if env.start(s)[0].content.split(" of ")[1] in words)


def meant(env: CodeDrill, function: int = 0) -> str:
    return env.task["functions"][function]["code"]


def wrong(env: CodeDrill, function: int = 0) -> str:
    """Finds an expression of the level that fails a function, and raises in no test."""
    row = env.task["functions"][function]
    table = rows([(code, row["inputs"]) for code in [row["code"], *env.codes]])
    return next(
        code
        for code, got in zip(env.codes, table[1:], strict=True)
        if got != table[0] and not any(isinstance(outcome, str) for outcome in got)
    )


def rows(pairs: list[Any]) -> list[Any]:
    value: Any = evaluated(expressions.job(pairs)).value
    return value[0]


# words and grammar


@pytest.mark.parametrize(("level", "size"), [(0, 35), (1, 35), (2, 40), (3, 40), (4, 35), (5, 35)])
def test_the_vocabulary_has_the_size_of_the_table(level: int, size: int) -> None:
    assert tokenizer(drill(level=level)).size == size


@pytest.mark.parametrize(("level", "states"), [(1, 5), (2, 5), (3, 5), (4, 9), (5, 17)])
def test_the_grammar_is_a_small_automaton(level: int, states: int) -> None:
    assert automaton(drill(level=level)).states == states


@pytest.mark.parametrize(("level", "items"), [(1, 32), (2, 48), (3, 48)])
def test_the_menu_holds_every_expression(level: int, items: int) -> None:
    menu = drill(level=level).menu()
    assert len(menu) == items
    assert all(isinstance(item, ToolCall) and item.name == "run" for item in menu)


def test_observation_action_and_result_read_as_the_design_writes_them() -> None:
    env = drill(level=1)
    seed = first_with(env, "odd")
    (first,) = env.start(seed)
    end, word = first.content.split(" of ")
    assert (end in expressions.FIN, word) == (True, "odd")
    action = meant(env)
    assert action.endswith("([v for v in x if v%2])")
    step = env.advance(action)
    assert said(step)[0] == "pass"
    assert said(step)[1].count(" of ") == 1


@pytest.mark.parametrize("level", range(len(LEVELS)))
def test_every_text_of_an_episode_survives_its_tokenizer(level: int) -> None:
    env = drill(level=level)
    words = tokenizer(env)
    for seed in range(20):
        env.start(seed)
        while not env.episode.over:
            picked = np.random.default_rng((seed, env.episode.turn)).integers(len(env.codes))
            code = list(env.codes)[int(picked)]
            env.advance("; ".join([code] * env.parallel))
        for message in env.messages:
            ids = words.encode(message.content)
            assert words.decode(ids) == message.content
            assert words.id("<overflow>") not in ids


@pytest.mark.parametrize(("level", "tokens"), [(0, 9), (1, 39), (2, 39), (4, 74), (5, 107)])
def test_an_episode_has_the_tokens_of_the_table(level: int, tokens: int) -> None:
    env = drill(level=level)
    env.start(0)
    for message in env.solution(env.task):
        env.advance(message)
    turns = env.episode.turn
    texts = [m.content for m in env.messages[: -env.parallel]]  # the last results end nothing
    words = sum(len(tokenizer(env).encode(text)) for text in texts)
    assert words + 3 * turns == tokens  # <obs>, <act> and <end> of each turn


def test_the_grammar_accepts_the_solution_and_refuses_half_of_it() -> None:
    env = drill(level=4)
    env.start(3)
    states, end = automaton(env), tokenizer(env).end_of_turn
    for message in env.solution(env.task):
        ids = tokenizer(env).encode(message)
        assert states.accepts([*ids, end])
        assert not states.accepts([*ids[: len(ids) // 2], end])


# chances of the table, by enumerating the grammar on drawn functions


@cache
def chances(level: int, functions: int) -> tuple[float, float]:
    """Probability that a random expression passes a function: in one try, in two."""
    row = LEVELS[level]
    stream = np.random.default_rng(level)
    pres = [code for word in row.words for code in row.readings[word]]
    codes = [end + pre + ")" for end in expressions.FIN.values() for pre in pres]
    drawn = [draw(stream, level=row, functions=1, **SIZE)["functions"][0] for _ in range(functions)]
    table = rows([(code, f["inputs"]) for f in drawn for code in [f["code"], *codes]])
    width = len(codes) + 1
    parts = [table[i : i + width] for i in range(0, len(table), width)]
    one = [sum(got == part[0] for got in part[1:]) / len(codes) for part in parts]
    return float(np.mean(one)), float(np.mean([1 - (1 - p) ** 2 for p in one]))


@pytest.mark.parametrize(
    ("level", "one", "two"), [(1, 0.048, None), (2, 0.053, 0.098), (3, None, 0.0745)]
)
def test_random_expressions_pass_as_often_as_the_table_says(
    level: int, one: float | None, two: float | None
) -> None:
    got = chances(level, 600)
    for figure, wanted in zip(got, (one, two), strict=True):
        assert wanted is None or abs(figure - wanted) < 0.006


def test_one_try_solves_six_tenths_of_level_two_at_best() -> None:
    stream = np.random.default_rng(7)
    drawn = [draw(stream, level=LEVELS[2], functions=1, **SIZE)["functions"][0] for _ in range(600)]
    pairs: list[Any] = []
    for row in drawn:
        end, word = row["words"].split(" of ")
        guess = expressions.FIN[end] + AMBIGUOUS[word][0] + ")"
        pairs += [(code, row["inputs"]) for code in (row["code"], guess)]
    table = rows(pairs)
    solved = [table[i] == table[i + 1] for i in range(0, len(table), 2)]
    assert abs(float(np.mean(solved)) ** 4 - 0.607) < 0.05


# rules


def test_a_pass_pays_its_share_to_the_call_that_earned_it() -> None:
    env = drill(level=2)
    env.start(1)
    step = env.advance(env.solution(env.task)[0])
    assert step.terms == {"tool_pass": 0.25}
    assert [credit.call_id for credit in step.credits] == ["c0"]


@pytest.mark.parametrize("level", range(len(LEVELS)))
def test_the_solution_earns_one_and_succeeds(level: int) -> None:
    env = drill(level=level)
    for seed in range(10):
        env.start(seed)
        steps = [env.advance(message) for message in env.solution(env.task)]
        last = steps[-1]
        assert math.isclose(sum(step.reward for step in steps), 1.0)
        assert (last.terminated, last.reason, last.success) == (True, "goal", True)
        assert last.info["potentials"] == {"tool_pass": 1.0}


def test_each_expression_of_a_message_is_a_call_with_its_own_reward() -> None:
    env = drill(level=5)
    env.start(2)
    good = env.solution(env.task)[0].split("; ")
    step = env.advance("; ".join([good[0], wrong(env, 1), good[2], good[3]]))
    assert said(step)[:4] == ["pass", "fail", "pass", "pass"]
    assert [credit.call_id for credit in step.credits] == ["c0", "c2", "c3"]
    assert all(math.isclose(credit.value, 1 / 12) for credit in step.credits)


def test_a_failed_function_is_asked_again_while_tries_are_left() -> None:
    env = drill(level=2)
    (asked,) = env.start(4)
    step = env.advance(wrong(env))
    assert said(step) == ["fail", asked.content]
    step = env.advance(wrong(env))
    assert said(step) == ["fail", env.task["functions"][1]["words"]]


def test_the_second_reading_of_a_word_passes_on_the_second_try() -> None:
    env = drill(level=2)
    seed = first_with(env, "scaled")
    env.start(seed)
    end = next(code for name, code in expressions.FIN.items() if name == "total")
    row = env.task["functions"][0]
    both = [row["code"].split("(")[0] + "(" + reading + ")" for reading in AMBIGUOUS["scaled"]]
    other = next(code for code in both if code != row["code"])
    first = said(env.advance(other))[0]
    assert first == ("fail" if not row["code"].startswith("len") else "pass")
    if first == "fail":
        assert said(env.advance(row["code"]))[0] == "pass"
    assert end == "sum("


def test_tries_is_set_by_level_by_argument_and_between_episodes() -> None:
    assert [drill(level=level).tries for level in range(6)] == [1, 1, 2, 2, 1, 1]
    env = drill(level=2, tries=1)
    env.start(0)
    *_, step = [env.advance(wrong(env, env.state["open"][0])) for _ in range(4)]
    assert (step.terminated, step.reason, step.success) == (True, "budget", False)
    env.tries = 2
    env.start(0)
    assert env.state["tries"] == [2, 2, 2, 2]


def test_a_raised_error_is_told_apart_from_a_wrong_value() -> None:
    env = drill(level=2)
    env.start(first_with(env, "plain"))
    assert said(env.advance("max(x[9:])"))[0] in ("error", "pass")
    env.start(first_with(env, "plain"))
    assert said(env.advance("sum(x, y)"))[0] == "error"


def test_an_exception_of_the_reference_is_an_expected_value() -> None:
    env = drill(level=1)
    for seed in range(2000):
        env.start(seed)
        row = env.task["functions"][0]
        reference, empty = rows([(c, row["inputs"]) for c in (row["code"], "max(x[9:])")])
        if "!ValueError" in reference:
            assert said(env.advance(row["code"]))[0] == "pass"
            env.start(seed)
            assert said(env.advance("max(x[9:])"))[0] == ("pass" if empty == reference else "fail")
            return
    pytest.fail("no reference raised in 2,000 episodes")


@pytest.mark.parametrize("text", ["max(x", "", "  ", ";", "largest of odd", "def f(): pass", "x\0"])
def test_text_that_is_no_expression_uses_a_try_and_counts_as_malformed(text: str) -> None:
    env = drill(level=1)
    env.start(0)
    step = env.advance(text)
    assert said(step) == ["error", env.task["functions"][1]["words"]]
    assert step.info["problems"] == {"malformed": 1}


def test_a_message_with_more_expressions_than_functions_judges_the_first() -> None:
    env = drill(level=1)
    env.start(0)
    step = env.advance(f"{meant(env)}; {meant(env)}")
    assert said(step)[:2] == ["pass", "error"]
    assert step.info["problems"] == {"too_many_calls": 1}


def test_a_message_with_fewer_expressions_leaves_functions_open() -> None:
    env = drill(level=4)
    env.start(0)
    step = env.advance(meant(env))
    asked = [row["words"] for row in env.task["functions"][1:3]]
    assert said(step) == ["pass", "; ".join(asked)]


def test_an_answer_without_calls_is_read_like_text() -> None:
    env = drill(level=1)
    env.start(0)
    step = env.advance(Message("assistant", meant(env)))
    assert said(step)[0] == "pass"


@pytest.mark.parametrize("term", ["outcome_fraction", "outcome_all"])
def test_outcomes_pay_at_the_end_when_they_have_the_weight(term: str) -> None:
    env = drill(level=2, reward={"tool_pass": 0.0, term: 1.0})
    env.start(0)
    steps = [env.advance(message) for message in env.solution(env.task)]
    assert [step.reward for step in steps] == [0.0, 0.0, 0.0, 1.0]
    env.start(0)
    good = env.solution(env.task)
    texts = [wrong(env), wrong(env), *good[1:]]
    total = sum(env.advance(text).reward for text in texts)
    assert total == (0.75 if term == "outcome_fraction" else 0.0)


def test_partial_credit_is_a_potential_that_ends_at_zero() -> None:
    env = drill(level=2, reward={"tool_pass": 0.0, "outcome_all": 1.0, "tool_partial": 0.5})
    for seed in range(5):
        env.start(seed)
        terms = [env.advance(m).terms.get("tool_partial", 0.0) for m in env.solution(env.task)]
        assert terms[0] > 0
        assert math.isclose(sum(terms), 0.0, abs_tol=1e-12)


def test_flaky_runs_report_an_error_whatever_was_written() -> None:
    env = drill(level=1, flaky=1.0)
    env.start(0)
    step = env.advance(meant(env))
    assert said(step)[0] == "error"
    assert env.state["share"][0] == 0.0


def test_readings_decide_which_meaning_is_drawn() -> None:
    env = drill(level=3, readings=(1.0, 0.0))
    for seed in range(20):
        env.start(seed)
        for row in env.task["functions"]:
            assert row["code"].split("(", 1)[1][:-1] == AMBIGUOUS[row["words"].split(" of ")[1]][0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"level": 6}, "level is 6; give 0 to 5"),
        ({"tries": 0}, "tries is 0; give at least 1"),
        ({"parallel": -1}, "parallel is -1; give at least 1"),
    ],
)
def test_impossible_numbers_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        drill(**options)


def test_a_refused_call_does_not_run() -> None:
    env = drill(level=1)
    env.start(0)
    pending = env.propose(meant(env))
    pending.refuse("c0", Problem("blocked", "no"))
    step = env.settle(pending, ())
    assert isinstance(step, Step)
    assert step.reward == 0.0
    assert env.state["tries"][0] == 0


# one batch


def batch(envs: list[CodeDrill], texts: list[str]) -> list[Step]:
    """Sends one message to each of many sessions, as the engine does."""
    out: list[Any] = [env.propose(text) for env, text in zip(envs, texts, strict=True)]
    while waiting := [i for i, each in enumerate(out) if not isinstance(each, Step)]:
        for i, answers in zip(waiting, run([out[i] for i in waiting]), strict=True):
            out[i] = envs[i].settle(out[i], answers)
    return out


def test_expressions_of_the_grammar_share_one_execution_and_references_another() -> None:
    sandbox = FakeSandbox(evaluated)
    envs = [CodeDrill(level=2, sandbox=sandbox) for _ in range(5)]
    for seed, env in enumerate(envs):
        env.start(seed)
    batch(envs, [env.solution(env.task)[0] for env in envs])
    assert len(sandbox.jobs) == 2
    assert all(job.want_value for job in sandbox.jobs)
    batch(envs, [env.solution(env.task)[1] for env in envs])
    assert len(sandbox.jobs) == 3


def test_text_outside_the_grammar_runs_by_itself() -> None:
    sandbox = FakeSandbox(evaluated)
    envs = [CodeDrill(level=2, sandbox=sandbox) for _ in range(4)]
    for seed, env in enumerate(envs):
        env.start(seed)
    batch(envs, ["max(x)", "min(x)", "max( x )", "sorted(x)[0]"])
    shares = ["max( x )", "sorted(x)[0]"]
    assert sum(any(s in str(job.stdin) for s in shares) for job in sandbox.jobs) == 2


def test_a_batch_gives_what_single_sessions_give() -> None:
    seeds = range(6)
    alone, together = [drill(level=3) for _ in seeds], [drill(level=3) for _ in seeds]
    for seed, one, other in zip(seeds, alone, together, strict=True):
        one.start(seed)
        other.start(seed)
    texts = [meant(env) if seed % 2 else "max(x)" for seed, env in zip(seeds, alone, strict=True)]
    assert batch(together, texts) == [e.advance(t) for e, t in zip(alone, texts, strict=True)]


@pytest.mark.parametrize("reason", ["lost", "timeout"])
def test_a_lost_worker_is_our_failure_and_a_slow_program_is_not(reason: Any) -> None:
    def answer(job: Job) -> Result:
        return evaluated(job) if "sorted" not in str(job.stdin) else Result(reason)

    env = CodeDrill(level=1, sandbox=FakeSandbox(answer))
    env.start(0)
    step = env.advance("sorted(x)")
    assert step.excluded == (reason == "lost")
    assert reason == "lost" or said(step)[0] == "error"


def test_merge_and_split_undo_each_other() -> None:
    inputs = [[1, 2], [3]]
    jobs = [expressions.job([(code, inputs)]) for code in ("max(x)", "min(x)", "x y")]
    parts = expressions.split(evaluated(expressions.merge(jobs)), 3)
    assert [expressions.rows(part) for part in parts] == [[[2, 3]], [[1, 3]], [None]]
    assert [evaluated(job).value for job in jobs] == [part.value for part in parts]


def test_a_merged_result_without_rows_is_the_result_of_each() -> None:
    killed = Result("memory", None)
    assert expressions.split(killed, 2) == [killed, killed]
    assert expressions.rows(killed) == []


@pytest.mark.parametrize("value", [5, "rows", [5], [[5]], [{0: 1}], [[[1], "x"]], [[{1: 2}]]])
def test_what_a_program_wrote_in_place_of_its_rows_is_no_rows(value: Any) -> None:
    assert expressions.rows(Result("ok", 0, value=value)) == []
    assert expressions.rows(Result("ok", 0, value=[[[1, "!"], None]])) == [[1, "!"], None]


def test_values_are_compared_with_their_type() -> None:
    table = rows([(code, [[1]]) for code in ("1", "True", "1.0", "x", "1/0")])
    assert table == [[1], ["?bool"], ["?float"], ["?list"], ["!ZeroDivisionError"]]


# the real thing


@pytest.mark.linux
@pytest.mark.parametrize("level", range(len(LEVELS)))
def test_the_solution_passes_in_the_sandbox(level: int) -> None:
    env = CodeDrill(level=level)
    env.start(11)
    steps = [env.advance(message) for message in env.solution(env.task)]
    assert steps[-1].success


@pytest.mark.linux
@pytest.mark.parametrize(
    "text",
    ["exit()", "[0]*10**12", "(lambda f: f(f))(lambda f: f(f))", "print(1)", "open('/etc/passwd')"],
)
def test_hostile_expressions_are_errors_or_failures(text: str) -> None:
    env = CodeDrill(level=1)
    env.start(0)
    step = env.advance(text)
    assert said(step)[0] in ("error", "fail")
    assert not step.ended


@pytest.mark.linux
def test_many_sessions_agree_with_the_rules_run_here() -> None:
    real = [CodeDrill(level=2) for _ in range(32)]
    here = [drill(level=2) for _ in range(32)]
    for seed, (one, other) in enumerate(zip(real, here, strict=True)):
        one.start(seed)
        other.start(seed)
    codes = list(vocabulary(True).codes)
    texts = [codes[(7 * i) % len(codes)] for i in range(32)]
    assert batch(real, texts) == batch(here, texts)


def test_the_same_seed_asks_the_same_and_a_group_shares_its_task() -> None:
    env, other = drill(level=2), drill(level=2)
    assert env.start(5) == other.start(5)
    assert env.start(5, {"attempt": 3}) == other.start(5)
    assert env.task == other.task
    assert grammar(2, 1) is env.grammar
