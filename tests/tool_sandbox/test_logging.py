"""What a sandbox tells the log: little, once, and never what a guest wrote."""

from __future__ import annotations

import logging

import pytest
from palaestra.tool_sandbox import Isolation, Sandbox, backends

pytestmark = pytest.mark.linux


def test_a_module_that_cannot_be_preloaded_is_named_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_said", set[str]())  # another test may have said it
    for _ in range(2):
        with Sandbox("cell", preload=("json", "no_such_module"), workers=1) as sandbox:
            assert sandbox.execute("import json").ok
    (line,) = [one for one in caplog.messages if "preload" in one]
    assert "'no_such_module' could not be imported (ModuleNotFoundError" in line
    assert "leave it out" in line


def test_an_absent_layer_is_told_once_a_process(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_said", set[str]())
    weak = Isolation("cell", "full", ("user",), ("resource group",), "")
    for _ in range(3):
        backends._say(weak)  # pyright: ignore[reportPrivateUsage]
    assert caplog.messages == [
        "sandbox: cell, full; without resource group "
        '(memory is polled; see "palaestra sandbox doctor")'
    ]
    caplog.clear()
    backends._say(Isolation("cell", "full", ("user",), (), ""))  # pyright: ignore[reportPrivateUsage]
    assert caplog.messages == []


def test_executions_are_logged_by_their_number_and_never_by_their_code(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with Sandbox("cell", workers=1) as sandbox:
        sandbox.execute("secret_name = 1")
        sandbox.execute("raise KeyError('secret_name')")
        with sandbox.session() as session:
            session.execute("secret_name = 2")
    lines = [one for one in caplog.messages if one.startswith("execution")]
    assert [line.partition(",")[0] for line in lines] == [
        "execution 1: ok",
        "execution 2: error",
        "execution 3: ok",
    ]
    assert "secret_name" not in caplog.text
