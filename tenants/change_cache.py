"""A bounded cache whose entries become stale when a thing changes that they were read from (see revision.py)."""

from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from tenants.revision import EVERYTHING, Changed

Value = TypeVar("Value")


class Entry(Generic[Value]):
    """A value, and whether it is still what the database says. A stale one may serve while the database is away."""

    __slots__ = ("depends_on", "is_fresh", "value")

    def __init__(self, value: Value, depends_on: tuple[Changed, ...], is_fresh: bool) -> None:
        self.value = value
        self.depends_on = depends_on
        self.is_fresh = is_fresh


class ChangeCache(Generic[Value]):
    """The entries used last. The key of an entry is the thing whose change makes it stale; so does a change of the
    things that it depends on."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[Changed, Entry[Value]] = OrderedDict()
        self._dependants: dict[Changed, Changed | set[Changed]] = {}  # most have one: a set takes 200 bytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Changed) -> Entry[Value] | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: Changed, value: Value, depends_on: tuple[Changed, ...], changes: Collection[Changed]) -> bool:
        """Stores a value. It is stale, and the result False, where one of the changes concerns it that were noted while
        it was read."""
        self.pop(key)
        is_fresh = not any(thing in changes for thing in (EVERYTHING, key, *depends_on))
        self._entries[key] = Entry(value, depends_on, is_fresh)
        for thing in depends_on:
            keys = self._dependants.setdefault(thing, key)
            if isinstance(keys, set):
                keys.add(key)
            elif keys != key:
                self._dependants[thing] = {keys, key}
        if len(self._entries) > self._max_entries:
            self.pop(next(iter(self._entries)))
        return is_fresh

    def pop(self, key: Changed) -> None:
        entry = self._entries.pop(key, None)
        for thing in entry.depends_on if entry is not None else ():
            keys = self._dependants[thing]
            if isinstance(keys, set):
                keys.remove(key)
            if not keys or keys == key:
                del self._dependants[thing]

    def forget(self, changes: Collection[Changed]) -> None:
        for change in changes:
            for key in self._entries if change == EVERYTHING else (change, *self._find_dependants(change)):
                entry = self._entries.get(key)
                if entry is not None:
                    entry.is_fresh = False

    def _find_dependants(self, thing: Changed) -> Collection[Changed]:
        keys = self._dependants.get(thing, ())
        return (keys,) if isinstance(keys, Changed) else keys


class RunningLoads:
    """The values that are being read, each with what has changed since its reading began."""

    def __init__(self) -> None:
        self._changes: dict[object, set[Changed]] = {}

    @contextmanager
    def begin(self) -> Iterator[Collection[Changed]]:
        token = object()
        changes: set[Changed] = set()
        self._changes[token] = changes
        try:
            yield changes
        finally:
            del self._changes[token]

    def note(self, changes: Collection[Changed]) -> None:
        for missed in self._changes.values():
            missed.update(changes)
