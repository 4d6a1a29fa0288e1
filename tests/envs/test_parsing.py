"""Text to calls: total, in linear time, and the inverse of rendering."""

from __future__ import annotations

import doctest
import json
import keyword
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from palaestra.envs import decoding, dialects, parsing, readers
from palaestra.envs.decoding import MalformedError, decode, mend
from palaestra.envs.messages import ToolCall, cut
from palaestra.envs.parsing import PARSERS, Form, Parsed, fenced, named, native, render

N = 100_000
BOTH = [*PARSERS.values(), *(PARSERS[n].repairing() for n in ("hermes", "json", "react"))]
FORMS = pytest.mark.parametrize("form", BOTH, ids=lambda f: f"{f.name}{'+' * f.repair}")

MARKS = (
    "<tool_call>", "</tool_call>", '{"name": "f", "arguments": {"a": 1}}', '{"name": ', "{", "}",
    "[", "]", '"', "\\", ",", ":", "Action: f\n", "Action Input: ", "Final Answer: ",
    "Observation:", "<f>", "</f>", "<a>", "</a>", "f(a=1)\n", "f(", ")", "'", "```python\n",
    "```", "\n", " ", "x", "é", "\ud800", "\\ud800", "\0", "-", "1", "null", "NaN", "1e999",
)  # fmt: skip
hostile = st.one_of(st.text(), st.lists(st.sampled_from(MARKS), max_size=30).map("".join))

names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda s: not keyword.iskeyword(s)
)
texts = st.one_of(st.text(st.characters(exclude_categories=("Cs",))), st.sampled_from(MARKS[:17]))
floats = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), floats, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)
wishes = st.lists(
    st.tuples(names, st.dictionaries(names, values, max_size=3)), min_size=1, max_size=4
)


def calls_of(pairs: Sequence[tuple[str, dict[str, Any]]]) -> list[ToolCall]:
    return [ToolCall("", name, arguments, (0, 0)) for name, arguments in pairs]


def check(text: str, parsed: Parsed, *, tiles: bool = True) -> None:
    """Spans are not empty, in order, inside the text; with the content they make up the text."""
    at = 0
    for call in parsed.calls:
        assert at <= call.span[0] < call.span[1] <= len(text)
        at = call.span[1]
        assert call.problem is None or (call.problem.code == "malformed" and not call.arguments)
    if tiles and parsed.calls:
        assert parsed.content == cut(text, [call.span for call in parsed.calls])


@pytest.mark.parametrize(
    "module", [parsing, decoding, dialects, readers], ids=lambda m: m.__name__.rpartition(".")[2]
)
def test_the_examples_in_the_docstrings_hold(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


# the three laws


@FORMS
@given(text=hostile)
@example(text="")
def test_any_text_is_read_and_spans_tile_it(form: Form, text: str) -> None:
    check(text, form(text))


HOSTILE = {
    "brackets": "[" * N,
    "braces": "{" * N,
    "objects": '{"a":' * (N // 5),
    "arrays in a call": "<tool_call>" + "[" * N,
    "openings": "<tool_call>" * (N // 11),
    "calls without an end": '<tool_call>{"name": "f"}x' * (N // 25),
    "open strings": '<tool_call>{"a":"' * (N // 16),
    "tags": "<a><b>" * (N // 6),
    "many tags": "".join(f"<a{i}><b{i}>" for i in range(N // 12)),
    "angles": "<" * N,
    "deep value": "<a><b>" + "[" * N + "</b></a>",
    "open calls": "f(\n" * (N // 3),
    "deep python": "f(a=" + "[" * N + "]" * N + ")",
    "signs": "f(a=" + "-" * N + "1)",
    "nots": "f(a=" + "not " * (N // 4) + "1)",
    "actions": "Action: a\nAction Input: {\n" * (N // 26),
    "fences": "```\n" * (N // 4),
    "ticks": "`" * N,
    "nulls": "\0" * N,
    "quotes": '"' * N,
    "names": '{"name": "a", ' * (N // 14),
    "long number": '{"name": "f", "arguments": {"a": ' + "9" * N + "}}",
    "surrogates": "\ud800" * N,
    "blanks": " \n" * (N // 2),
}


@pytest.mark.parametrize("kind", HOSTILE)
@FORMS
def test_enormous_and_deep_text_is_read(form: Form, kind: str) -> None:
    text = HOSTILE[kind]
    check(text, form(text))


@pytest.mark.parametrize("name", ["hermes", "json", "react", "xml", "python"])
@given(pairs=wishes)
def test_rendered_calls_come_back(name: str, pairs: list[tuple[str, dict[str, Any]]]) -> None:
    form = PARSERS[name]
    text = form.render(calls_of(pairs))
    parsed = form(text)
    assert [(call.name, call.arguments) for call in parsed.calls] == pairs
    assert all(call.problem is None for call in parsed.calls)
    assert parsed.content.strip() == ""
    assert form(form.render(parsed.calls)) == parsed
    check(text, parsed)


@given(pairs=wishes)
def test_auto_reads_what_any_form_renders(pairs: list[tuple[str, dict[str, Any]]]) -> None:
    assert [(c.name, c.arguments) for c in parsing.auto(render(calls_of(pairs))).calls] == pairs


@given(codes=st.lists(st.text("ab`\n ~#é"), min_size=1, max_size=3))
def test_fenced_code_comes_back(codes: list[str]) -> None:
    form = fenced("python")
    text = form.render([ToolCall("", "run", {"code": code}, (0, 0)) for code in codes])
    parsed = form(text)
    assert [(call.name, call.arguments) for call in parsed.calls] == [
        ("run", {"code": code}) for code in codes
    ]
    check(text, parsed)


# hermes


def one(parsed: Parsed) -> ToolCall:
    assert len(parsed.calls) == 1
    return parsed.calls[0]


def good(parsed: Parsed) -> tuple[str, Any]:
    call = one(parsed)
    assert call.problem is None
    return call.name, call.arguments


def told(parsed: Parsed) -> str:
    call = one(parsed)
    assert call.problem is not None
    return call.problem.text


def test_text_around_calls_is_content() -> None:
    row = '{"name": "f", "arguments": {"a": "</tool_call>"}}'
    text = f"First <tool_call>\n{row}\n</tool_call> then."
    parsed = parsing.hermes(text)
    assert good(parsed) == ("f", {"a": "</tool_call>"})
    assert parsed.content == "First  then."


def test_a_message_without_calls_is_all_content() -> None:
    assert parsing.hermes("Just words.") == Parsed("Just words.")


@pytest.mark.parametrize(
    "row",
    [
        '{"name": "f", "arguments": {"a": 1}}',
        '{"tool": "f", "args": {"a": 1}}',
        '{"function": "f", "parameters": {"a": 1}}',
        '{"name": "f", "arguments": "{\\"a\\": 1}"}',
        '{"type": "function", "function": {"name": "f", "arguments": "{\\"a\\": 1}"}}',
    ],
)
@pytest.mark.parametrize("form", [parsing.hermes, parsing.json], ids=["hermes", "json"])
def test_the_names_that_models_give_the_keys_are_known(form: Form, row: str) -> None:
    text = f"<tool_call>{row}</tool_call>" if form.name == "hermes" else row
    assert good(form(text)) == ("f", {"a": 1})


def test_arguments_may_be_left_out_between_tags() -> None:
    assert good(parsing.hermes('<tool_call>{"name": "submit"}</tool_call>')) == ("submit", {})


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"name": "f" "arguments": {}}', "Not valid JSON at character 25: expected ','."),
        ("{'name': 'f'}", "Not valid JSON at character 13: expected a name in double quotes."),
        ("", "Not valid JSON at character 12: expected a value."),
        ('{"name": "f", "arguments": {"a": NaN}}', "NaN is no JSON value."),
        ('{"name": "f", "arguments": {"a": 1e999}}', "the number 1e999 is too large."),
        ('{"name": "a\nb"}', "a string holds a line break or control character, write \\n."),
        ('{"name": "\\ud800"}', "a string holds half of a surrogate pair."),
        ('{"name": "f", "arguments": [1]}', "Its 'arguments' are a list, not an object."),
        ('{"name": "f", "arguments": "x"}', "Its 'arguments' are no JSON object"),
        ('{"arguments": {}}', "The call has no 'name'."),
        ('"f"', "A string is no call."),
        ('{"name": "f"} more', "expected '</tool_call>'."),
    ],
)
def test_a_call_that_is_no_json_is_told_where_and_what(body: str, text: str) -> None:
    problem = told(parsing.hermes(f"<tool_call>{body}</tool_call>"))
    assert text in problem
    assert problem.endswith('{"name": …, "arguments": {…}}.') or "Send <tool_call>" in problem


def test_a_bad_call_does_not_swallow_the_next_one() -> None:
    text = '<tool_call>{"name": <tool_call>{"name": "g", "arguments": {}}</tool_call> end'
    parsed = parsing.hermes(text)
    assert [call.name for call in parsed.calls] == ["", "g"]
    assert parsed.content == " end"


def test_nesting_has_a_limit_that_depends_on_nothing_else() -> None:
    for depth, fine in ((99, True), (101, False)):
        text = "[" * depth + "]" * depth
        if fine:
            assert decode(text)[1] == len(text)
        else:
            with pytest.raises(MalformedError, match="nested deeper than 100"):
                decode(text)
    with pytest.raises(MalformedError, match="nested deeper than 100"):
        decode("[" * 99 + '{"a": "' + "]" * 200 + '", "b": [[')


@given(values, st.text(max_size=40))
def test_a_long_text_decodes_like_a_short_one(value: Any, tail: str) -> None:
    text = json.dumps(value, ensure_ascii=False)
    behind = " ," + tail + "x" * 5000
    assert decode(text + behind) == (value, len(text))
    assert decode(" " * 5000 + text + behind)[0] == value


@given(st.text("ab", max_size=3), st.integers(980, 1060))
def test_a_window_that_cuts_a_value_grows(text: str, size: int) -> None:
    for value in (["y" * size, text], [" " * size, -1.25e-7, True, None, "é"], {"k" * size: [1]}):
        written = json.dumps(value)
        assert decode(written + " " * 9000) == (value, len(written))


@given(hostile)
@example('<tool_call>{"name": "f", "arguments": {}}</tool_call> and')
@example('<tool_call>{"name": "f", "arguments": {}, "id": 1}</tool_call>')
@example('<tool_call>{"name": "", "arguments": {}}</tool_call>')
@example('<tool_call>[1]</tool_call><tool_call>"f"</tool_call>')
def test_the_short_way_reads_what_the_long_way_reads(text: str) -> None:
    long = replace(parsing.hermes, quick=None)
    assert parsing.hermes(text) == long(text)


# repair


@pytest.mark.parametrize(
    ("cut_", "arguments"),
    [
        ('{"name": "f", "arguments": {"a": "b', {"a": "b"}),
        ('{"name": "f", "arguments": {"a": [1, 2', {"a": [1, 2]}),
        ('{"name": "f", "arguments": {"a": [1, ', {"a": [1]}),
        ('{"name": "f", "arguments": {"a": "b\\', {"a": "b"}),
        ('{"name": "f", "arguments": {"a":', {"a": None}),
        ('{"name": "f", "arguments": {"a": "x\ny"}}', {"a": "x\ny"}),
    ],
)
@pytest.mark.parametrize("close", ["", "</tool_call>"])
def test_repair_closes_what_is_open_and_counts_it(
    cut_: str, arguments: dict[str, Any], close: str
) -> None:
    text = f"<tool_call>{cut_}{close}"
    assert one(parsing.hermes(text)).problem is not None
    parsed = parsing.hermes.repairing()(text)
    assert good(parsed) == ("f", arguments)
    assert [problem.code for problem in parsed.problems] == ["repaired"]
    check(text, parsed)


def test_a_missing_closing_tag_is_repaired() -> None:
    text = '<tool_call>{"name": "f", "arguments": {}}'
    assert "expected '</tool_call>'" in told(parsing.hermes(text))
    assert good(parsing.hermes.repairing()(text)) == ("f", {})


def test_a_good_call_is_not_repaired() -> None:
    text = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    assert parsing.hermes.repairing()(text) == parsing.hermes(text)


@given(hostile)
def test_mending_is_total_and_leaves_whole_values_alone(text: str) -> None:
    mend(text)
    assert mend('{"a": [1, "]"]} rest') == '{"a": [1, "]"]}'
    assert mend("[1}") is None


# json


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ('I will call {"name": "f", "arguments": {"a": 1}} now.', "I will call  now."),
        ('Look:\n```json\n{"name": "f", "arguments": {"a": 1}}\n```\nDone.', "Look:\n\nDone."),
        ('{"name": "g", "arguments": {}} {"name": "f", "arguments": {"a": 1}}', None),
        ('{"x": 1} {"name": "f", "arguments": {"a": 1}} {"y": [2]} {z}', None),
    ],
)
def test_the_last_object_that_is_a_call_counts(text: str, content: str | None) -> None:
    parsed = parsing.json(text)
    assert good(parsed) == ("f", {"a": 1})
    check(text, parsed)
    assert content is None or parsed.content == content


def test_an_array_holds_several_calls_with_their_own_spans() -> None:
    text = 'Go: [{"name": "f", "arguments": {}}, {"name": "g", "arguments": {"a": 1}}]'
    parsed = parsing.json(text)
    assert [call.name for call in parsed.calls] == ["f", "g"]
    assert text[slice(*parsed.calls[1].span)] == ', {"name": "g", "arguments": {"a": 1}}]'
    assert parsed.content == "Go: "


@pytest.mark.parametrize(
    "text",
    ['{"name": "Bob"}', "[]", "[{}]", "[1, 2]", "a {set} of [brackets]", '{"answer": 4}', "42"],
)
def test_other_json_is_an_answer(text: str) -> None:
    assert parsing.json(text) == Parsed(text)


def test_an_object_that_looks_like_a_call_and_breaks_off_is_told() -> None:
    assert "expected ','" in told(parsing.json('{"name": "f", "arguments": {"a": 1 2}}'))
    assert good(parsing.json.repairing()('{"name": "f", "arguments": {"a": 1')) == ("f", {"a": 1})


# react


def test_an_action_and_its_input_are_a_call() -> None:
    text = 'Thought: hm\nAction: search\nAction Input: {"query": "a"}\nObservation: I made this up'
    parsed = parsing.react(text)
    assert good(parsed) == ("search", {"query": "a"})
    assert parsed.content == "Thought: hm\n\nObservation: I made this up"


def test_what_a_model_makes_up_behind_an_observation_is_not_run() -> None:
    text = "Action: f\nAction Input: {}\nObservation: 1\nAction: g\nAction Input: {}"
    assert good(parsing.react(text)) == ("f", {})


def test_the_final_answer_is_the_content() -> None:
    assert parsing.react("Thought: easy\nFinal Answer: 42\n") == Parsed("42")


def test_an_action_without_input_has_no_arguments() -> None:
    assert good(parsing.react("Action: `submit`\nDone.")) == ("submit", {})


def test_an_input_that_is_no_object_is_told() -> None:
    problem = told(parsing.react("Action: f\nAction Input: [1]"))
    assert problem == (
        "Not valid JSON at character 25: expected an object {…}. "
        "Send Action: f\\nAction Input: {…}."
    )
    assert good(parsing.react.repairing()('Action: f\nAction Input: {"a": "b')) == ("f", {"a": "b"})


# tags


def test_tags_are_calls_and_values_are_json_where_they_can_be() -> None:
    text = "Now <write><path>a.py</path><text>if a < b:\n  x</text><n>3</n></write>!"
    parsed = parsing.xml(text)
    assert good(parsed) == ("write", {"path": "a.py", "text": "if a < b:\n  x", "n": 3})
    assert parsed.content == "Now !"


@pytest.mark.parametrize("text", ["<b>bold</b>", "a < b > c", "<br><hr>", "<p><i>x</p>", "</f>"])
def test_other_tags_are_content(text: str) -> None:
    assert parsing.xml(text) == Parsed(text)


def test_an_empty_tag_is_a_call_without_arguments() -> None:
    assert good(parsing.xml("<submit>\n</submit>")) == ("submit", {})


def test_a_tag_that_is_not_closed_behind_its_arguments_is_told() -> None:
    assert "<f> at character 1 is not closed" in told(parsing.xml("<f><a>1</a> and"))


# Python


def test_lines_of_python_are_calls() -> None:
    text = 'I do:\nf(a=1, b=[-2.5, None, True], c={"k": (1, "é")})\nshop.buy(\n  item="x"\n);\nok'
    parsed = parsing.python(text)
    assert [(call.name, call.arguments) for call in parsed.calls] == [
        ("f", {"a": 1, "b": [-2.5, None, True], "c": {"k": [1, "é"]}}),
        ("shop.buy", {"item": "x"}),
    ]
    check(text, parsed)


def test_a_list_of_calls_has_spans_of_its_own() -> None:
    text = '[f(a="é, (", b=1), g(), h(x="""y"""),]'
    parsed = parsing.python(text)
    assert [call.name for call in parsed.calls] == ["f", "g", "h"]
    assert text[slice(*parsed.calls[1].span)] == " g(),"
    check(text, parsed)


@pytest.mark.parametrize(
    "text", ["f(a=1) is a call", "See f(a=1)", "(a)", "[1, 2]", "f", "3 + (4)"]
)
def test_other_lines_are_content(text: str) -> None:
    assert parsing.python(text) == Parsed(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("f(1)", "give each argument by its name"),
        ("f(a=g())", "a value is no literal"),
        ("f(a=x)", "a value is no literal"),
        ("f(a=b'x')", "a value is no literal"),
        ("f(a=1e999)", "a value is no literal"),
        ("f(a={1: 2})", "a value is no literal"),
        ("f(a=-True)", "a value is no literal"),
        ("f(a={1, 2})", "a value is no literal"),
        ("f(**a)", r"** is no argument"),
        ("f(a=1", "Not a call at character 1"),
        ("f(a='\\ud800')", "half of a surrogate pair"),
        ("f(a='\\q' 1)", "Not a call"),
    ],
)
def test_python_that_is_no_call_with_literals_is_told(text: str, words: str) -> None:
    assert words in told(parsing.python(text))


def test_an_unknown_escape_is_no_warning() -> None:
    assert good(parsing.python(r"f(a='\d')")) == ("f", {"a": r"\d"})


# fenced code


def test_only_blocks_of_the_language_are_calls() -> None:
    text = "```text\na\n```\n```py\nb\n```\nand\n~~~\n```\nc\n\n```\n"
    parsed = fenced("python")(text)
    assert [call.arguments for call in parsed.calls] == [{"code": "b"}, {"code": "c\n"}]
    assert fenced("sql", tool="query", argument="text")("```sql\nx\n```").calls[0].name == "query"
    check(text, parsed)


def test_a_block_that_is_not_closed_is_told_or_repaired() -> None:
    text = "```python\nprint(1)"
    assert told(fenced()(text)) == "The code block is not closed. End it with ```."
    assert good(fenced().repairing()(text)) == ("run", {"code": "print(1)"})


# a model's own template


def respond(text: str) -> dict[str, Any]:
    nothing: dict[str, Any] = {}
    calls = [{"function": {"name": n, "arguments": nothing}} for n in text.split("|")[1:]]
    return {"content": text.split("|")[0], "tool_calls": calls}


def test_a_models_own_template_is_a_callable() -> None:
    parsed = native(respond)("say|f|g")
    assert [call.name for call in parsed.calls] == ["f", "g"]
    assert parsed.content == "say"
    check("say|f|g", parsed, tiles=False)
    assert native(respond)("say") == Parsed("say")


@given(hostile)
def test_a_template_that_raises_or_lies_is_a_malformed_call(text: str) -> None:
    def fail(text: str) -> dict[str, Any]:
        raise RuntimeError(text)

    def lie(text: str) -> dict[str, Any]:
        return {"tool_calls": [{"function": {"name": "f", "arguments": [1]}}, 7, {}] * 2}

    check(text, native(fail)(text), tiles=False)
    check(text, native(lie)(text), tiles=False)
    check(text, native(respond)(text), tiles=False)
    if text:
        assert "RuntimeError" in told(native(fail)(text))


# auto and names


@pytest.mark.parametrize("name", ["hermes", "json", "react", "xml", "python"])
def test_auto_finds_the_form(name: str) -> None:
    text = PARSERS[name].render([ToolCall("", "f", {"a": 1}, (0, 0))])
    assert good(parsing.auto(text)) == ("f", {"a": 1})


def test_auto_prefers_a_good_call_to_a_broken_one() -> None:
    text = '<tool_call>oops</tool_call>\n{"name": "f", "arguments": {}}'
    assert good(parsing.auto(text)) == ("f", {})
    assert "expected a value" in told(parsing.auto("<tool_call>oops</tool_call>"))
    assert parsing.auto("Final Answer: 4").content == "4"
    assert parsing.auto("nothing") == Parsed("nothing")


def test_a_parser_is_named_in_a_configuration() -> None:
    assert named("xml") is parsing.xml
    assert named("hermes+repair") == parsing.hermes.repairing()
    with pytest.raises(ValueError, match="parser 'hermse' is unknown; did you mean 'hermes'"):
        named("hermse")
    with pytest.raises(ValueError, match="unknown"):
        named("json+mend")


def test_rendering_takes_the_parsers_own_form_or_hermes() -> None:
    call = ToolCall("", "f", {}, (0, 0))
    assert render([call], parsing.python) == "f()"
    assert render([call], lambda text: Parsed(text)).startswith("<tool_call>")
