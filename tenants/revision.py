"""The revision counter, which every process polls to learn of changed keys, teams, organizations and deployments."""

from django.db.models import F

from tenants.models import Revision


def bump_revision() -> None:
    """Increment the revision. Called in the transaction of the change, so that both become visible together."""
    if not Revision.objects.filter(id=1).update(value=F("value") + 1):
        Revision.objects.create(id=1, value=1)


def current_revision() -> int:
    return Revision.objects.values_list("value", flat=True).filter(id=1).first() or 0
