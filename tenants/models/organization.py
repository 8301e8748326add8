"""Organization: the tenant. Every row that belongs to a tenant names its organization."""

from django.db import models

from tenants.ids import new_id

DEFAULT_ORGANIZATION = "default"


class Organization(models.Model):
    id = models.CharField(primary_key=True, max_length=255, default=new_id)
    name = models.CharField(max_length=255, unique=True)
    blocked = models.BooleanField(default=False, help_text="Refuses every key of this organization.")
    retention_days = models.PositiveIntegerField(
        null=True, blank=True, help_text="How long stored responses are kept; empty: as the gateway's setting says."
    )
    stored_bytes = models.BigIntegerField(default=0, db_default=0, editable=False)  # as the worker last counted them
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
