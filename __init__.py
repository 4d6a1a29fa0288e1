"""Palaestra: environments, agents and algorithms for language-model agents."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .envs.core import Env as Env
    from .envs.registry import make as make
    from .envs.registry import register as register

# Public name -> module that holds it; imported when asked for, so that `import palaestra` is light.
_WHERE = {
    "Env": "envs.core",
    "make": "envs.registry",
    "register": "envs.registry",
}

__all__ = ["Env", "__version__", "make", "register"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module 'palaestra' has no attribute {name!r}")


def _register() -> None:
    from .envs.registry import register_builtins

    register_builtins()


_register()
