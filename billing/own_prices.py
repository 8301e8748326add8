"""The prices that deployments have of their own: one without a date (`price_id` of the deployment), and those that
begin at an instant. In force is the one that began last, before all dates the one without. One without lines ends them:
from then on the deployment has the catalogue's price.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from django.db.models import QuerySet

from billing.models import Price
from billing.prices import NAMES_PER_QUERY, Found
from tenants.audit import Entry, record


@dataclass(frozen=True, slots=True)
class OwnPrices:
    """`base_id`: the version without a date; empty for none. `versions`: those with a date, the one that begins last
    first; of two of one instant the one that was made last."""

    base_id: str = ""
    versions: tuple[Price, ...] = ()

    def find(self, now: datetime) -> Found:
        """The version in force at an instant; without an id the deployment has none of its own then."""
        later: datetime | None = None
        for row in self.versions:
            if row.effective_from is not None and row.effective_from > now:
                later = row.effective_from
            else:
                return Found(row.id if row.lines else "", changes_at=later)
        return Found(self.base_id, changes_at=later)

    def find_later(self, now: datetime) -> list[Price]:
        """The versions that are still to begin, the next first."""
        return [row for row in self.versions[::-1] if row.effective_from is not None and row.effective_from > now]

    def has_gap(self, now: datetime) -> bool:
        """There is no version now, or will be none."""
        return not self.find(now).price_id or any(not row.lines for row in self.find_later(now))


NO_PRICES = OwnPrices()


def find_own_prices(base_ids: Mapping[str, str]) -> dict[str, OwnPrices]:
    """`base_ids`: deployment → its price without a date."""
    versions: dict[str, list[Price]] = defaultdict(list)
    ids = sorted(base_ids)
    for first in range(0, len(ids), NAMES_PER_QUERY):
        dated = _dated(ids[first : first + NAMES_PER_QUERY])
        for row in dated.order_by("-effective_from", "-id"):
            versions[row.deployment_id].append(row)
    return {name: OwnPrices(base_id, tuple(versions.get(name, ()))) for name, base_id in base_ids.items()}


def find_dated() -> set[str]:
    """The ids of the deployments that have versions with a date."""
    return set(_all_dated().values_list("deployment_id", flat=True))


def add_version(deployment_id: str, lines: Mapping[str, str], begin: datetime) -> Price:
    """A version from an instant on, in the place of those that would begin then or later. Within the caller's
    transaction."""
    _dated([deployment_id]).filter(effective_from__gte=begin).update(status=Price.Status.RETIRED)
    row = Price.objects.create(
        origin=Price.Origin.SET, deployment_id=deployment_id, lines=dict(lines), effective_from=begin
    )
    told = {"deployment": deployment_id, "lines": dict(lines), "effective_from": begin.isoformat()}
    record(Entry("create", "price", deployment_id, None, {}, told))
    return row


def end_versions(deployment_ids: Iterable[str]) -> None:
    """Leaves deployments the price without a date alone. Within the caller's transaction."""
    for deployment_id in deployment_ids:
        count = _dated([deployment_id]).update(status=Price.Status.RETIRED)
        if count:
            record(Entry("end", "price", deployment_id, None, {}, {"deployment": deployment_id, "prices": count}))


def _all_dated() -> QuerySet[Price]:
    rows = Price.objects.filter(status=Price.Status.ACTIVE, effective_from__isnull=False)
    return rows.exclude(deployment_id="")


def _dated(deployment_ids: Collection[str]) -> QuerySet[Price]:
    return _all_dated().filter(deployment_id__in=deployment_ids)
