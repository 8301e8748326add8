"""The parts of a difference between an invoice and what the gateway has counted."""

from collections import Counter
from datetime import date, timedelta

from billing.reconciliation.comparison import Cause, Charge, Difference, Ours, Theirs, compare
from billing.reconciliation.lines import Component

DAY = date(2026, 11, 1)
INPUT, OUTPUT = Component.INPUT, Component.OUTPUT


def ours(pusd: int, **fields: object) -> Ours:
    return Ours(pusd, 1, tokens=Counter(fields.pop("tokens", {INPUT: 100})), **fields)


def charge(tokens: int | None, pusd: int, *, component: Component = INPUT, tier: str = "", region: str = "") -> Charge:
    return Charge(component, tier, region, tokens, pusd)


def differ(mine: Ours | None, *charges: Charge, usage: dict[tuple[Component, str], int] | None = None) -> Difference:
    theirs = Theirs(list(charges), Counter(usage or {}))
    [row] = compare({} if mine is None else {(DAY, "m"): mine}, {(DAY, "m"): theirs})
    return row


def test_the_same_tokens_at_another_price() -> None:
    row = differ(ours(700), charge(100, 1_000))
    assert (row.pusd, row.causes, row.tokens) == (300, {Cause.PRICE: 300}, {})
    assert row.rates[INPUT] == 10


def test_a_region_costs_more_than_the_one_with_most_tokens() -> None:
    row = differ(ours(1_000), charge(60, 600, region="eu"), charge(40, 440, region="us"))
    assert row.causes == {Cause.REGION: 40}


def test_a_tier_that_we_have_charged_too_is_no_difference() -> None:
    row = differ(ours(750), charge(50, 500), charge(50, 250, tier="batch"))
    assert (row.pusd, row.causes) == (0, {})
    assert differ(ours(1_000), charge(50, 500), charge(50, 250, tier="batch")).causes == {Cause.TIER: -250}


def test_what_is_no_token_stands_apart() -> None:
    charges = [charge(None, 7, component=kind) for kind in (Component.OTHER, Component.CREDIT, Component.TAX)]
    row = differ(None, *charges)
    assert row.causes == {Cause.OTHER_CHARGES: 7, Cause.CREDITS: 7, Cause.TAXES: 7}


def test_counts_of_another_export_give_the_rate() -> None:
    row = differ(ours(900), charge(None, 1_000), usage={(INPUT, ""): 100})
    assert (row.causes, row.rates[INPUT]) == ({Cause.PRICE: 100}, 10)


def test_a_component_without_a_rate_leaves_the_rest_unexplained() -> None:
    row = differ(ours(900, tokens={INPUT: 100, OUTPUT: 5}), charge(100, 1_000))
    assert (row.pusd, row.causes) == (100, {Cause.UNEXPLAINED: 100})


def test_a_small_part_of_the_price_is_rounding() -> None:
    assert differ(ours(999_950), charge(100, 1_000_000)).causes == {Cause.ROUNDING: 50}


def test_an_estimate_explains_no_more_than_itself_and_usual_calls() -> None:
    mine = ours(1_000, estimated_attempts=1, estimated=Counter({INPUT: 20}))
    mine.attempts = 5  # four exact ones of 20 tokens each
    row = differ(mine, charge(1_000, 10_000))
    assert row.tokens == {Cause.ESTIMATED: 40, Cause.NOT_IN_OURS: 860}
    row = differ(mine, charge(10, 100))
    assert row.tokens == {Cause.ESTIMATED: -20, Cause.NOT_IN_THEIRS: -70}


def test_calls_that_crossed_midnight_move_no_more_tokens_than_both_days_lack() -> None:
    one = ours(1_000, crossing=Counter({INPUT: 80}))
    rows = compare(
        {(DAY, "m"): one, (DAY + timedelta(days=1), "m"): ours(1_000)},
        {
            (DAY, "m"): Theirs([charge(70, 700)]),
            (DAY + timedelta(days=1), "m"): Theirs([charge(150, 1_500)]),
        },
    )
    assert [row.tokens for row in rows] == [
        {Cause.DAY_BORDER: -30},
        {Cause.DAY_BORDER: 30, Cause.NOT_IN_OURS: 20},
    ]


def test_a_day_that_only_we_have_is_taken_at_the_rate_of_the_other_days() -> None:
    rows = compare(
        {(DAY, "m"): ours(1_000), (DAY, "unknown"): ours(5)},
        {(DAY + timedelta(days=1), "m"): Theirs([charge(10, 100)])},
    )
    assert [(row.model, row.causes) for row in rows] == [
        ("m", {Cause.NOT_IN_THEIRS: -1_000}),
        ("unknown", {Cause.NOT_IN_THEIRS: -5}),
        ("m", {Cause.NOT_IN_OURS: 100}),
    ]


def test_thousands_of_variants_of_one_model_are_compared_one_by_one() -> None:
    charges = [charge(None if number % 2 else 1, 10, tier=str(number)) for number in range(30_000)]
    assert differ(ours(1_000), *charges).pusd == 299_000
