"""`manage.py verify_audit`: proves that no entry of the audit log was changed, removed or inserted."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django_scopes import scopes_disabled

from tenants.audit import find_broken_entry
from tenants.models import AuditEntry


class Command(BaseCommand):
    help = "Prove that no entry of the audit log was changed, removed or inserted; exit 1 where one was."

    def handle(self, **options: Any) -> None:
        entry = find_broken_entry()
        if entry is not None:
            raise CommandError(f"The audit log is broken at entry {entry.id} of {entry.at:%Y-%m-%d %H:%M:%S} UTC.")
        with scopes_disabled():  # a user of this shell is the platform admin
            last, count = AuditEntry.objects.order_by("-id").first(), AuditEntry.objects.count()
        newest = f"; the newest digest is {last.digest}" if last is not None else ""
        self.stdout.write(f"{count} entries, none changed{newest}")
