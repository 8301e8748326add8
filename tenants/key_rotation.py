"""Keys whose rotation is due: `/key/list?status=rotation_due` lists them, and a log line names each of them once."""

import logging
from datetime import timedelta

from django.utils import timezone
from django_scopes import scopes_disabled

from tenants.models import VirtualKey

logger = logging.getLogger(__name__)

REPORT_EVERY = timedelta(hours=1)


def report_due_keys() -> int:
    """Logs the keys that have become due within the last hour. Returns how many they are."""
    now = timezone.now()
    with scopes_disabled():  # the worker reports for all organizations
        due = VirtualKey.objects.filter(blocked=False, rotates_at__gt=now - REPORT_EVERY, rotates_at__lte=now)
        rows = list(due.values("id", "alias", "organization_id", "team_id"))
    for row in rows:
        fields = {"key_id": row["id"], "key_alias": row["alias"], "organization": row["organization_id"]}
        logger.warning("the rotation of a key is due", extra={**fields, "team": row["team_id"] or ""})
    return len(rows)
