"""Who may read /metrics: the master key, and keys of users whose role reads the whole platform."""

from django_scopes import scopes_disabled

from tenants.models import VirtualKey
from tenants.permissions import Area, Reach, caller_of_key, reach_of


def may_read_metrics(key_id: str) -> bool:
    """True if the key's role reads the settings of the platform. One query."""
    with scopes_disabled():  # the key was found by its text
        key = VirtualKey.objects.select_related("user").filter(pk=key_id).first()
        return key is not None and reach_of(caller_of_key(key), Area.SETTINGS) == Reach.PLATFORM
