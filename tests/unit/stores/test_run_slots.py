"""Slots of background runs: no key and no organization has more than its own, and free ones go round."""

from datetime import UTC, datetime, timedelta

from gateway.stores.run_slots import KeyName, KeyRuns, RunLimits, share_slots

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LIMITS = RunLimits(running_per_key=10, running_per_organization=20)


def runs(running: int, waiting: int, age_s: float = 0) -> KeyRuns:
    return KeyRuns(running, waiting, NOON - timedelta(seconds=age_s))


def test_a_key_with_many_waiting_runs_gets_its_own_slots_and_leaves_the_others() -> None:
    keys = {("a", "flood"): runs(0, 150, age_s=100), ("a", "one"): runs(0, 1), ("b", "one"): runs(0, 1)}
    assert share_slots(keys, 32, LIMITS) == {("a", "flood"): 10, ("a", "one"): 1, ("b", "one"): 1}
    assert share_slots(keys, 3, LIMITS) == {("a", "flood"): 1, ("a", "one"): 1, ("b", "one"): 1}


def test_running_runs_take_slots() -> None:
    assert share_slots({("a", "k"): runs(7, 9)}, 32, LIMITS) == {("a", "k"): 3}
    assert share_slots({("a", "k"): runs(10, 9)}, 32, LIMITS) == {}
    assert share_slots({("a", "k"): runs(10, 0), ("a", "l"): runs(9, 5)}, 32, LIMITS) == {("a", "l"): 1}
    assert share_slots({("a", "k"): runs(12, 0), ("a", "l"): runs(7, 5)}, 32, LIMITS) == {("a", "l"): 1}


def test_an_organization_with_many_keys_has_no_more_than_its_slots() -> None:
    keys = {("a", f"key {number}"): runs(0, 9) for number in range(9)} | {("b", "k"): runs(0, 9)}
    shares = share_slots(keys, 32, LIMITS)
    assert sum(count for (organization_id, _), count in shares.items() if organization_id == "a") == 20
    assert shares["b", "k"] == 9


def test_a_free_slot_goes_to_the_organization_with_the_fewest_then_to_the_key_then_to_the_oldest() -> None:
    keys: dict[KeyName, KeyRuns] = {
        ("a", "idle"): runs(0, 5, age_s=100),
        ("a", "busy"): runs(6, 5, age_s=200),
        ("b", "busy"): runs(4, 5, age_s=1),
        ("b", "young"): runs(1, 5, age_s=2),
        ("b", "old"): runs(1, 5, age_s=3),
    }
    assert share_slots(keys, 1, LIMITS) == {("a", "idle"): 1}  # 6 run there, and 6 of b: it waits longest
    keys["a", "busy"] = runs(7, 5, age_s=200)
    assert share_slots(keys, 1, LIMITS) == {("b", "old"): 1}


def test_nothing_waits() -> None:
    assert share_slots({}, 32, LIMITS) == {}
    assert share_slots({("a", "k"): runs(3, 0)}, 32, LIMITS) == {}
    assert share_slots({("a", "k"): runs(0, 3)}, 0, LIMITS) == {}
