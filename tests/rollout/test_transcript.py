"""Transcripts: every message, and each term behind the call that earned it."""

from __future__ import annotations

from palaestra.rollout.trajectory import Trajectory
from palaestra.rollout.transcript import render


def test_a_transcript_shows_messages_terms_and_the_end(played: list[Trajectory]) -> None:
    for one in played:
        text = render(one)
        assert text.count("\n   agent  ") == one.turns
        assert text.splitlines()[-1].startswith(str(one.outcome.reason))
        for term in one.terms():
            assert term in text


def test_long_messages_are_cut_and_the_rest_is_counted(played: list[Trajectory]) -> None:
    assert "characters more]" in render(played[0], width=5)
