"""The report of reconciliation: each day and model of the invoices beside the gateway's own, as JSON or CSV."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from zoneinfo import ZoneInfo

import orjson
from django.db.models import Count, F, Sum

from billing.amounts import plain
from billing.catalogue.lines import Rate
from billing.counted_rows import join_halves, sum_halves
from billing.models import InvoiceLine, InvoiceName
from billing.reconciliation.comparison import Cause, Charge, Difference, Place, Theirs, compare
from billing.reconciliation.lines import TOKENS, Component
from billing.reconciliation.ours import SpendRows, find_rates, read_ours
from billing.reconciliation.source import InvoiceSource
from billing.reconciliation.sources import SOURCES
from billing.reports.period import Period
from billing.reports.query import read_days
from billing.reports.render import PART_ROWS, make_inert, write_csv
from gateway.protocol.amounts import PUSD, usd_text
from gateway.protocol.errors import BadRequest
from gateway.protocol.json.types import JsonObject

FORMATS = ("json", "csv")
PARAMETERS = ("start_date", "end_date", "provider", "format")
MAX_RATES = 50  # of one report: each is a query
MAX_CHARGES = 200_000  # of one report, each some hundred bytes in memory
PERCENT = Decimal("0.0001")
UTC = ZoneInfo("UTC")


@dataclass(frozen=True, slots=True)
class ReconciliationQuery:
    period: Period
    sources: tuple[str, ...]
    format: str

    @classmethod
    def read(cls, fields: Mapping[str, str]) -> "ReconciliationQuery":
        """Raises BadRequest with `param`."""
        start, end = read_days(fields)
        name, text = fields.get("provider", ""), fields.get("format", FORMATS[0])
        if name and name not in SOURCES:
            raise BadRequest(f"'provider' must be one of {', '.join(sorted(SOURCES))}.", param="provider")
        if text not in FORMATS:
            raise BadRequest(f"'format' must be one of {', '.join(FORMATS)}.", param="format")
        return cls(Period(start, end, UTC), (name,) if name else tuple(sorted(SOURCES)), text)


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """`days`: source → the days that its invoices have; only these are compared. `our_rates`: of the first rows whose
    price differs, picodollars a token."""

    rows: Sequence[tuple[str, Difference]]
    days: Mapping[str, Sequence[date]]
    our_rates: Mapping[tuple[str, Place], Mapping[Component, Rate]]

    def sum_up(self) -> "Total":
        rows = [row for _, row in self.rows if row.pusd is not None]
        causes: Counter[Cause] = Counter()
        for row in rows:
            for cause, pusd in row.causes.items():
                causes[cause] += pusd
        unexplained = sum(abs(row.causes.get(Cause.UNEXPLAINED, 0)) for row in rows)
        return Total(
            sum(row.ours.pusd for row in rows),
            sum(row.theirs.pusd for row in rows),
            dict(in_order(causes)),
            sum(abs(row.pusd or 0) for row in rows),
            unexplained,
        )

    def rates_of(self, source: str, row: Difference) -> Mapping[Component, Rate]:
        return self.our_rates.get((source, (row.day, row.model)), {})


@dataclass(frozen=True, slots=True)
class Total:
    """Sums of the rows that have an amount on both sides. `whole_pusd` and `unexplained_pusd`: of the differences, and
    of what is unexplained of them, whatever their sign."""

    ours_pusd: int
    theirs_pusd: int
    causes: Mapping[Cause, int]
    whole_pusd: int
    unexplained_pusd: int

    @property
    def difference_pusd(self) -> int:
        return self.theirs_pusd - self.ours_pusd

    @property
    def explained_percent(self) -> str:
        return percent_of(max(self.whole_pusd - self.unexplained_pusd, 0), self.whole_pusd) or "100.0000"


def reconcile(spend: SpendRows, query: ReconciliationQuery) -> Reconciliation:
    """Raises BadRequest where the days have too many models."""
    rows: list[tuple[str, Difference]] = []
    days: dict[str, Sequence[date]] = {}
    rates: dict[tuple[str, Place], Mapping[Component, Rate]] = {}
    for name in query.sources:
        source = SOURCES[name]
        names = dict(InvoiceName.objects.filter(source=name).values_list("name", "model"))
        theirs = _read_theirs(source, query.period, names)
        if not theirs:
            continue
        covered = sorted({day for day, _ in theirs})
        period = Period(covered[0], covered[-1], UTC)
        ours = read_ours(spend, period, source.providers, names)
        are_covered = frozenset(covered)
        of_days = {place: row for place, row in ours.items() if place[0] in are_covered}
        differences = compare(of_days, theirs)
        rows += [(name, row) for row in differences]
        for row in differences:
            if Cause.PRICE in row.causes and len(rates) < MAX_RATES:
                models = [row.model, *(upstream for upstream, model in names.items() if model == row.model)]
                rates[name, (row.day, row.model)] = find_rates(spend, source.providers, row.day, models)
        days[name] = covered
    return Reconciliation(rows, days, rates)


def _read_theirs(source: InvoiceSource, period: Period, names: Mapping[str, str]) -> dict[Place, Theirs]:
    lines = InvoiceLine.objects.filter(source=source.name, day__gte=period.start, day__lte=period.end)
    keys = ("day", "model", "component", "tier", "region", "is_usage")
    groups = (
        lines.order_by()
        .values(*keys)
        .annotate(lines=Count("id"), counted=Count("quantity"), tokens=Sum("quantity"), **sum_halves(F("amount_pusd")))
    )
    found: dict[Place, Theirs] = defaultdict(Theirs)
    charges: dict[tuple[Place, Component, str, str], tuple[int | None, int]] = {}
    for count, row in enumerate(groups.iterator(chunk_size=2_000), 1):
        if count > MAX_CHARGES:
            raise BadRequest(f"The invoices of these days have more than {MAX_CHARGES:,} charges.", param="end_date")
        place = row["day"], names.get(row["model"], row["model"])
        component = Component(row["component"])
        if row["is_usage"]:
            found[place].usage[component, row["tier"]] += int(row["tokens"] or 0)
            continue
        key = (place, component, row["tier"], row["region"])
        tokens = int(row["tokens"]) if row["counted"] == row["lines"] else None
        before = charges.get(key, (0, 0))
        both = None if tokens is None or before[0] is None else before[0] + tokens
        charges[key] = both, before[1] + join_halves(row)
    for (place, component, tier, region), (tokens, pusd) in charges.items():
        found[place].charges.append(Charge(component, tier, region, tokens, pusd))
    return dict(found)


# Texts


def render_row(source: str, row: Difference, our_rates: Mapping[Component, Rate]) -> JsonObject:
    their_tokens = row.theirs.count_tokens()
    return {
        "day": row.day.isoformat(),
        "provider": source,
        "model": row.model,
        "our_cost": usd_text(row.ours.pusd),
        "their_cost": None if row.pusd is None else usd_text(row.theirs.pusd),
        "difference": None if row.pusd is None else usd_text(row.pusd),
        "difference_percent": percent_of(row.pusd, row.theirs.pusd),
        "our_tokens": {kind.value: row.ours.tokens[kind] for kind in TOKENS},
        "their_tokens": {kind.value: their_tokens[kind] for kind in TOKENS},
        "our_rates": {kind.value: per_million(our_rates[kind]) for kind in TOKENS if kind in our_rates},
        "their_rates": {kind.value: per_million(row.rates[kind]) for kind in TOKENS if kind in row.rates},
        "causes": {cause.value: usd_text(pusd) for cause, pusd in in_order(row.causes)},
        "cause_tokens": {cause.value: tokens for cause, tokens in in_order(row.tokens)},
    }


def render_total(report: Reconciliation) -> JsonObject:
    """`explained_percent`: of all differences."""
    total = report.sum_up()
    return {
        "our_cost": usd_text(total.ours_pusd),
        "their_cost": usd_text(total.theirs_pusd),
        "difference": usd_text(total.difference_pusd),
        "difference_percent": percent_of(total.difference_pusd, total.theirs_pusd),
        "causes": {cause.value: usd_text(pusd) for cause, pusd in total.causes.items()},
        "explained_percent": total.explained_percent,
        "days": {source: [day.isoformat() for day in days] for source, days in report.days.items()},
    }


def render_json(report: Reconciliation) -> Iterator[bytes]:
    yield b'{"rows":['
    for first in range(0, len(report.rows), PART_ROWS):
        rows = [render_row(*row, report.rates_of(*row)) for row in report.rows[first : first + PART_ROWS]]
        yield (b"," if first else b"") + orjson.dumps(rows)[1:-1]
    yield b'],"total":' + orjson.dumps(render_total(report)) + b"}"


def render_csv(report: Reconciliation) -> Iterator[bytes]:
    plain_names = ("day", "provider", "model", "our_cost", "their_cost", "difference", "difference_percent")
    names = [
        *plain_names,
        *(f"{side}_{kind.value}_tokens" for kind in TOKENS for side in ("our", "their")),
        *(f"cause_{cause.value}" for cause in Cause),
    ]

    def lines() -> Iterator[list[str | int | None]]:
        for source, difference in report.rows:
            row = render_row(source, difference, {})
            cells: list[str | int | None] = [row[name] for name in plain_names]
            cells[2] = make_inert(difference.model)
            cells += [row[f"{side}_tokens"][kind.value] for kind in TOKENS for side in ("our", "their")]
            yield [*cells, *(row["causes"].get(cause.value) for cause in Cause)]

    return write_csv(names, lines())


def render(report: Reconciliation, text_format: str) -> Iterator[bytes]:
    return render_csv(report) if text_format == "csv" else render_json(report)


def in_order(causes: Mapping[Cause, int]) -> list[tuple[Cause, int]]:
    return [(cause, causes[cause]) for cause in Cause if causes.get(cause)]


def percent_of(part: int | None, whole: int) -> str | None:
    """With four decimals; None without a part or a whole."""
    if part is None or not whole:
        return None
    return f"{(Decimal(part) * 100 / Decimal(whole)).quantize(PERCENT, ROUND_HALF_EVEN):f}"


def per_million(pusd_per_token: Fraction | Rate) -> str:
    """USD per million tokens, with at most six decimals."""
    pusd = round(Fraction(pusd_per_token) * 10**6)
    return plain((Decimal(pusd) / PUSD).quantize(Decimal("0.000001"), ROUND_HALF_EVEN))
