"""`manage.py create_key`: issue a virtual key and print its text, which is not stored."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.utils import timezone
from django_scopes import scopes_disabled

from tenants.durations import read_duration
from tenants.invalid import KeyInvalid
from tenants.keys import issue_key, resolve_key_owner

OPTIONS = {"allowed_models": "models", "expires_at": "duration"}


class Command(BaseCommand):
    help = "Issue a virtual key and print it, once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--alias", default="", help="a unique name for the key")
        parser.add_argument("--models", default="", help="comma-separated model groups; default: all")
        parser.add_argument("--team", help="the id of the team it belongs to")
        parser.add_argument("--user", help="the id of the user it belongs to; created when unknown")
        parser.add_argument("--organization", help="its id; default: the team's, or the default one")
        parser.add_argument("--duration", help="60s, 10m, 24h, 30d, 1w or 1mo; default: for ever")
        parser.add_argument("--json", action="store_true", help="print a JSON object instead of the bare key")

    def handle(self, *args: object, **options: Any) -> None:
        models = [name.strip() for name in options["models"].split(",") if name.strip()]
        try:
            expires_at = timezone.now() + read_duration(options["duration"]) if options["duration"] else None
            with scopes_disabled(), transaction.atomic():  # a user of this shell is the platform admin
                owner = resolve_key_owner(
                    organization_id=options["organization"], team_id=options["team"], user_id=options["user"]
                )
                issued = issue_key(
                    organization=owner.organization,
                    team=owner.team,
                    user=owner.user,
                    alias=options["alias"],
                    allowed_models=models,
                    expires_at=expires_at,
                    created_by="create_key",
                )
        except KeyInvalid as error:
            raise CommandError(f"--{OPTIONS.get(error.param, error.param)}: {error.message}") from None
        if not options["json"]:
            self.stdout.write(issued.text)
            return
        key = issued.key
        answer = {
            "key": issued.text,
            "token": key.digest,
            "key_name": key.masked_text,
            "key_alias": key.alias or None,
            "models": key.allowed_models,
            "team_id": key.team_id,
            "user_id": key.user.username if key.user else None,
            "organization_id": key.organization_id,
            "expires": key.expires_at.isoformat() if key.expires_at else None,
        }
        self.stdout.write(json.dumps(answer, ensure_ascii=False))
