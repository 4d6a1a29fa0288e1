"""check_environment: built-ins keep the laws, each planted fault is named by its law."""

from __future__ import annotations

import importlib
import json
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from palaestra.envs import parsing
from palaestra.envs.core import Env
from palaestra.envs.drills.code import CodeDrill
from palaestra.envs.messages import Credit, Message
from palaestra.envs.small import Compare, Copy, KeyDoor, Sum
from palaestra.testing import check_environment, strategies
from palaestra.testing.conformance import GROUPS, Named, Report, Row
from palaestra.testing.invariants import INVARIANTS, Invariant
from palaestra.testing.trials import Trial, ViolationError, difference, play

ROOT = Path(__file__).parents[2]
CALM = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def example(name: str) -> ModuleType:
    """Imports a file of examples/ as its users do: other processes can import it too."""
    folder = str(ROOT / "examples")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


FAULTS: dict[type[Env], str] = example("broken_envs").FAULTS


def law(code: str) -> Invariant:
    return next(law for law in INVARIANTS if law.code == code)


def codes(report: Report) -> list[str]:
    return [row.code for row in report.failed]


@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
def test_a_planted_fault_is_named_by_its_law(kind: type[Env]) -> None:
    code = FAULTS[kind]
    group = law(code).group
    report = check_environment(kind, groups=[group], views=("turn",), quick=True, examples=100)
    assert code in codes(report)
    row = next(row for row in report.failed if row.code == code)
    assert row.detail
    assert f"FAIL {code}" in str(report)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
def test_a_planted_fault_breaks_few_other_laws(kind: type[Env]) -> None:
    report = check_environment(kind, quick=True, views=("turn",))
    assert FAULTS[kind] in codes(report)
    raises = FAULTS[kind] == "ENV-TOTAL1"  # then every law fails that sends such a text
    assert raises or len(codes(report)) <= 8


def test_the_honest_environment_keeps_every_law() -> None:
    report = check_environment(example("broken_envs").Honest, examples=40)
    assert report.passed, str(report)


@pytest.mark.parametrize("kind", [Compare, Copy, Sum, KeyDoor])
def test_small_worlds_keep_every_law(kind: type[Env]) -> None:
    report = check_environment(kind, quick=True)
    assert report.passed, str(report)


@pytest.mark.linux
@pytest.mark.parametrize("id", ["palaestra/CodeDrill-v0", "palaestra/Code-v0"])
def test_environments_that_run_code_keep_every_law(id: str) -> None:
    report = check_environment(id, quick=True, examples=20)
    assert report.passed, str(report)


@pytest.mark.slow
@pytest.mark.linux
@pytest.mark.parametrize("name", ["Compare", "Copy", "Sum", "KeyDoor", "CodeDrill", "Code"])
def test_every_built_in_keeps_every_law_in_full(name: str) -> None:
    report = check_environment(f"palaestra/{name}-v0")
    assert report.passed, str(report)


@pytest.mark.linux
@pytest.mark.parametrize("level", range(6))
def test_each_level_of_the_drill_keeps_the_laws_of_rewards(level: int) -> None:
    def make() -> Env:
        return CodeDrill(level=level)

    report = check_environment(make, quick=True, groups=["rewards", "end"])
    assert report.passed, str(report)


# reports


def test_a_report_tells_how_to_see_the_fault_again() -> None:
    report = check_environment(example("broken_envs").BothEnds, groups=["end"])
    (row,) = report.failed
    assert row.actions == ("",)
    assert f"again with: reset(seed={row.seed}), then ''" in str(report)
    assert repr(report) == str(report)


def test_the_shortest_reproduction_really_breaks_the_law() -> None:
    kind = example("broken_envs").UnseededNoise
    row = check_environment(kind, groups=["seed"], quick=True).failed[0]
    assert row.seed is not None
    one, other = (play(kind(), list(row.actions), row.seed) for _ in range(2))
    assert "first messages differ" in difference(one, other)


def test_the_same_environment_gives_the_same_report() -> None:
    kind = example("broken_envs").NoTelescope
    one, other = (check_environment(kind, groups=["rewards"], quick=True) for _ in range(2))
    assert one == other


def test_a_report_is_plain_data_too() -> None:
    report = check_environment(Copy, groups=["end"], quick=True)
    row = json.loads(json.dumps(report.to_json()))
    assert row["passed"] is True
    assert {each["outcome"] for each in row["rows"]} == {"passed"}
    assert report.ok


def test_a_law_with_nothing_to_say_is_left_out_with_the_reason() -> None:
    report = check_environment(Copy, groups=["spaces"], quick=True, views=("turn",))
    row = next(row for row in report.rows if row.code == "ENV-SPACE2")
    assert (row.outcome, row.detail) == ("skipped", "no tools")
    assert "(no tools)" in str(row)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"groups": ["reward"]}, "there is no group 'reward'; give spaces, total"),
        ({"views": ["tools"]}, "there is no view 'tools'; give turn, tool, token"),
    ],
)
def test_unknown_names_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_environment(Copy, **options)


def test_every_law_has_a_code_a_group_and_words() -> None:
    assert len({law.code for law in INVARIANTS}) == len(INVARIANTS)
    for each in INVARIANTS:
        assert each.group in GROUPS
        assert each.says[0].isupper()
    assert {each.group for each in INVARIANTS} == set(GROUPS)


def test_an_environment_that_raises_is_reported_and_does_not_stop_the_check() -> None:
    class Raising(Copy):
        def score(self, answer: str) -> float:
            raise ZeroDivisionError("by hand")

    report = check_environment(Raising, groups=["end", "total"], quick=True)
    assert {"ENV-TOTAL1", "ENV-END1"} <= set(codes(report))
    assert "ZeroDivisionError: by hand" in str(report)


def test_what_cannot_travel_to_another_process_is_left_out() -> None:
    class Local(Compare):
        pass

    report = check_environment(lambda: Local(), groups=["seed"])
    row = next(row for row in report.rows if row.code == "ENV-SEED4")
    assert row.outcome == "skipped"
    assert "cannot be pickled" in row.detail


def test_hash_order_is_found_in_another_process(tmp_path: Path) -> None:
    source = (
        "from palaestra.envs.small import Copy\n"
        "class Sets(Copy):\n"
        "    def begin(self, task):\n"
        "        super().begin(task)\n"
        "        return ' '.join({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'})\n"
    )
    (tmp_path / "sets_of_words.py").write_text(source)
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from sets_of_words import Sets\n"
        "from palaestra.testing import check_environment\n"
        "report = check_environment(Sets, groups=['seed'], examples=3)\n"
        "print([row.code for row in report.failed])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['ENV-SEED4']"


def test_a_named_maker_travels() -> None:
    assert pickle.loads(pickle.dumps(Named("palaestra/Copy-v0")))().env_id == "palaestra/Copy-v0"


def test_a_violation_of_one_seed_is_shown_with_it() -> None:
    row = Row("X", "end", "Says.", "failed", "detail", 3, ("a" * 400,))
    assert "reset(seed=3), then 'aaa" in str(row)
    assert "(402 characters)" in str(row)


def test_a_property_is_checked_on_drawn_episodes_and_shrunk() -> None:
    trial = Trial(Copy, ("turn",), 50, False)

    def never_two(seed: int, several: list[Any]) -> None:
        if len(several) > 1:
            raise ViolationError("two")

    with pytest.raises(ViolationError, match="two") as caught:
        trial.over(never_two, st.integers(0, 9))
    assert (caught.value.seed, caught.value.actions) == (0, [0, 0])


# strategies


@CALM
@given(st.data())
@pytest.mark.parametrize("kind", [Compare, Sum, KeyDoor])
def test_drawn_calls_are_valid(kind: type[Env], data: st.DataObject) -> None:
    call = data.draw(strategies.calls(kind.tools))
    assert kind.tools.check(call).problem is None


@CALM
@given(st.data())
@pytest.mark.parametrize("kind", [Compare, Sum, KeyDoor])
def test_broken_calls_cause_the_problem_they_name(kind: type[Env], data: st.DataObject) -> None:
    broken = data.draw(strategies.broken_calls(kind.tools))
    env = kind()
    env.start(0)
    assert env.advance(broken.text).info["problems"] == {broken.code: 1}


@CALM
@given(strategies.messages())
def test_drawn_messages_survive_the_openai_form(message: Message) -> None:
    assert Message.from_openai(json.loads(json.dumps(message.to_openai()))) == message


@CALM
@given(st.data())
def test_drawn_members_are_in_their_space(data: st.DataObject) -> None:
    for view in ("turn", "tool", "token"):
        action = data.draw(strategies.actions(Compare(), view))
        if view == "tool":
            space = strategies.view(Compare(), view).action_space
            assert action in space


@CALM
@given(strategies.params(Compare.domain), strategies.tasks(Compare.tasks))
def test_drawn_parameters_and_tasks_start_an_episode(params: dict[str, Any], task: Any) -> None:
    env = Compare()
    env.start(0, {"params": params, "task": task})
    assert env.params == params


@CALM
@given(strategies.credits(Compare.rewards))
def test_drawn_credits_can_be_paid(credit: Credit) -> None:
    env = Compare()
    env.start(0)
    env.ledger.pay(*credit)


@CALM
@given(strategies.texts())
def test_drawn_texts_are_parsed_without_an_exception(text: str) -> None:
    for parser in parsing.PARSERS.values():
        parser(text)
