"""A fresh interpreter, trusted and warm, of which every cell is a fork.

Started as a program: `python -s -P -S -B -X utf8 zygote.py FD`. It never runs guest code.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType


def _rooms() -> None:
    """Makes our files importable under their own names, without the package they come from."""
    here = os.path.dirname(os.path.abspath(__file__))
    for name, folder in (("tool_sandbox", os.path.dirname(here)), ("tool_sandbox.guest", here)):
        room = ModuleType(name)
        room.__path__ = [folder]
        sys.modules[name] = room


if __name__ == "__main__":
    _rooms()
    from importlib import import_module

    import_module("tool_sandbox.guest.nursery").main(sys.argv[1:])
