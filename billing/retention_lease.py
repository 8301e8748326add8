"""The rows of SpendRetention: how far each kind has been deleted, and the lease of the one process that deletes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Q
from django.utils import timezone

from billing.models import SpendRetention
from tenants.ids import new_id

LENGTH = timedelta(minutes=1)
Kind = SpendRetention.Kind


@dataclass(frozen=True, slots=True)
class Lease:
    """`runner_id`: the name under which this process deletes."""

    kind: Kind
    runner_id: str

    def hold(self) -> bool:
        """Within the caller's transaction: another process waits for its end, and then this one has lost the lease."""
        own = SpendRetention.objects.filter(id=self.kind, runner_id=self.runner_id)
        return own.update(lease_ends_at=timezone.now() + LENGTH) == 1

    def announce(self, horizon: datetime) -> None:
        """Says that anything that began before may be gone from now on. It never goes back."""
        earlier = Q(complete_from=None) | Q(complete_from__lt=horizon)
        SpendRetention.objects.filter(earlier, id=self.kind, runner_id=self.runner_id).update(complete_from=horizon)

    def release(self) -> None:
        own = SpendRetention.objects.filter(id=self.kind, runner_id=self.runner_id)
        own.update(runner_id="", lease_ends_at=None)


def take_lease(kind: Kind) -> Lease | None:
    """None while another process deletes this kind."""
    now, runner_id = timezone.now(), new_id()
    SpendRetention.objects.bulk_create([SpendRetention(id=kind)], ignore_conflicts=True)
    free = SpendRetention.objects.filter(Q(lease_ends_at=None) | Q(lease_ends_at__lt=now), id=kind)
    is_taken = free.update(runner_id=runner_id, lease_ends_at=now + LENGTH)
    return Lease(kind, runner_id) if is_taken else None


def read_complete_from(kind: Kind) -> datetime | None:
    """Nothing of this kind that began then or later has been deleted; None where nothing ever was."""
    return read_all_complete_from().get(kind)


def read_all_complete_from() -> Mapping[int, datetime]:
    """The same of each kind of which something was deleted."""
    return {kind: at for kind, at in SpendRetention.objects.values_list("id", "complete_from") if at is not None}
