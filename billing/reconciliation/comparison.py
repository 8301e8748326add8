"""Ours against theirs: the difference of each day and model, and the causes of it. Pure.

The difference is what the invoice charges more than the gateway has counted. Its parts are those of a variance
analysis: other numbers of tokens, at the invoice's own rates; and another price of the same tokens. Tokens that differ
have a cause by what the gateway knows of its rows: not settled yet, booked on the other side of midnight, estimated;
what is left was never in one of the two. What has no rate has no cause: it is unexplained, and never guessed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum
from fractions import Fraction

from billing.reconciliation.lines import TOKENS, Component

#: A difference of the price below this share of the invoice is rounding of the provider's.
ROUNDING = Fraction(1, 10_000)


class Cause(StrEnum):
    UNPRICED = "unpriced"  # rows that have no cost
    UNSETTLED = "unsettled"  # rows whose cost is not counted yet, or cannot be
    DAY_BORDER = "day_border"  # calls that ended on the next day of UTC
    ESTIMATED = "estimated"  # rows whose usage is an estimate, lost ones too
    NOT_IN_OURS = "not_in_ours"  # calls outside of the gateway
    NOT_IN_THEIRS = "not_in_theirs"
    PRICE = "price"  # the same tokens, another amount
    TIER = "tier"  # batch, flex, priority, long context
    REGION = "region"
    OTHER_CHARGES = "other_charges"  # searches, sessions and whatever is no token
    CREDITS = "credits"
    TAXES = "taxes"
    ROUNDING = "rounding"
    UNEXPLAINED = "unexplained"


_CHARGES = {Component.OTHER: Cause.OTHER_CHARGES, Component.CREDIT: Cause.CREDITS, Component.TAX: Cause.TAXES}
#: Causes of which the gateway's price may have some already.
_PRICED_TOO = (Cause.TIER, Cause.REGION, Cause.OTHER_CHARGES)


@dataclass(frozen=True, slots=True)
class Charge:
    """Sums of an invoice's lines. `tokens` None: the invoice does not say them."""

    component: Component
    tier: str
    region: str
    tokens: int | None
    pusd: int


@dataclass(slots=True)
class Theirs:
    """An invoice's day of one model. `usage`: tokens of the lines that only count, by (component, tier)."""

    charges: list[Charge] = field(default_factory=list)
    usage: Counter[tuple[Component, str]] = field(default_factory=Counter)

    @property
    def pusd(self) -> int:
        return sum(charge.pusd for charge in self.charges)

    @property
    def has_amounts(self) -> bool:
        return bool(self.charges)

    def count_tokens(self) -> Counter[Component]:
        """By component. The counting lines come first; those that charge may have quantities too."""
        tokens: Counter[Component] = Counter()
        if self.usage:
            for (component, _), count in self.usage.items():
                tokens[component] += count
            return tokens
        for charge in self.charges:
            if charge.component in TOKENS and charge.tokens is not None:
                tokens[charge.component] += charge.tokens
        return tokens


@dataclass(slots=True)
class Ours:
    """The gateway's day of one model. `tokens`: of all counted attempts. The others are parts of it, but `unsettled`,
    which is not counted; `crossing` ended on the next day."""

    pusd: int = 0
    attempts: int = 0
    estimated_attempts: int = 0
    tokens: Counter[Component] = field(default_factory=Counter)
    unpriced: Counter[Component] = field(default_factory=Counter)
    estimated: Counter[Component] = field(default_factory=Counter)
    unsettled: Counter[Component] = field(default_factory=Counter)
    crossing: Counter[Component] = field(default_factory=Counter)


Place = tuple[date, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """`pusd`: theirs less ours, the sum of its causes; None without an amount of theirs."""

    day: date
    model: str
    ours: Ours
    theirs: Theirs
    pusd: int | None
    causes: Mapping[Cause, int]
    tokens: Mapping[Cause, int]  # of the causes that are numbers of tokens
    rates: Mapping[Component, Fraction]  # picodollars a token, by the invoice


def compare(ours: Mapping[Place, Ours], theirs: Mapping[Place, Theirs]) -> list[Difference]:
    """Each day and model that either side has, sorted."""
    rates = _find_rates(theirs)
    places = sorted({*ours, *theirs})
    nothing = Ours(), Theirs()
    moved = _find_moved(ours, theirs)
    return [
        _compare_day(
            place, ours.get(place, nothing[0]), theirs.get(place, nothing[1]), moved.get(place, Counter()), rates
        )
        for place in places
    ]


# Rates

Rates = Mapping[tuple[str, Component], Fraction]


def _find_rates(theirs: Mapping[Place, Theirs]) -> Rates:
    """(model, component) → the rate over all days, for days that have none of their own."""
    by_model: dict[str, list[Theirs]] = defaultdict(list)
    for (_, model), row in theirs.items():
        by_model[model].append(row)
    return {
        (model, component): rate for model, rows in by_model.items() for component, (rate, _) in _rates_of(rows).items()
    }


def _rates_of(rows: Iterable[Theirs]) -> dict[Component, tuple[Fraction, tuple[str, str]]]:
    """Component → its rate in the variant (tier, region) that is the usual one: the standard tier where there is one,
    the region with most tokens."""
    amounts: dict[tuple[Component, str, str], list[int]] = {}
    for row in rows:
        for charge, tokens in _count_charges(row):
            if charge.component in TOKENS and tokens and charge.pusd >= 0:
                sums = amounts.setdefault((charge.component, charge.tier, charge.region), [0, 0])
                sums[0] += tokens
                sums[1] += charge.pusd
    found: dict[Component, tuple[Fraction, tuple[str, str]]] = {}
    order = sorted(amounts.items(), key=lambda each: (each[0][0], each[0][1] != "", -each[1][0], each[0]))
    for (component, tier, region), (tokens, pusd) in order:
        found.setdefault(component, (Fraction(pusd, tokens), (tier, region)))
    return found


def _count_charges(row: Theirs) -> Iterator[tuple[Charge, int | None]]:
    """The charges with the tokens that each is for: its own quantity, or the count of its component and tier where it
    is the only charge for them; None where it is not known."""
    same = Counter((charge.component, charge.tier) for charge in row.charges)
    for charge in row.charges:
        kind = charge.component, charge.tier
        counted = row.usage.get(kind) if same[kind] == 1 else None
        yield charge, counted if charge.tokens is None else charge.tokens


# Midnight


def _find_moved(ours: Mapping[Place, Ours], theirs: Mapping[Place, Theirs]) -> dict[Place, Counter[Component]]:
    """Tokens to add to ours of a day because the invoice has them there: those of calls that crossed midnight, where
    the one day has too many and the next one too few."""
    left = {
        place: Counter({kind: row.count_tokens()[kind] - ours.get(place, Ours()).tokens[kind] for kind in TOKENS})
        for place, row in theirs.items()
    }
    moved: dict[Place, Counter[Component]] = defaultdict(Counter)
    for (day, model), row in sorted(ours.items()):
        here, there = (day, model), (day + timedelta(days=1), model)
        if here not in left or there not in left:
            continue
        for component, tokens in row.crossing.items():
            count = min(tokens, -left[here][component], left[there][component])
            if count > 0:
                moved[here][component] -= count
                moved[there][component] += count
                left[here][component] += count
                left[there][component] -= count
    return moved


# One day


def _compare_day(
    place: Place, ours: Ours, theirs: Theirs, moved: Mapping[Component, int], all_rates: Rates
) -> Difference:
    day, model = place
    rates = {component: rate for component, (rate, _) in _rates_of([theirs]).items()}
    for component in TOKENS:
        if component not in rates and (model, component) in all_rates:
            rates[component] = all_rates[model, component]
    counts = theirs.count_tokens()
    parts: dict[Cause, Fraction] = defaultdict(Fraction)
    tokens: Counter[Cause] = Counter()
    is_known = True
    uncounted = {charge.component for charge, count in _count_charges(theirs) if count is None}
    for component in TOKENS:
        if component in uncounted:
            is_known = False
            continue
        split = _split_tokens(component, counts[component], ours, moved.get(component, 0))
        for cause, count in split.items():
            tokens[cause] += count
        rate = rates.get(component)
        if rate is None:
            is_known = is_known and not ours.tokens[component] and not counts[component]
            continue
        for cause, count in split.items():
            parts[cause] += count * rate
        parts[Cause.UNPRICED] += min(ours.unpriced[component], ours.tokens[component]) * rate
    if not theirs.has_amounts and (theirs.usage or not (is_known and rates)):
        is_absent = not theirs.usage and not theirs.charges
        causes = {Cause.NOT_IN_THEIRS: -ours.pusd} if is_absent and ours.pusd else {}
        return Difference(day, model, ours, theirs, -ours.pusd if is_absent else None, causes, dict(tokens), rates)
    _add_variants(theirs, rates, parts)
    difference = theirs.pusd - ours.pusd
    rest = difference - sum(parts.values(), Fraction(0))
    _add_rest(parts, rest, is_known=is_known, theirs_pusd=theirs.pusd)
    return Difference(day, model, ours, theirs, difference, _round(parts, difference), dict(tokens), rates)


def _split_tokens(component: Component, theirs: int, ours: Ours, moved: int) -> Counter[Cause]:
    """The tokens that the invoice has more than we, by their cause."""
    split: Counter[Cause] = Counter({Cause.DAY_BORDER: moved})
    left = theirs - ours.tokens[component] - moved
    unsettled = min(max(left, 0), ours.unsettled[component])
    split[Cause.UNSETTLED] = unsettled
    left -= unsettled
    held = ours.estimated[component]
    if ours.estimated_attempts:
        exact = max(1, ours.attempts - ours.estimated_attempts)
        usual = (ours.tokens[component] - held) // exact * ours.estimated_attempts
        count = max(left, -held) if left < 0 else min(left, held + usual)
        split[Cause.ESTIMATED] = count
        left -= count
    split[Cause.NOT_IN_OURS if left > 0 else Cause.NOT_IN_THEIRS] = left
    return Counter({cause: count for cause, count in split.items() if count})


def _add_variants(theirs: Theirs, rates: Mapping[Component, Fraction], parts: dict[Cause, Fraction]) -> None:
    """The part of the invoice that is no token, and what other tiers and regions cost more than the usual one."""
    usual = _rates_of([theirs])
    for charge, tokens in _count_charges(theirs):
        if charge.component not in TOKENS:
            parts[_CHARGES[charge.component]] += charge.pusd
            continue
        rate = rates.get(charge.component)
        if tokens is None or rate is None or charge.component not in usual:
            continue
        _, (tier, region) = usual[charge.component]
        if (charge.tier, charge.region) != (tier, region):
            cause = Cause.TIER if charge.tier != tier else Cause.REGION
            parts[cause] += charge.pusd - tokens * rate


def _add_rest(parts: dict[Cause, Fraction], rest: Fraction, *, is_known: bool, theirs_pusd: int) -> None:
    """The rest is another price of the same tokens; where a rate is not known, it is unexplained."""
    if not is_known:
        parts[Cause.UNEXPLAINED] += rest
        return
    for cause in _PRICED_TOO:  # our own price has the tier as well
        if parts.get(cause, 0) * rest < 0:
            common = min(abs(parts[cause]), abs(rest))
            sign = 1 if rest > 0 else -1
            parts[cause] += sign * common
            rest -= sign * common
    parts[Cause.ROUNDING if abs(rest) <= abs(theirs_pusd) * ROUNDING else Cause.PRICE] += rest


def _round(parts: Mapping[Cause, Fraction], difference: int) -> dict[Cause, int]:
    """Whole picodollars; their sum is the difference, because rounding has what they lack."""
    causes = {cause: round(part) for cause, part in parts.items()}
    causes[Cause.ROUNDING] = causes.get(Cause.ROUNDING, 0) + difference - sum(causes.values())
    return {cause: pusd for cause, pusd in causes.items() if pusd}
