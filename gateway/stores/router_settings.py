"""Writing the routing settings: the one way in for config.yaml, the console and the management API."""

from collections.abc import Mapping

from django.db import transaction

from gateway.models import RouterSettings
from gateway.protocol.json.types import Json
from gateway.routing.read_settings import NAMES, read_settings
from tenants.audit import audited
from tenants.invalid import ArgumentInvalid
from tenants.revision import bump_revision


def save_router_settings(values: Mapping[str, Json], source: RouterSettings.Source) -> RouterSettings:
    """Stores all settings; a name that is not among them has its default. Raises ArgumentInvalid, which names the first
    setting that cannot be used. Settings that are the same change nothing."""
    unknown = sorted(values.keys() - NAMES)
    if unknown:
        raise ArgumentInvalid(unknown[0], "is not a routing setting")
    for name, message in read_settings(values)[1]:
        raise ArgumentInvalid(name, message)
    with transaction.atomic():
        row = RouterSettings.objects.select_for_update().filter(id=1).first()
        if row is None and not values:
            return RouterSettings()
        if row is not None and (row.values, row.source) == (dict(values), source.value):
            return row
        is_new = row is None
        row = row or RouterSettings()
        row.values, row.source = dict(values), source
        with audited("create" if is_new else "update", row):
            row.save()
        bump_revision()
    return row
