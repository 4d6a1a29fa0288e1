"""Who lives in which row of the arena: sessions that outlast a turn, prefixes that are shared."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .arena import Arena
from .rows import Ints, Longs

SHARED = 32  # shortest prefix worth copying instead of computing
MEMORY = 0.25  # share of the free memory that the arena may take


class Slot:
    """Keys and values of the beginning of one context; a `Session`."""

    def __init__(self, house: House) -> None:
        self._house: House | None = house
        self.row = -1  # row of the arena; -1: not resident
        self.ids: Ints = np.zeros(0, np.int32)  # what is cached
        self.version = -1
        self.used = 0  # when it last drew: the longest unused is dropped first
        self.origin: Slot | None = None  # whom it was forked from, until it has a row

    @property
    def length(self) -> int:
        """Tokens it holds."""
        return len(self.ids) if self.row >= 0 else 0

    def fork(self) -> Slot:
        """Another session that begins like this one; the copy is made when it draws."""
        assert self._house is not None
        other = Slot(self._house)
        other.origin = self
        return other

    def close(self) -> None:
        """Give the row back."""
        if self._house is not None and self.row >= 0:
            self._house.release(self)

    def belongs(self, house: House) -> bool:
        """Whether its row is in this house."""
        return self._house is house

    def __del__(self) -> None:
        self.close()


@dataclass(slots=True, eq=False)
class Guest:
    """One context that wants to draw."""

    prompt: Ints
    slot: Slot
    cached: int = 0  # tokens of the prompt that need no forward
    parent: Guest | None = None  # of the same batch: its first `cached` tokens are copied
    source: int = -1  # or a resident row they are copied from
    row: int = field(default=-1)


class House:
    """The arena and its sessions. Rows `[0, active)` draw; the rest keep what they know."""

    def __init__(self, arena: Arena, limit: int | None, stale: str) -> None:
        self.arena, self._limit, self.stale = arena, limit, stale
        self.active = 0
        self._tenants: list[weakref.ref[Slot] | None] = [None] * arena.rows
        self._prefixes: dict[bytes, weakref.ref[Slot]] = {}
        self._clock = 0

    def resident(self, row: int) -> Slot | None:
        """Who has the row."""
        ref = self._tenants[row]
        return None if ref is None else ref()

    def release(self, slot: Slot) -> None:
        """Free a slot's row."""
        if slot.row < len(self._tenants):
            self._tenants[slot.row] = None
        slot.row = -1

    def clear(self) -> None:
        """Drop every session that does not draw."""
        for row in range(self.active, len(self._tenants)):
            slot = self.resident(row)
            if slot is not None:
                self.release(slot)
        self._prefixes.clear()

    def guest(self, prompt: Ints, slot: Slot | None, version: int) -> Guest:
        """A guest with what is cached of its prompt: its own session, or a longer-lived prefix."""
        if slot is None or not slot.belongs(self):
            slot = Slot(self)
        fresh = slot.version == version or self.stale == "keep"
        if slot.row >= 0 and fresh:
            return Guest(prompt, slot, cached=_common(slot.ids, prompt))
        guest = Guest(prompt, slot)
        if slot.row >= 0:
            self.release(slot)
        source = slot.origin
        if source is None or source.row < 0:
            ref = self._prefixes.get(_head(prompt)) if len(prompt) > SHARED else None
            source = None if ref is None else ref()
        slot.origin = None
        if source is not None and source.row >= 0 and source.version == version:
            shared = _common(source.ids, prompt)
            if shared >= min(SHARED, len(prompt) - 1):
                guest.cached, guest.source = shared, source.row
        return guest

    def admit(self, guests: list[Guest], version: int) -> tuple[list[Guest], list[Guest]]:
        """Give rows `active, active + 1, ...` to the guests.

        Returns:
            Two waves, in order of rows: the second's prefixes are computed by the first.
        """
        leaders: dict[bytes, Guest] = {}
        first: list[Guest] = []
        second: list[Guest] = []
        for guest in guests:
            long = len(guest.prompt) > SHARED and guest.slot.row < 0 and guest.source < 0
            leader = leaders.setdefault(_head(guest.prompt), guest) if long else guest
            if leader is guest:
                first.append(guest)
                continue
            guest.parent, guest.cached = leader, _common(leader.prompt, guest.prompt)
            second.append(guest)
        self._make_room(first, second)
        self._settle([*first, *second])
        for guest in [*first, *second]:
            guest.slot.version = version
            self._clock += 1
            guest.slot.used = self._clock
        return sorted(first, key=lambda g: g.row), second

    def _make_room(self, first: list[Guest], second: list[Guest]) -> None:
        batch = {id(g.slot) for g in (*first, *second)}
        idle = [
            slot
            for row in range(self.active, len(self._tenants))
            if (slot := self.resident(row)) is not None and id(slot) not in batch
        ]
        need = self.active + len(first) + len(second)
        longest = max(len(g.prompt) for g in (*first, *second)) + 1
        # evict what has not drawn for longest, never a row that somebody is about to copy
        sources = {g.source for g in first}
        spare = sorted((s for s in idle if s.row not in sources), key=lambda s: s.used)
        over = need + len(idle) - max(self._most(), need)
        for slot in spare[: max(0, over)]:
            self.release(slot)
            idle.remove(slot)
        self.grow(need + len(idle), longest)

    def grow(self, rows: int, places: int) -> None:
        """Make the arena at least so large."""
        if rows > self.arena.rows:
            rows = max(rows, min(2 * self.arena.rows, self._most()))
        self.arena.grow(rows, places)
        self._tenants += [None] * (self.arena.rows - len(self._tenants))

    def _most(self) -> int:
        """Rows that memory, or the caller, allows."""
        each = self.arena.bytes_a_row()
        if not each:
            return self._limit or 1
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        return max(self._limit or 1, self.arena.rows, int(MEMORY * free) // each)

    def _settle(self, order: list[Guest]) -> None:
        begin = self.active
        block = range(begin, begin + len(order))
        waves = sum(g.parent is None for g in order)
        stay = {g.slot.row for g in order[:waves] if begin <= g.slot.row < begin + waves}
        open_rows = [row for row in block if row not in stay]
        moves: dict[int, int] = {}  # target <- source
        newcomers = [g for g in order if g.slot.row not in stay]
        inside = {id(g.slot) for g in order}
        vacated: list[int] = []
        for guest, row in zip(newcomers, open_rows, strict=True):
            if guest.slot.row >= 0:
                moves[row] = guest.slot.row
                if guest.slot.row not in block:
                    vacated.append(guest.slot.row)
            elif guest.source >= 0:
                moves[row] = guest.source
        displaced = [
            slot
            for row in open_rows
            if (slot := self.resident(row)) is not None and id(slot) not in inside
        ]
        free = [row for row in range(block.stop, len(self._tenants)) if self.resident(row) is None]
        homes = iter([*vacated, *free])
        for slot in displaced:
            moves[next(homes)] = slot.row
        rehomed = {source: target for target, source in moves.items() if target >= block.stop}
        places = max([len(s.ids) for s in displaced] + [g.cached for g in newcomers] + [0])
        self.arena.move(list(moves), list(moves.values()), places)
        for row in {*open_rows, *vacated}:
            self._tenants[row] = None
        for slot in displaced:
            self._seat(slot, rehomed[slot.row])
        for guest, row in zip(newcomers, open_rows, strict=True):
            self._seat(guest.slot, row)
        for guest in order:
            guest.row = guest.slot.row
        self.active += len(order)

    def _seat(self, slot: Slot, row: int) -> None:
        slot.row = row
        self._tenants[row] = weakref.ref(slot)

    def copy_prefixes(self, guests: Sequence[Guest]) -> None:
        """Copy to the second wave what the first has computed."""
        pairs = [(g.row, g.parent.row, g.cached) for g in guests if g.parent is not None]
        if pairs:
            rows, sources, counts = zip(*pairs, strict=True)
            self.arena.move(rows, sources, max(counts))

    def leave(self, rows: Longs, prompts: Sequence[Ints]) -> tuple[list[int], list[int]]:
        """Rows stop drawing; the others close up.

        Args:
            rows: of those who are done, ascending.
            prompts: what is now cached in each of them.

        Returns:
            Targets and sources of the rows that moved, for whoever keeps columns by row.
        """
        for row, ids in zip(rows, prompts, strict=True):
            slot = self.resident(int(row))
            assert slot is not None  # whoever draws is held by its job
            slot.ids = ids
            if len(ids) > SHARED:
                self._prefixes[_head(ids)] = weakref.ref(slot)
        done = {int(row) for row in rows}
        left = self.active - len(done)
        holes = [row for row in sorted(done) if row < left]
        movers = [row for row in range(left, self.active) if row not in done]
        self.active = left
        if holes:
            slots = [
                (self.resident(a), self.resident(b)) for a, b in zip(holes, movers, strict=True)
            ]
            self.arena.move([*holes, *movers], [*movers, *holes], self.arena.places)
            for hole, mover, (gone, kept) in zip(holes, movers, slots, strict=True):
                assert gone is not None
                assert kept is not None
                self._seat(kept, hole)
                self._seat(gone, mover)
        return holes, movers


def _common(cached: Ints, prompt: Ints) -> int:
    """Tokens that both begin with; at least one of the prompt is left to be computed."""
    n = min(len(cached), len(prompt) - 1)
    differs = np.flatnonzero(cached[:n] != prompt[:n])
    return int(differs[0]) if len(differs) else n


def _head(ids: Ints) -> bytes:
    return ids[:SHARED].tobytes()
