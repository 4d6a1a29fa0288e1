"""Who acts. Policies, and agents built from them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .chat import Chat
    from .core import Action, Agent, Ask, Decoding, Key, Policy, Seat, View, drive
    from .errors import (
        AgentError,
        CapabilityError,
        CheckpointError,
        ContextFull,
        TemplateError,
    )
    from .heads import Head
    from .language_model import LanguageModel
    from .rows import Part, Rows, Scores, Transform, Want
    from .sampling import Sampler
    from .scripted import (
        Echo,
        Human,
        RandomAgent,
        RandomPolicy,
        Reference,
        Replayed,
        Scripted,
        Trivial,
    )
    from .shield import Forbid, Grammar, Shield, shield_for
    from .solo import Solo
    from .templates import DrillTemplate, PlainTemplate, Template
    from .tiny import Tiny

# scripted agents start without torch: a name is imported when it is asked for
_WHERE = {
    "chat": ("Chat",),
    "core": ("Action", "Agent", "Ask", "Decoding", "Key", "Policy", "Seat", "View", "drive"),
    "errors": (
        "AgentError",
        "CapabilityError",
        "CheckpointError",
        "ContextFull",
        "TemplateError",
    ),
    "heads": ("Head",),
    "language_model": ("LanguageModel",),
    "rows": ("Part", "Rows", "Scores", "Transform", "Want"),
    "sampling": ("Sampler",),
    "scripted": (
        "Echo",
        "Human",
        "RandomAgent",
        "RandomPolicy",
        "Reference",
        "Replayed",
        "Scripted",
        "Trivial",
    ),
    "shield": ("Forbid", "Grammar", "Shield", "shield_for"),
    "solo": ("Solo",),
    "templates": ("DrillTemplate", "PlainTemplate", "Template"),
    "tiny": ("Tiny",),
}
_MODULES = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "Action",
    "Agent",
    "AgentError",
    "Ask",
    "CapabilityError",
    "Chat",
    "CheckpointError",
    "ContextFull",
    "Decoding",
    "DrillTemplate",
    "Echo",
    "Forbid",
    "Grammar",
    "Head",
    "Human",
    "Key",
    "LanguageModel",
    "Part",
    "PlainTemplate",
    "Policy",
    "RandomAgent",
    "RandomPolicy",
    "Reference",
    "Replayed",
    "Rows",
    "Sampler",
    "Scores",
    "Scripted",
    "Seat",
    "Shield",
    "Solo",
    "Template",
    "TemplateError",
    "Tiny",
    "Transform",
    "Trivial",
    "View",
    "Want",
    "drive",
    "shield_for",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module 'palaestra.agents' has no attribute {name!r}")
