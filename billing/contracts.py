"""Contracts: what an organization pays for models of the catalogue, by own lines or by a percentage of the price.

A contract is one or several versions of prices of the organization. One by percentage has a version for each version of
each model that it covers; a model's next version in the catalogue gives it another one (`refresh_contracts`). Each
names the version that the provider is paid by (`base_price`), so that a spend row has both figures.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation, localcontext

from django.db.models import QuerySet
from django.utils import timezone

from billing.catalogue.lines import MAX_DECIMALS, has_too_many_decimals
from billing.catalogue.litellm import MAX_USD
from billing.models import Price
from billing.pricing import PriceLines
from gateway.protocol.json.types import JsonObject
from gateway.providers.registry import PROVIDERS
from tenants.audit import Entry, record
from tenants.invalid import ArgumentInvalid
from tenants.models import Organization
from tenants.revision import bump_revision, write_transaction

ROWS_PER_INSERT = 500
MIN_PERCENT, MAX_PERCENT = -100, 10_000
PERCENT_DECIMALS = 6
PRECISION = 100  # digits, more than the amount of a line and a percentage have together
ACTIVE = Price.Status.ACTIVE


class ContractInvalid(ArgumentInvalid):
    """An argument that no contract can have."""


def set_lines(organization_id: str, provider: str, model: str, lines: Mapping[str, str]) -> list[Price]:
    """The organization pays these lines for a model, from now on. Raises ContractInvalid."""
    _check_place(organization_id, provider)
    if provider not in PROVIDERS:
        raise ContractInvalid("provider", f"{provider!r} is unknown; known: {', '.join(sorted(PROVIDERS))}")
    if not model:
        raise ContractInvalid("model", "must be given: lines are the price of one model")
    if not lines:
        raise ContractInvalid("lines", "must not be empty")
    try:
        PriceLines.read(lines)
    except ValueError as error:
        raise ContractInvalid("lines", str(error)) from None
    if any(has_too_many_decimals(Decimal(usd)) or Decimal(usd) > MAX_USD for usd in lines.values()):
        raise ContractInvalid("lines", f"must be from 0 to {MAX_USD:,} USD, with at most {MAX_DECIMALS} decimals")
    base = _latest(_public(provider, model))
    return _replace(organization_id, provider, model, [_make(organization_id, provider, model, dict(lines), base)])


def set_percent(organization_id: str, provider: str, model: str, percent: Decimal) -> list[Price]:
    """The organization pays so many percent more than the catalogue says, or less: -10 is a discount of a tenth.
    `model` empty: for all models of the provider. Raises ContractInvalid."""
    _check_place(organization_id, provider)
    _check_percent(percent)
    with write_transaction():  # beside which the catalogue gets no version
        now = timezone.now()
        versions = list(_public(provider, model))
        later = [row for row in versions if row.effective_from is not None and row.effective_from > now]
        bases = [*_latest_of_each(row for row in versions if row not in later), *later]
        if not bases:
            raise ContractInvalid("model", f"the catalogue has no price of {provider}/{model or '*'}")
        rows = [_scale(organization_id, base, percent) for base in bases]
        if not model:  # so that the provider's next models have it too
            everything = _make(organization_id, provider, "", {}, None)
            everything.percent = f"{percent:f}"
            rows.append(everything)
        return _replace(organization_id, provider, model, rows)


def end_contract(organization_id: str, provider: str, model: str) -> int:
    """The organization pays the public price from now on; returns how many versions ended. Rows keep theirs."""
    with write_transaction():
        count = _active(organization_id, provider, model).update(status=Price.Status.RETIRED)
        if count:
            record(Entry("end", "contract", organization_id, None, {}, _place(provider, model)))
            bump_revision()
    return count


def read_percent(text: str) -> Decimal:
    """Raises ContractInvalid."""
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ContractInvalid("percent", "must be a number") from None


def refresh_contracts(prices: Collection[Price]) -> int:
    """Gives the contracts by percentage a version for each of these new versions of the catalogue; returns how many.
    Within the caller's transaction."""
    contracts: dict[str, dict[tuple[str, str], Price]] = defaultdict(dict)  # provider → (organization, model or "")
    for row in Price.objects.filter(origin=Price.Origin.CONTRACT, status=ACTIVE).order_by("id"):
        contracts[row.provider][row.organization_id, row.model] = row
    rows: list[Price] = []
    for provider in sorted({base.provider for base in prices} & contracts.keys()):
        rows += _follow(contracts[provider], [base for base in prices if base.provider == provider])
    Price.objects.bulk_create(rows, batch_size=ROWS_PER_INSERT)
    return len(rows)


def _follow(contracts: Mapping[tuple[str, str], Price], bases: Sequence[Price]) -> Iterator[Price]:
    """The contracts' versions for new versions of one provider's catalogue. One of the past, which another version has
    followed already, gets none: its contract would be in force now. A model that was known and has no contract gets
    none of a contract for all: its own one has ended."""
    now, new = timezone.now(), {base.id for base in bases}
    public = list(_public(bases[0].provider, "").defer("lines"))
    in_force = {row.id for row in _latest_of_each(public)}
    known = {row.model for row in public if row.id not in new}
    organizations = sorted({organization_id for organization_id, _ in contracts})
    for base in bases:
        is_later = base.effective_from is not None and base.effective_from > now
        if base.id not in in_force and not is_later:
            continue
        names = (base.model,) if base.model in known else (base.model, "")
        for organization_id in organizations:
            places = ((organization_id, name) for name in names)
            contract = next((contracts[place] for place in places if place in contracts), None)
            if contract is not None and contract.percent:
                row = _scale(organization_id, base, Decimal(contract.percent))
                row.effective_from = max(row.effective_from or now, now)
                yield row


def _check_place(organization_id: str, provider: str) -> None:
    if not Organization.objects.filter(id=organization_id).exists():
        raise ContractInvalid("organization_id", f"there is no organization {organization_id!r}")
    if not provider:
        raise ContractInvalid("provider", "must be given")


def _check_percent(percent: Decimal) -> None:
    exponent = percent.as_tuple().exponent
    if not percent.is_finite() or not isinstance(exponent, int) or exponent < -PERCENT_DECIMALS:
        raise ContractInvalid("percent", f"must be a number with at most {PERCENT_DECIMALS} decimals")
    if not MIN_PERCENT <= percent <= MAX_PERCENT:
        raise ContractInvalid("percent", f"must be from {MIN_PERCENT} to {MAX_PERCENT:,}")


def _public(provider: str, model: str) -> QuerySet[Price]:
    rows = Price.objects.filter(provider=provider, organization_id="", deployment_id="", status=ACTIVE)
    return (rows.filter(model=model) if model else rows.exclude(model="")).order_by("id")


def _latest_of_each(rows: Iterable[Price]) -> list[Price]:
    found: dict[tuple[str, str], list[Price]] = {}
    for row in rows:
        found.setdefault((row.model, row.region), []).append(row)
    return [latest for same in found.values() if (latest := _latest(same)) is not None]


def _latest(rows: Iterable[Price]) -> Price | None:
    """The version that is in force now."""
    now = timezone.now()
    begun = [row for row in rows if row.effective_from is None or row.effective_from <= now]
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


def _replace(organization_id: str, provider: str, model: str, rows: list[Price]) -> list[Price]:
    with write_transaction():
        _active(organization_id, provider, model).update(status=Price.Status.RETIRED)
        Price.objects.bulk_create(rows, batch_size=ROWS_PER_INSERT)
        told: JsonObject = {**_place(provider, model), "prices": len(rows), "percent": rows[0].percent}
        record(Entry("create", "contract", organization_id, None, {}, told))  # for the platform's eyes
        bump_revision()
    return rows


def _active(organization_id: str, provider: str, model: str) -> QuerySet[Price]:
    rows = Price.objects.filter(origin=Price.Origin.CONTRACT, organization_id=organization_id, status=ACTIVE)
    return rows.filter(provider=provider, model=model) if model else rows.filter(provider=provider)


def _place(provider: str, model: str) -> JsonObject:
    return {"provider": provider, "model": model or "*"}
