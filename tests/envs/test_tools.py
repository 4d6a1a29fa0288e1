"""Tools are checked before they run, and say what was wrong."""

from __future__ import annotations

import copy
import doctest
import pickle
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from palaestra.envs import faults, problems, tools, work
from palaestra.envs.messages import Problem, ToolCall, ToolResult
from palaestra.envs.schemas import SchemaError
from palaestra.envs.tools import (
    Fault,
    GradeCall,
    Job,
    SessionCall,
    TaskSchema,
    Tool,
    Toolbox,
    ToolError,
    methods,
    tool,
)
from pydantic import Field


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Pair:
    left: int
    right: int


@tool
def search(
    query: str,
    k: Annotated[int, Field(ge=1, le=10)] = 3,
    tags: list[str] | None = None,
    near: float = 1.0,
    deep: bool = False,
    colour: Colour | None = None,
    mode: Literal["fast", "exact"] = "fast",
    code: Annotated[str, Field(max_length=4)] = "",
) -> str:
    """Search the library.

    Args:
        query: what to look for
        k: number of passages
    """
    return f"{query}/{k}"


def call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall("1", name, arguments, (0, 1))


def detail(**arguments: Any) -> str:
    checked = search.check(arguments)
    assert checked.arguments is None
    assert checked.problem is not None
    assert checked.problem.code == "bad_arguments"
    return checked.problem.text


@pytest.mark.parametrize(
    "module", [tools, work, problems, faults], ids=lambda m: m.__name__.rpartition(".")[2]
)
def test_the_examples_in_the_docstrings_hold(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


# what a bad call is told


def test_arguments_out_of_bounds_and_missing_are_told_together() -> None:
    assert detail(k=50) == "search: k must be at most 10 (got 50); 'query' is missing."


TOLD: list[tuple[dict[str, Any], str]] = [
    ({"k": 0}, "search: k must be at least 1 (got 0)."),
    ({"k": "many"}, 'search: k must be an integer (got "many").'),
    ({"k": 2.5}, "search: k must be an integer (got 2.5)."),
    ({"near": "far"}, 'search: near must be a number (got "far").'),
    ({"deep": "perhaps"}, 'search: deep must be true or false (got "perhaps").'),
    ({"query": ["a"]}, 'search: query must be a string (got ["a"]).'),
    ({"query": None}, "search: query must be a string (got null)."),
    ({"tags": {"a": 1}}, 'search: tags must be a list (got {"a": 1}).'),
    ({"tags": ["a", []]}, "search: tags[1] must be a string (got [])."),
    ({"mode": "slow"}, "search: mode must be one of 'fast' or 'exact' (got \"slow\")."),
    ({"colour": "green"}, "search: colour must be one of 'red' or 'blue' (got \"green\")."),
    ({"code": "12345"}, 'search: code must have at most 4 characters (got "12345").'),
    ({"quary": "a"}, "search: 'quary' is no argument (did you mean 'query'?)."),
]


@pytest.mark.parametrize(("arguments", "text"), TOLD)
def test_a_bad_argument_is_told_what_was_got_and_what_is_wanted(
    arguments: dict[str, Any], text: str
) -> None:
    assert detail(**{"query": "a", **arguments}) == text


def test_an_unknown_tool_is_told_the_nearest_name() -> None:
    box = Toolbox(search)
    problem = box.validate(call("serch"))
    assert isinstance(problem, Problem)
    assert problem.code == "unknown_tool"
    assert problem.text == "There is no tool 'serch'. Did you mean 'search'? Tools: search."
    nothing = Toolbox().validate(call("x"))
    assert isinstance(nothing, Problem)
    assert nothing.text == "There is no tool 'x'. There are no tools here; answer in words."


def test_a_call_that_could_not_be_read_keeps_its_problem() -> None:
    broken = Problem("malformed", "Not valid JSON at character 3: expected ','.")
    assert Toolbox(search).validate(call("search")._replace(problem=broken)) is broken


@given(st.text(), st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.none())))
def test_texts_about_bad_calls_are_short(name: str, arguments: dict[str, Any]) -> None:
    problem = Toolbox(search).validate(call(name * 50, **arguments))
    problem = problem if isinstance(problem, Problem) else search.check(arguments).problem
    assert problem is not None
    assert len(problem.text) < 2000


def test_a_huge_value_is_shortened() -> None:
    assert len(detail(query=["a"] * 100_000)) < 200


# what fits


def test_values_that_fit_are_passed_as_they_are() -> None:
    arguments = {"query": "a", "k": 3}
    checked = search.check(arguments)
    assert checked.arguments is arguments
    assert checked.problem is None


def test_values_of_richer_types_are_made_without_a_remark() -> None:
    checked = search.check({"query": "a", "colour": "red", "near": 2, "tags": None})
    assert checked.problem is None
    assert checked.arguments == {"query": "a", "colour": Colour.RED, "near": 2.0, "tags": None}


@pytest.mark.parametrize(
    ("given_", "made"),
    [({"k": "3"}, 3), ({"k": 3.0}, 3), ({"deep": "true"}, True), ({"query": 5}, "5")],
)
def test_a_value_that_was_converted_is_told_and_runs(given_: dict[str, Any], made: Any) -> None:
    checked = search.check({"query": "a", **given_})
    assert checked.arguments is not None
    assert checked.arguments[next(iter(given_))] == made
    assert checked.problem is not None
    assert checked.problem.code == "coerced"


def test_a_strict_tool_refuses_what_must_be_converted() -> None:
    @tool(strict=True)
    def double(n: int, scale: float = 1.0) -> float:
        """Double."""
        return 2 * n * scale

    refused = double.check({"n": "3"})
    assert refused.arguments is None
    assert refused.problem is not None
    assert refused.problem.text == 'double: n must be an integer (got "3").'
    assert double.check({"n": 3, "scale": 2}).arguments == {"n": 3, "scale": 2.0}


def test_true_is_no_integer_as_it_stands() -> None:
    checked = search.check({"query": "a", "k": True})
    assert checked.problem is not None


@given(
    st.fixed_dictionaries(
        {"query": st.text(st.characters(exclude_categories=("Cs",)))},
        optional={
            "k": st.integers(-2, 12),
            "near": st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)),
            "deep": st.booleans(),
            "tags": st.one_of(st.none(), st.lists(st.text("ab"))),
            "mode": st.sampled_from(["fast", "exact", "slow"]),
            "code": st.text("ab", max_size=6),
        },
    )
)
def test_the_validator_accepts_exactly_what_the_schema_accepts(arguments: dict[str, Any]) -> None:
    good = (
        1 <= arguments.get("k", 1) <= 10
        and arguments.get("mode") != "slow"
        and len(arguments.get("code", "")) <= 4
    )
    checked = search.check(arguments)
    assert (checked.arguments is not None) == good
    if good:
        # a number is the float next to it, also where an integer has more digits than a float
        wanted = {k: float(v) if k == "near" else v for k, v in arguments.items()}
        assert checked.arguments == wanted
        assert checked.problem is None


def test_a_number_beyond_every_float_is_refused() -> None:
    checked = search.check({"query": "a", "near": 10**400})
    assert checked.problem is not None
    assert "near must be a number below 1.8e308 (got 1000" in checked.problem.text


def test_values_that_are_no_json_are_checked_too() -> None:
    assert search.check({"query": "a", "k": np.int64(3)}).arguments is not None
    assert search.check({"query": object()}).arguments is None
    assert search.check({"query": "a", "near": float("nan"), "k": "1"}).arguments is None


# running


def test_a_tool_runs_and_its_value_becomes_text() -> None:
    assert search.run({"query": "a"}, call_id="7") == ToolResult("7", "a/3", True, None, "a/3")
    assert search("a", k=2) == "a/2"


class Passage(NamedTuple):
    id: int
    text: str


@dataclass
class Hit:
    score: float
    passage: Passage


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "done"),
        (True, "true"),
        (0.5, "0.5"),
        ({"ä": [1, None]}, '{"ä": [1, null]}'),
        ([Passage(1, "a")], '[{"id": 1, "text": "a"}]'),
        (Hit(1.0, Passage(1, "a")), '{"score": 1.0, "passage": {"id": 1, "text": "a"}}'),
        (np.arange(2), "[0, 1]"),
        (Colour.RED, '"Colour.RED"'),
    ],
)
def test_values_are_shown_as_json(value: Any, text: str) -> None:
    assert search.answer("1", value).content == text


def test_a_tool_error_is_an_observation_and_any_other_propagates() -> None:
    @tool(raises=(KeyError,), price=0.5)
    def find(key: str) -> str:
        """Find."""
        if key == "tool":
            raise ToolError("submit is possible after one test.", code="not_now")
        return {"a": "b"}[key] if key != "bug" else str(1 // 0)

    early = find.run({"key": "tool"}, call_id="1")
    assert (early.ok, early.content) == (False, "submit is possible after one test.")
    assert early.problem is not None
    assert early.problem.code == "not_now"
    assert early.cost == 0.5
    assert find.run({"key": "c"}).content == "find: KeyError: 'c'"
    with pytest.raises(ZeroDivisionError):
        find.run({"key": "bug"})


def test_a_tool_may_make_its_own_result() -> None:
    @tool
    def slow() -> ToolResult:
        """Be slow."""
        return ToolResult("", "late", True, seconds=3.0)

    assert slow.run({}, call_id="9") == ToolResult("9", "late", True, seconds=3.0)


def test_methods_of_a_class_are_its_tools_and_subclasses_may_take_them_away() -> None:
    class Base:
        @tool
        def go(self, where: str) -> str:
            """Go."""
            return f"{self.home} {where}"

        @tool(name="look_around")
        def look(self) -> str:
            """Look."""
            return "dark"

        home = "from home"

    class Sub(Base):
        look = None  # pyright: ignore[reportAssignmentType]

        @tool
        def rest(self) -> str:
            """Rest."""
            return "rested"

    assert list(methods(Base)) == ["go", "look_around"]
    assert list(methods(Sub)) == ["go", "rest"]
    assert methods(Base)["go"].run({"where": "left"}, Base()).content == "from home left"
    assert Base().go("left") == "from home left"  # within the environment it is a method
    assert isinstance(Base.go, Tool)


def test_a_sandbox_tool_is_a_generator_of_work() -> None:
    @tool(resource="sandbox")
    def run(code: str) -> Generator[Any, Any, str]:
        """Run."""
        result = yield Job(code)
        return result

    steps = run.call({"code": "1"})
    assert next(steps) == Job("1")
    with pytest.raises(StopIteration) as stop:
        steps.send("out")
    assert stop.value.value == "out"


def test_a_sandbox_tool_that_yields_nothing_is_refused() -> None:
    def run(code: str) -> str:
        """Run."""
        return code

    with pytest.raises(SchemaError, match="write it as a generator"):
        tool(resource="sandbox")(run)
    with pytest.raises(SchemaError, match="give both or none"):
        tool(merge=lambda jobs: jobs[0])(run)


def test_a_session_call_calls_the_session() -> None:
    assert SessionCall("a b", "split", {"sep": " "}).run() == ["a", "b"]
    assert SessionCall([1], "copy").run() == [1]
    assert GradeCall("x = 1", None).candidate == "x = 1"


# the toolbox


def test_a_toolbox_offers_openai_schemas() -> None:
    entry = Toolbox(search).schemas()[0]
    assert entry["type"] == "function"
    assert entry["function"]["name"] == "search"
    assert entry["function"]["parameters"]["additionalProperties"] is False
    assert entry["function"]["parameters"]["properties"]["k"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 10,
        "description": "number of passages",
    }


def test_tools_can_be_restricted_renamed_and_joined() -> None:
    def other(a: int) -> int:
        """Other."""
        return a

    box = Toolbox(search, other).with_fault(Fault(latency=1.0), "other")
    assert list(box.restrict(["other"])) == ["other"]
    assert list(box.rename({"other": "same"})) == ["search", "same"]
    assert box.rename({"other": "same"}).faults == {"same": Fault(latency=1.0)}
    assert box.restrict(["search"]).faults == {}
    assert list(Toolbox(search) | Toolbox(other)) == ["search", "other"]
    with pytest.raises(KeyError, match="Did you mean 'other'"):
        box.restrict(["othr"])


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two tools are called search; rename one"):
        Toolbox(search, search)


def test_foreign_schemas_become_tools() -> None:
    seen: list[Any] = []

    def answer(name: str, arguments: Any) -> str:
        seen.append((name, arguments))
        return "ok"

    box = Toolbox.from_openai(Toolbox(search).schemas(), answer)
    assert box["search"].run({"query": "a", "k": 2}).content == "ok"
    assert seen == [("search", {"query": "a", "k": 2})]
    assert isinstance(box.validate(call("search", k="x")), Problem)


def test_a_toolbox_can_be_copied_and_pickled() -> None:
    box = pickle.loads(pickle.dumps(Toolbox.from_openai([{"name": "f"}], print)["f"].validator))
    assert box.check({}) == ({}, False, ())
    assert copy.deepcopy(search).check({"query": "a", "k": "2"}).arguments == {"query": "a", "k": 2}


# luck


def at(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def test_the_luck_of_a_call_depends_on_its_index_only() -> None:
    fault = Fault(latency=0.5, failure=0.3, timeout=0.2)
    forward = [fault.luck(at(1), k, "f", 9.0) for k in range(50)]
    stream = at(1)
    backward = [fault.luck(stream, k, "f", 9.0) for k in reversed(range(50))]
    assert forward == backward[::-1]
    assert stream.random() == at(1).random()


def test_luck_has_the_frequencies_that_were_asked_for() -> None:
    fault = Fault(latency=0.5, failure=0.3, timeout=0.2)
    lucks = [fault.luck(at(1), k, "f", 9.0) for k in range(2000)]
    codes = [luck.problem.code if luck.problem else "ok" for luck in lucks]
    assert abs(codes.count("unavailable") / 2000 - 0.3) < 0.05
    assert abs(codes.count("timeout") / 2000 - 0.2) < 0.05
    assert {luck.seconds for luck in lucks} == {0.5, 9.0}


def test_failures_come_in_bursts_when_asked() -> None:
    fault = Fault(failure=0.5, flaky="burst")
    bad = [fault.luck(at(2), k, "f", 9.0).problem is not None for k in range(400)]
    assert all(len(set(bad[i : i + 4])) == 1 for i in range(0, 400, 4))
    assert len(set(bad)) == 2


def test_a_latency_beyond_the_limit_is_a_timeout() -> None:
    class Slow:
        def sample(self, stream: np.random.Generator) -> float:
            return 20.0 + stream.random()

    luck = Fault(latency=Slow()).luck(at(0), 0, "run", 5.0)
    assert luck.seconds == 5.0
    assert luck.problem is not None
    assert luck.problem.text == "run stopped after 5 s (limit 5 s)."


@pytest.mark.parametrize(
    "options",
    [{"failure": 1.5}, {"failure": 0.6, "timeout": 0.6}, {"latency": -1.0}, {"flaky": "often"}],
)
def test_an_impossible_fault_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give"):
        Fault(**options)


# the schema of tasks


def test_a_task_schema_names_the_field_that_is_missing() -> None:
    schema = TaskSchema({"question": str, "answer": str}, {"level": int})
    assert schema.faults({"question": "a", "answer": "b", "more": 1}) == []
    assert schema.faults({"question": "a"}) == ["field 'answer' is missing (the row has: question)"]
    assert schema.faults({"question": "a", "answer": 4}) == [
        "field: answer must be a string (got 4)."
    ]
    assert schema.faults({"question": "a", "answer": "b", "level": "x"}) == [
        'field: level must be an integer (got "x").'
    ]


def test_plain_values_need_no_pydantic() -> None:
    code = (
        "import sys; from palaestra.envs.tools import tool\n"
        "@tool\n"
        "def f(a: int, b: str = ''):\n    pass\n"
        "assert f.check({'a': 1, 'b': 'x'}).problem is None\n"
        "sys.exit('pydantic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_record_becomes_a_dataclass() -> None:
    @tool
    def show(hit: Pair) -> str:
        """Show."""
        return f"{hit.left}"

    assert show.run({"hit": {"left": 1, "right": 2}}).content == "1"
    assert show.run({"hit": {"left": 1}}).content == "show: 'hit.right' is missing."
