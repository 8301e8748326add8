"""The cache that forgets by what its entries were read from."""

from tenants.change_cache import ChangeCache, RunningLoads
from tenants.revision import EVERYTHING, changed_key, changed_organization, changed_team

ANN, BEN = changed_key("ann"), changed_key("ben")
TEAM, HOME = changed_team("team"), changed_organization("home")


def cache(size: int = 10) -> ChangeCache[int]:
    entries: ChangeCache[int] = ChangeCache(size)
    entries.put(ANN, 1, (TEAM, HOME), ())
    entries.put(BEN, 2, (HOME,), ())
    return entries


def fresh(entries: ChangeCache[int]) -> list[bool]:
    return [entry.is_fresh for entry in (entries.get(ANN), entries.get(BEN)) if entry is not None]


def test_a_change_makes_stale_what_depends_on_it() -> None:
    for change, expected in (
        (ANN, [False, True]),
        (TEAM, [False, True]),
        (HOME, [False, False]),
        (EVERYTHING, [False, False]),
        (changed_team("ann"), [True, True]),
    ):
        entries = cache()
        entries.forget([change])
        assert fresh(entries) == expected


def test_a_stale_entry_keeps_its_value_until_it_is_put_again() -> None:
    entries = cache()
    entries.forget([TEAM])
    entry = entries.get(ANN)
    assert entry is not None
    assert entry.value == 1
    assert entries.put(ANN, 3, (), ())
    entries.forget([TEAM])  # the key has left the team
    assert fresh(entries) == [True, True]


def test_what_changed_while_a_value_was_read_makes_it_stale() -> None:
    entries, loads = cache(), RunningLoads()
    for change, expected in ((ANN, False), (HOME, False), (EVERYTHING, False), (BEN, True)):
        with loads.begin() as changes:
            loads.note([change])
        loads.note([ANN])  # after the value was read
        assert entries.put(ANN, 3, (TEAM, HOME), changes) is expected
        assert fresh(entries)[0] is expected


def test_the_entry_that_was_not_used_for_longest_goes_first_and_leaves_nothing() -> None:
    entries = cache(2)
    entries.get(ANN)
    entries.put(changed_key("cid"), 3, (), ())
    assert (entries.get(BEN), len(entries)) == (None, 2)
    entries.pop(ANN)
    entries.pop(ANN)
    assert not entries._dependants
