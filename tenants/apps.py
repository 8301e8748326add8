"""App configuration of the tenants app."""

from django.apps import AppConfig
from django.core import checks
from django.db.models.signals import post_migrate


class TenantsConfig(AppConfig):
    name = "tenants"
    verbose_name = "Tenants"

    def ready(self) -> None:
        from tenants.row_security.checks import check_row_security, put_on_after_migrate  # noqa: PLC0415 - needs models

        checks.register(check_row_security, checks.Tags.security, deploy=True)
        post_migrate.connect(put_on_after_migrate, sender=self)
