"""Helpers for users' own tests."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attacks import check_sandbox
    from .conformance import Report, check_environment
    from .fakes import FakeSandbox

_WHERE = {
    "Report": "conformance",
    "check_environment": "conformance",
    "check_sandbox": "attacks",
    "FakeSandbox": "fakes",
}

__all__ = ["FakeSandbox", "Report", "check_environment", "check_sandbox"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
