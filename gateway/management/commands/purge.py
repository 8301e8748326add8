"""purge: erases expired stored responses or, by hand, the stored data of an owner or before an instant."""

import re
from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from django_scopes import scopes_disabled

from gateway.stores.retention import Selection, count_expired, count_selected, erase_selected, purge_expired
from tenants.models import Organization

OWNER = re.compile(r"(team|user|key):.+")


class Command(BaseCommand):
    help = (
        "Erase stored responses that have expired. With --owner, --before or --all: erase responses and conversations "
        "by hand, whether they have expired or not. Spend logs hold no content and stay."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--organization", default="", metavar="ID", help="of this organization only")
        parser.add_argument("--owner", default="", metavar="team:ID|user:ID|key:ID", help="erase what is stored of it")
        parser.add_argument(
            "--before",
            type=parse_instant,
            metavar="DATE",
            help="erase what was made before: 2026-01-31, or an instant such as 2026-01-31T12:00:00+00:00",
        )
        parser.add_argument("--all", action="store_true", help="erase all that is stored; with --organization")
        parser.add_argument("--dry-run", action="store_true", help="erase nothing, say how much it would be")
        parser.add_argument("--no-input", action="store_false", dest="ask", help="erase by hand without asking")

    def handle(self, *args: Any, **options: Any) -> None:
        selection = Selection(options["organization"], options["owner"], options["before"])
        if options["owner"] and not OWNER.fullmatch(options["owner"]):
            raise CommandError("--owner: must be team:ID, user:ID or key:ID")
        if options["all"] and not options["organization"]:
            raise CommandError("--all: needs --organization")
        with scopes_disabled():  # a user with a shell here is the platform admin
            organizations = Organization.objects.filter(pk=selection.organization_id)
            if selection.organization_id and not organizations.exists():
                raise CommandError(f"--organization: there is none with the id {selection.organization_id!r}")
        if options["all"] or selection.owner or selection.before:
            self._erase(selection, is_dry=options["dry_run"], ask=options["ask"])
        else:
            self._purge(selection.organization_id, is_dry=options["dry_run"])

    def _purge(self, organization_id: str, *, is_dry: bool) -> None:
        if is_dry:
            purged, _ = count_expired(organization_id)
        else:
            purged = purge_expired(organization_id).responses
        _, staying = count_expired(organization_id)
        self.stdout.write(f"{'would purge' if is_dry else 'purged'} {format_count(purged, 'expired response')}")
        if staying:
            count = format_count(staying, "expired response")
            self.stdout.write(f"{count} stay: others that have not expired build upon them")

    def _erase(self, selection: Selection, *, is_dry: bool, ask: bool) -> None:
        total = count_selected(selection)
        summary = f"{format_count(total.responses, 'response')} and {format_count(total.conversations, 'conversation')}"
        if is_dry:
            self.stdout.write(f"would erase {summary}")
            return
        if ask and input(f"This erases {summary}, for ever. Type 'yes' to go on: ").strip() != "yes":
            raise CommandError("nothing was erased")
        erased = erase_selected(selection)
        responses = format_count(erased.responses, "response")
        self.stdout.write(f"erased {responses} and {format_count(erased.conversations, 'conversation')}")


def parse_instant(text: str) -> datetime:
    """A day begins at midnight of TOLLGATE_TIME_ZONE."""
    at = datetime.fromisoformat(text)
    return timezone.make_aware(at) if timezone.is_naive(at) else at


def format_count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
