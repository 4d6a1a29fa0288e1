"""Transcripts for human eyes."""

from typing import Any

import gymnasium
import pytest


def played(echo: Any, say: Any, mode: str | None) -> Any:
    env = echo(render_mode=mode)
    env.reset(seed=1)
    env.step("<think>a plan</think>" + say("echo", '{"text": "<b>hi</b>"}'))
    env.step("done")
    return env


def test_ansi_shows_roles_thinking_calls_terms_and_the_end(echo: Any, say: Any) -> None:
    text = played(echo, say, "ansi").render()
    assert text.startswith("[user] Say")
    assert "[assistant, thinking] a plan" in text
    assert "[tool c0] <b>hi</b>" in text
    assert "said +0.1, success +1" in text
    assert text.endswith("ended: answered, success True")


def test_human_prints_each_message_once(
    echo: Any, say: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    env = played(echo, say, "human")
    printed = capsys.readouterr().out
    assert printed.count("done") == 1
    assert printed.count("a plan") == 1
    assert env.render() is None
    env.reset(seed=1)
    assert "Say" in capsys.readouterr().out


def test_without_a_mode_gymnasium_warns(echo: Any, say: Any) -> None:
    with pytest.warns(UserWarning, match="without a render mode"):
        assert played(echo, say, None).render() is None


def test_html_is_escaped_and_folds_thinking(echo: Any, say: Any) -> None:
    page = played(echo, say, None).to_html()
    assert "&lt;b&gt;hi&lt;/b&gt;" in page
    assert "<details><summary>thinking</summary>a plan</details>" in page


def test_views_render_the_same_transcript() -> None:
    env = gymnasium.make("palaestra/Compare-v0", view="tool", render_mode="ansi")
    env.reset(seed=1)
    assert str(env.render()).startswith("[user] I think of a number")
