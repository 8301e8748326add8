"""login_link: prints a link that signs the platform admin in to the console once, within an hour."""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from gateway.server.address import console_base
from tenants.access import create_login_link, ensure_platform_admin


class Command(BaseCommand):
    help = "Print a link that signs the platform admin in to the console once, within an hour."

    def add_arguments(self, parser: ArgumentParser) -> None:
        base = console_base(settings.HOST, settings.PORT)
        parser.add_argument("--base", default=base, help="where the browser reaches the gateway (default: %(default)s)")

    def handle(self, *args: Any, **options: Any) -> None:
        token = create_login_link(ensure_platform_admin())
        self.stdout.write(f"{options['base'].rstrip('/')}/console/login/link/{token}/")
