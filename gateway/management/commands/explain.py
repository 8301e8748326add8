"""`manage.py explain`: what would become of a request, as POST /api/explain tells it."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django_scopes import scopes_disabled

from gateway.explanation.call import ENDPOINTS, explain
from gateway.protocol.errors import Fault
from tenants.keys import find_key


class Command(BaseCommand):
    help = "Tell which model, deployments, limits and budgets apply to a request, and which would refuse it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--key", required=True, help="the digest of the key; its text would stay in the shell")
        parser.add_argument("--model", required=True, help="the model that the request names")
        parser.add_argument("--endpoint", default="chat/completions", choices=sorted(ENDPOINTS))
        parser.add_argument("--request", default="{}", help="further fields of the request, as JSON")

    def handle(self, *args: object, **options: Any) -> None:
        try:
            sample = json.loads(options["request"])
        except json.JSONDecodeError as error:
            raise CommandError(f"--request: {error}") from None
        if not isinstance(sample, dict):
            raise CommandError("--request: must be a JSON object")
        chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1000}
        field = {"embeddings": {"input": "Hello"}, "completions": {"prompt": "Hello"}}.get(options["endpoint"], chat)
        with scopes_disabled():  # a user of this shell is the platform admin
            key = find_key(options["key"])
            if key is None:
                raise CommandError("--key: there is no key with this digest")
            try:
                answer = explain(
                    key,
                    ENDPOINTS[options["endpoint"]],
                    {"model": options["model"], **field, **sample},
                    has_figures=True,
                )
            except Fault as fault:
                raise CommandError(f"--request: {fault.message}") from None
        self.stdout.write(json.dumps(answer, indent=2, ensure_ascii=False))
