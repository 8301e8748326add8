"""Contracts: what an organization pays for models of the catalogue, by own lines or by a percentage of the price.

A contract is one or several versions of prices of the organization. One by percentage has a version for each version of
each model that it covers; a model's next version in the catalogue gives it another one (`refresh_contracts`). Each
names the version that the provider is paid by (`base_price`), so that a spend row has both figures.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation, localcontext
from typing import TypeAlias

from django.db.models import QuerySet
from django.utils import timezone

from billing.catalogue.lines import MAX_DECIMALS
from billing.models import Price
from billing.price_terms import PriceInvalid, check_begin, check_lines, has_begun
from gateway.protocol.json.types import JsonObject
from tenants.audit import Entry, record
from tenants.models import Organization
from tenants.revision import bump_revision, write_transaction

ROWS_PER_INSERT = 500
MIN_PERCENT, MAX_PERCENT = -100, 10_000
PERCENT_DECIMALS = 6
PRECISION = 100  # digits, more than the amount of a line and a percentage have together
ACTIVE = Price.Status.ACTIVE
#: (Organization, model) → the active versions of its contract; without a model those for all models.
Contracts: TypeAlias = dict[tuple[str, str], list[Price]]


def set_lines(
    organization_id: str, provider: str, model: str, lines: Mapping[str, str], begin: datetime | None = None
) -> list[Price]:
    """The organization pays these lines for a model: from `begin` on, which may have passed; without it, in the place
    of all versions that the contract has. Raises PriceInvalid."""
    _check_place(organization_id, provider)
    check_lines(provider, model, lines)
    check_begin(begin)
    base = _latest(_public(provider, model), begin or timezone.now())
    row = _make(organization_id, provider, model, dict(lines), base)
    row.effective_from = begin
    return _replace(organization_id, provider, model, [row], begin)


def set_percent(
    organization_id: str, provider: str, model: str, percent: Decimal, begin: datetime | None = None
) -> list[Price]:
    """The organization pays so many percent more than the catalogue says, or less: -10 is a discount of a tenth.
    `model` empty: for all models of the provider. `begin` as in `set_lines`. Raises PriceInvalid."""
    _check_place(organization_id, provider)
    _check_percent(percent)
    check_begin(begin)
    with write_transaction():  # beside which the catalogue gets no version
        first = begin or timezone.now()
        versions = list(_public(provider, model))
        later = [row for row in versions if not has_begun(row, first)]
        bases = [*_latest_of_each((row for row in versions if has_begun(row, first)), first), *later]
        if not bases:
            raise PriceInvalid("model", f"the catalogue has no price of {provider}/{model or '*'}")
        rows = [_scale(organization_id, base, percent) for base in bases]
        if not model:  # so that the provider's next models have it too
            everything = _make(organization_id, provider, "", {}, None)
            everything.percent = f"{percent:f}"
            rows.append(everything)
        if begin is not None:
            for row in rows:
                row.effective_from = max(row.effective_from or begin, begin)
        return _replace(organization_id, provider, model, rows, begin)


def end_contract(organization_id: str, provider: str, model: str) -> int:
    """The organization pays the public price from now on; returns how many versions ended. Rows keep theirs."""
    with write_transaction():
        count = _active(organization_id, provider, model).update(status=Price.Status.RETIRED)
        if count:
            record(Entry("end", "contract", organization_id, None, {}, _place(provider, model)))
            bump_revision()
    return count


def read_percent(text: str) -> Decimal:
    """Raises PriceInvalid."""
    try:
        return Decimal(text)
    except InvalidOperation:
        raise PriceInvalid("percent", "must be a number") from None


def refresh_contracts(prices: Collection[Price]) -> int:
    """Gives the contracts by percentage a version for each of these new versions of the catalogue; returns how many.
    Within the caller's transaction."""
    contracts: dict[str, Contracts] = defaultdict(lambda: defaultdict(list))  # provider → its contracts
    for row in Price.objects.filter(origin=Price.Origin.CONTRACT, status=ACTIVE).order_by("id"):
        contracts[row.provider][row.organization_id, row.model].append(row)
    rows: list[Price] = []
    for provider in sorted({base.provider for base in prices} & contracts.keys()):
        rows += _follow(contracts[provider], [base for base in prices if base.provider == provider])
    Price.objects.bulk_create(rows, batch_size=ROWS_PER_INSERT)
    return len(rows)


def _follow(contracts: Contracts, bases: Sequence[Price]) -> Iterator[Price]:
    """The contracts' versions for new versions of one provider's catalogue. One of a book's past, which another version
    has followed already, gets none: its contract would be in force now. A model that was known and has no contract gets
    none of a contract for all: its own one has ended."""
    now, new = timezone.now(), {base.id for base in bases}
    public = list(_public(bases[0].provider, "").defer("lines"))
    in_force = {row.id for row in _latest_of_each(public, now)}
    known = {row.model for row in public if row.id not in new}
    organizations = sorted({organization_id for organization_id, _ in contracts})
    starts: dict[tuple[str, str], list[datetime]] = defaultdict(list)
    for row in public:
        if row.effective_from is not None:
            starts[row.model, row.region].append(row.effective_from)
    for base in bases:
        is_set = base.origin == Price.Origin.SET
        if base.id not in in_force and not is_set and has_begun(base, now):
            continue
        begin = base.effective_from or now
        later = [at for at in starts[base.model, base.region] if at > begin]
        span = (begin if is_set else max(begin, now), min(later, default=None))
        names = (base.model,) if base.model in known else (base.model, "")
        for organization_id in organizations:
            places = ((organization_id, name) for name in names)
            versions = next((contracts[place] for place in places if place in contracts), [])
            yield from _follow_one(versions, base, span)


def _follow_one(versions: Sequence[Price], base: Price, span: tuple[datetime, datetime | None]) -> Iterator[Price]:
    """The versions that one contract gets while this version of the catalogue is in force: one for each percentage."""
    begin, end = span
    starts = {row.effective_from for row in versions if row.effective_from is not None}
    for at in sorted({begin, *(at for at in starts if begin < at and (end is None or at < end))}):
        contract = _latest(versions, at)
        if contract is not None and contract.percent:
            row = _scale(contract.organization_id, base, Decimal(contract.percent))
            row.effective_from = at
            yield row


def _check_place(organization_id: str, provider: str) -> None:
    if not Organization.objects.filter(id=organization_id).exists():
        raise PriceInvalid("organization_id", f"there is no organization {organization_id!r}")
    if not provider:
        raise PriceInvalid("provider", "must be given")


def _check_percent(percent: Decimal) -> None:
    exponent = percent.as_tuple().exponent
    if not percent.is_finite() or not isinstance(exponent, int) or exponent < -PERCENT_DECIMALS:
        raise PriceInvalid("percent", f"must be a number with at most {PERCENT_DECIMALS} decimals")
    if not MIN_PERCENT <= percent <= MAX_PERCENT:
        raise PriceInvalid("percent", f"must be from {MIN_PERCENT} to {MAX_PERCENT:,}")


def _public(provider: str, model: str) -> QuerySet[Price]:
    rows = Price.objects.filter(provider=provider, organization_id="", deployment_id="", status=ACTIVE)
    return (rows.filter(model=model) if model else rows.exclude(model="")).order_by("id")


def _latest_of_each(rows: Iterable[Price], now: datetime) -> list[Price]:
    found: dict[tuple[str, str], list[Price]] = {}
    for row in rows:
        found.setdefault((row.model, row.region), []).append(row)
    return [latest for same in found.values() if (latest := _latest(same, now)) is not None]


def _latest(rows: Iterable[Price], now: datetime) -> Price | None:
    """The version that is in force at an instant."""
    begun = [row for row in rows if has_begun(row, now)]
    return max(begun, key=lambda row: (row.effective_from is not None, row.effective_from or now, row.id), default=None)


def _scale(organization_id: str, base: Price, percent: Decimal) -> Price:
    with localcontext(prec=PRECISION):
        lines = {name: _round(Decimal(usd) * (1 + percent / 100)) for name, usd in base.lines.items()}
    row = _make(organization_id, base.provider, base.model, lines, base)
    row.percent, row.region, row.effective_from = f"{percent:f}", base.region, base.effective_from
    return row


def _round(usd: Decimal) -> str:
    """Exact, unless it would have more decimals than a line may have."""
    return f"{usd.quantize(Decimal(1).scaleb(-MAX_DECIMALS)).normalize():f}" if usd else "0"


def _make(organization_id: str, provider: str, model: str, lines: dict[str, str], base: Price | None) -> Price:
    return Price(
        origin=Price.Origin.CONTRACT,
        organization_id=organization_id,
        provider=provider,
        model=model,
        lines=lines,
        base_price_id=base.id if base is not None else "",
    )


def _replace(organization_id: str, provider: str, model: str, rows: list[Price], begin: datetime | None) -> list[Price]:
    """With a `begin`, former versions stay as they are until then."""
    with write_transaction():
        ended = _active(organization_id, provider, model)
        if begin is not None:
            rows = [*rows, *_of_regions(rows, ended)]
            ended = ended.filter(effective_from__gte=begin)
        ended.update(status=Price.Status.RETIRED)
        Price.objects.bulk_create(rows, batch_size=ROWS_PER_INSERT)
        told: JsonObject = {**_place(provider, model), "prices": len(rows), "percent": rows[0].percent}
        if begin is not None:
            told["effective_from"] = begin.isoformat()
        record(Entry("create", "contract", organization_id, None, {}, told))  # for the platform's eyes
        bump_revision()
    return rows


def _of_regions(rows: Sequence[Price], former: Iterable[Price]) -> list[Price]:
    """The same lines for the regions of former versions, which would go before those of no region."""
    known = {(row.model, row.region) for row in rows}
    wanted = {(row.model, row.region) for row in former} - known
    copies: list[Price] = []
    for row in rows:
        for region in sorted(region for model, region in wanted if model == row.model and row.model and not row.region):
            copy = _make(row.organization_id, row.provider, row.model, dict(row.lines), None)
            copy.region, copy.percent = region, row.percent
            copy.base_price_id, copy.effective_from = row.base_price_id, row.effective_from
            copies.append(copy)
    return copies


def _active(organization_id: str, provider: str, model: str) -> QuerySet[Price]:
    rows = Price.objects.filter(origin=Price.Origin.CONTRACT, organization_id=organization_id, status=ACTIVE)
    return rows.filter(provider=provider, model=model) if model else rows.filter(provider=provider)


def _place(provider: str, model: str) -> JsonObject:
    return {"provider": provider, "model": model or "*"}
