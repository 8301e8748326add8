"""The prices in force: which version of a price each deployment has, and the ways to add versions to the catalogue.

The order of the look-up: the deployment's own price, the organization's contract, the model that stands behind the
deployment (`base_model`) or its upstream model, for the provider and its region, for the provider.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from billing.catalogue.names import PricedModel
from billing.catalogue.seed import Book, BookPrice
from billing.contracts import refresh_contracts
from billing.models import Price, PriceBook
from billing.price_terms import check_begin, check_lines
from tenants.audit import Entry, record
from tenants.revision import bump_revision, write_transaction

NAMES_PER_QUERY = 500
ROWS_PER_INSERT = 500


@dataclass(frozen=True, slots=True)
class Wanted:
    """A deployment without a price of its own: the models that it may have the price of, the first choice first."""

    models: tuple[PricedModel, ...]
    region: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """The ids of the prices in force. `contracts`: organization → price. `changes_at`: when a later version begins."""

    price_id: str = ""
    contracts: Mapping[str, str] = field(default_factory=dict)
    changes_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """All versions of the price of one model, its contracts included, the newest first."""

    versions: tuple[Price, ...] = ()

    def find(self, now: datetime) -> Found:
        """The versions in force at an instant."""
        chosen: dict[str, Price] = {}
        later: list[datetime] = []
        for row in self.versions:
            if row.effective_from is not None and row.effective_from > now:
                later.append(row.effective_from)
                continue
            current = chosen.get(row.organization_id)
            if current is None or _rank(row) > _rank(current):
                chosen[row.organization_id] = row
        public = chosen.pop("", None)
        contracts = {name: row.id for name, row in chosen.items()}
        return Found(public.id if public is not None else "", contracts, min(later, default=None))


NO_SCHEDULE = Schedule()


@dataclass(frozen=True, slots=True)
class PriceTable:
    """All versions of the prices of one provider's models, by the models' names; for one region. A deployment has one
    whose upstream model is a pattern."""

    region: str = ""
    versions: Mapping[str, list[Price]] = field(default_factory=dict)

    def find_all(self, now: datetime) -> dict[str, Found]:
        """Every model's versions in force at an instant."""
        return {name: self.choose([PricedModel("", name)]).find(now) for name in self.versions}

    def choose(self, models: Sequence[PricedModel]) -> Schedule:
        """The versions of the first of these models that has any."""
        return _choose(Wanted(tuple(PricedModel("", one.model) for one in models), self.region), self.versions)


def find_tables(places: Collection[tuple[str, str]]) -> dict[tuple[str, str], PriceTable]:
    """(provider, region) → the prices of all models of that provider. One query."""
    versions: dict[str, dict[str, list[Price]]] = {provider: defaultdict(list) for provider, _ in places}
    rows = Price.objects.filter(provider__in=sorted(versions), deployment_id="", status=Price.Status.ACTIVE)
    for row in rows.exclude(model="").defer("lines").order_by("-id") if places else ():
        versions[row.provider][row.model].append(row)
    return {place: PriceTable(place[1], versions[place[0]]) for place in places}


def find_schedules(wanted: Mapping[str, Wanted]) -> dict[str, Schedule]:
    """The versions of the prices of deployments by their ids."""
    names = {model.model for one in wanted.values() for model in one.models}
    versions = _read_versions(names)
    return {name: _choose(one, versions) for name, one in wanted.items()}


def find_prices(wanted: Mapping[str, Wanted], now: datetime) -> dict[str, Found]:
    """The prices of deployments by their ids."""
    return {name: schedule.find(now) for name, schedule in find_schedules(wanted).items()}


def sync_book(book: Book, source: PriceBook.Source, status: Price.Status = Price.Status.ACTIVE) -> int:
    """Adds the versions of a book that differ from those that its source has given before; returns how many. A book
    that was read already adds none."""
    if PriceBook.objects.filter(source=source, sha256=book.sha256).exists():
        return 0
    with write_transaction():
        row, is_new = PriceBook.objects.get_or_create(
            source=source, sha256=book.sha256, defaults={"title": book.title[:255], "licence": book.licence[:255]}
        )
        if not is_new:  # another process was faster
            return 0
        new = find_new(book, source)
        rows = _insert(new, row, status)
        if status == Price.Status.ACTIVE:
            refresh_contracts(rows)
        if new and status == Price.Status.ACTIVE:
            bump_revision()
    return len(new)


def find_new(book: Book, source: PriceBook.Source) -> list[BookPrice]:
    """The versions of a book that its source has not given before, or has given otherwise. A draft that was rejected is
    new again with another price only."""
    has_dates = source == PriceBook.Source.SEED  # others' versions have the date of their activation
    known = {
        (row.provider, row.model, row.effective_from if has_dates else None): row.lines
        for row in Price.objects.filter(book__source=source).order_by("id")
    }
    return [one for one in book.prices if known.get((one.provider, one.model, one.effective_from)) != dict(one.lines)]


def _insert(prices: Sequence[BookPrice], book: PriceBook, status: Price.Status) -> list[Price]:
    rows = [
        Price(
            origin=Price.Origin.BOOK,
            status=status,
            book=book,
            provider=one.provider,
            model=one.model,
            effective_from=one.effective_from,
            lines=dict(one.lines),
        )
        for one in prices
    ]
    with transaction.atomic():
        return Price.objects.bulk_create(rows, batch_size=ROWS_PER_INSERT)


def _read_versions(names: Collection[str]) -> Mapping[str, list[Price]]:
    """Model → its active versions, without their lines, the latest first."""
    versions: dict[str, list[Price]] = defaultdict(list)
    ordered = sorted(names)
    for first in range(0, len(ordered), NAMES_PER_QUERY):
        chunk = ordered[first : first + NAMES_PER_QUERY]
        rows = Price.objects.filter(model__in=chunk, deployment_id="", status=Price.Status.ACTIVE).defer("lines")
        for row in rows.order_by("-id"):
            versions[row.model].append(row)
    return versions


def _choose(wanted: Wanted, versions: Mapping[str, list[Price]]) -> Schedule:
    """The versions of the first model that has any: for each organization those of its contract, apart from these the
    public ones. The contract of one organization decides nothing of the others' price."""
    chosen: dict[str, list[Price]] = {}
    for model in wanted.models:
        rows = versions.get(model.model, [])
        if model.provider:
            providers = {model.provider}
        else:
            providers = {row.provider for row in rows if not row.organization_id} or {row.provider for row in rows}
            if len(providers) > 1:
                continue  # the name alone does not say whose price it is
        found: dict[str, list[Price]] = defaultdict(list)
        for row in rows:
            if row.provider in providers and row.region in ("", wanted.region):
                found[row.organization_id].append(row)
        chosen = found | chosen
    return Schedule(tuple(row for same in chosen.values() for row in same)) if chosen else NO_SCHEDULE


def _rank(row: Price) -> tuple[bool, float]:
    """The region's own before the provider's, then the one that began last."""
    return bool(row.region), row.effective_from.timestamp() if row.effective_from is not None else float("-inf")


def list_prices(
    *,
    provider: str = "",
    model: str = "",
    organization_id: str | None = None,
    has_contracts_only: bool = False,
    first: int = 0,
    most: int | None = None,
) -> tuple[list[Price], bool]:
    """The prices of the catalogue and of contracts that are in force now, by provider and model; and whether there are
    more. `model`: a part of the name; `organization_id`: whose contracts, "" for the catalogue alone. `first` and
    `most` count models, those included of which no version is in force yet. A contract for all models of a provider has
    a row without a model, among contracts alone."""
    rows = Price.objects.filter(deployment_id="", status=Price.Status.ACTIVE)
    rows = rows.filter(origin=Price.Origin.CONTRACT) if has_contracts_only else rows.exclude(model="")
    if provider:
        rows = rows.filter(provider=provider)
    if model:
        rows = rows.filter(model__icontains=model)
    if organization_id is not None:
        rows = rows.filter(organization_id=organization_id)
    names = ("provider", "model", "region", "organization_id")
    keys = rows.order_by(*names).values_list(*names).distinct()[first : None if most is None else first + most + 1]
    page = list(keys)[:most]
    found: dict[tuple[str, ...], Price] = {}
    models, now = sorted({key[1] for key in page}), timezone.now()
    for start in range(0, len(models), NAMES_PER_QUERY):
        versions = rows.filter(model__in=models[start : start + NAMES_PER_QUERY])
        for row in versions.exclude(effective_from__gt=now).order_by("-id"):
            key = (row.provider, row.model, row.region, row.organization_id)
            if key not in found or _rank(row) > _rank(found[key]):
                found[key] = row
    return [found[key] for key in page if key in found], most is not None and len(keys) > most


def set_catalogue_price(provider: str, model: str, lines: Mapping[str, str], begin: datetime | None = None) -> Price:
    """A version of the catalogue's price of a model from an instant on, which may have passed; without it from now on.
    Rows keep their cost. Raises PriceInvalid."""
    check_lines(provider, model, lines)
    check_begin(begin)
    with write_transaction():
        row = Price.objects.create(
            origin=Price.Origin.SET,
            provider=provider,
            model=model,
            lines=dict(lines),
            effective_from=begin or timezone.now(),
        )
        refresh_contracts([row])
        told = {"lines": dict(lines), "effective_from": row.effective_from.isoformat() if row.effective_from else None}
        record(Entry("create", "price", f"{provider}/{model}", None, {}, told))
        bump_revision()
    return row


def find_drafts(*, provider: str = "", model: str = "", newest: str | None = None) -> QuerySet[Price]:
    """The drafts, by provider and a part of the model's name; with `newest` none that came after this one, whose id it
    is. Ids grow with time, and imports take turns."""
    rows = Price.objects.filter(status=Price.Status.DRAFT).order_by("provider", "model", "id")
    if provider:
        rows = rows.filter(provider=provider)
    if newest is not None:
        rows = rows.filter(id__lte=newest)
    return rows.filter(model__icontains=model) if model else rows


def find_former(drafts: Collection[Price]) -> dict[tuple[str, str], Mapping[str, str]]:
    """(Provider, model) → the lines that the catalogue has now in the place of these drafts."""
    now, places = timezone.now(), {(row.provider, row.model) for row in drafts}
    rows = Price.objects.filter(
        model__in={model for _, model in places},
        deployment_id="",
        organization_id="",
        region="",
        status=Price.Status.ACTIVE,
    )
    versions: dict[tuple[str, str], list[Price]] = defaultdict(list)
    for row in rows.order_by("-id"):
        if (row.provider, row.model) in places:
            versions[row.provider, row.model].append(row)
    lines = {row.id: row.lines for same in versions.values() for row in same}
    found = {place: Schedule(tuple(same)).find(now).price_id for place, same in versions.items()}
    return {place: lines[price_id] for place, price_id in found.items() if price_id}


def activate_drafts(model: str = "") -> int:
    """Puts the drafts of a model in force from now on, or all drafts; returns how many."""
    drafts = Price.objects.filter(status=Price.Status.DRAFT)
    return accept_drafts(drafts.filter(model=model) if model else drafts)


def accept_drafts(drafts: QuerySet[Price]) -> int:
    """Puts these drafts in force from now on; returns how many."""
    with write_transaction():
        rows = list(drafts)
        count = _decide(rows, Price.Status.ACTIVE, "activate")
        if count:
            refresh_contracts(rows)
            bump_revision()
    return count


def reject_drafts(drafts: QuerySet[Price]) -> int:
    """These drafts price nothing, ever; returns how many."""
    with write_transaction():
        return _decide(list(drafts), Price.Status.RETIRED, "reject")


def _decide(rows: Sequence[Price], status: Price.Status, action: str) -> int:
    now, count = timezone.now(), 0
    for first in range(0, len(rows), NAMES_PER_QUERY):
        ids = [row.id for row in rows[first : first + NAMES_PER_QUERY]]
        drafts = Price.objects.filter(id__in=ids, status=Price.Status.DRAFT)
        begin = {"effective_from": now} if status == Price.Status.ACTIVE else {}
        count += drafts.update(status=status, **begin)
    if count:
        models = sorted({row.model for row in rows})
        record(Entry(action, "price", models[0] if len(models) == 1 else "*", None, {}, {"prices": count}))
    return count
