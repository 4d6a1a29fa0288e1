"""What a call changes in its arguments, brought back into the lists and dicts of the tests.

The candidate gets copies. Both sides number the containers in the arguments of a question in one
walk, so that the candidate can answer with all of them in that order once one is not what it was,
or once the answer holds one: the tests then find the change, and their own objects in the answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from .. import values

SAME = -1  # among the changes that an answer tells of: where the argument is that was returned
CHANGED = -2  # and all containers of the arguments
# What can have a container among its parts.
_HOLDING: frozenset[object] = frozenset((*values.MUTABLE, tuple))


def given(verb: str, rest: Any) -> tuple[Any, ...]:
    """What a question hands over: the arguments of a call, or operands."""
    return (*rest[0], *rest[1].values()) if verb == "call" else tuple(rest)


def containers(things: tuple[object, ...]) -> list[Any]:
    """Lists, dicts and the like in arguments, each once; both sides find them in one order."""
    found: list[Any] = []
    known: set[int] = set()
    left: list[Any] = list(reversed(things))
    while left:
        thing = left.pop()
        kind = cast("object", type(thing))
        if kind not in _HOLDING or id(thing) in known:
            continue
        known.add(id(thing))
        if kind is not tuple:
            found.append(thing)
        if kind is not set:  # whose members cannot change
            parts = _parts(thing)
            if not _flat(parts):
                left += reversed([*parts])
    return found


def _parts(thing: Any) -> Any:
    mapping = isinstance(thing, dict)
    return cast("Any", thing).values() if mapping else thing


def _flat(parts: Iterable[object]) -> bool:
    """Whether no container is among the parts; long rows of numbers are common."""
    return _HOLDING.isdisjoint(map(type, parts))


class Watched:
    """At the candidate's: the containers in the arguments of a question, and what they were."""

    def __init__(self, verb: str, rest: list[Any]) -> None:
        """Looks before the question is answered."""
        self.things = given(verb, rest)
        self.held: list[Any] = [] if _flat(self.things) else containers(self.things)
        self.before = self._image() if self.held else None

    def _image(self) -> bytes | None:
        try:
            return values.encode(self.held, handle=id)
        except values.NotPlain:
            return None

    def changes(self, found: object = None) -> dict[int, object]:
        """What the tests have to bring up to date; and whether an argument itself was returned."""
        told: dict[int, object] = {}
        for place, thing in enumerate(self.things):
            if thing is found and found is not None:
                told[SAME] = place
        if self.held and (self._handed(found) or self._changed()):
            told[CHANGED] = self.held
        return told

    def _handed(self, found: object) -> bool:
        own = set(map(id, self.held))
        return any(id(inner) in own for inner in containers((found,)))

    def _changed(self) -> bool:
        after = self._image()
        return after is None or after != self.before


def bring(
    verb: str, rest: tuple[Any, ...], answer: Any, changes: dict[Any, Any]
) -> tuple[Any, bool]:
    """At the judge's: brings the arguments up to date, in place.

    Returns:
        The answer, with the tests' own containers where it holds those; and whether the changes
        are such as our server tells of.
    """
    if not changes:
        return answer, True
    things = given(verb, rest)
    same, new = changes.get(SAME), changes.get(CHANGED)
    if new is not None:
        old, came = containers(things), cast("list[Any]", new)
        if type(new) is not list or [type(one) for one in came] != [type(one) for one in old]:
            return answer, False
        answer = _Placing(old, came).of(answer)
    if type(same) is int and 0 <= same < len(things):
        answer = things[same]
    return answer, True


class _Placing:
    """Puts what came back into the tests' own containers."""

    def __init__(self, old: list[Any], new: list[Any]) -> None:
        self.own = {id(one): mine for one, mine in zip(new, old, strict=True)}
        self.done: set[int] = set()
        self.kept = list(new)  # lest an id be given anew
        for one, mine in zip(new, old, strict=True):
            self.fill(mine, one)

    def of(self, thing: Any) -> Any:
        """A value that came, with the tests' own containers where it holds those."""
        if id(thing) in self.own:
            return self.own[id(thing)]
        if type(thing) is tuple:
            whole = cast("tuple[object, ...]", thing)
            parts = tuple(map(self.of, whole))
            return parts if any(a is not b for a, b in zip(parts, whole, strict=True)) else whole
        if type(thing) in values.MUTABLE and id(thing) not in self.done:
            self.done.add(id(thing))
            self.kept.append(thing)
            if not _flat(_parts(thing)):
                self.fill(thing, thing)
        return thing

    def fill(self, into: Any, source: Any) -> None:
        """Makes one container hold what another does."""
        each = _unchanged if _flat(_parts(source)) else self.of
        if isinstance(source, dict):
            pairs = [(key, each(value)) for key, value in cast("Any", source).items()]
            into.clear()
            for key, value in pairs:  # not by `update`: a Counter's adds
                into[key] = value
        elif isinstance(source, set):
            members = list(cast("Any", source))
            into.clear()
            into.update(members)
        else:
            parts = [each(part) for part in source]
            into.clear()
            into.extend(parts)


def _unchanged(thing: Any) -> Any:
    return thing
