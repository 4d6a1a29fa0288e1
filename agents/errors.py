"""Everything this room raises."""

from __future__ import annotations


class AgentError(Exception):
    """The base: a mistake of the caller, never of the model."""


class ContextFull(AgentError):
    """A message was asked for where the context has no room left."""


class TemplateError(AgentError):
    """A chat template cannot be used as asked, for example because it rewrites history."""


class CapabilityError(AgentError):
    """A policy was asked for something that it does not give."""


class CheckpointError(AgentError):
    """A folder does not hold the weights that it should hold."""
