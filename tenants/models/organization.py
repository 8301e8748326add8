"""Organization: the tenant. Every row that belongs to a tenant names its organization."""

from django.db import models
from django.db.models import Value

from tenants.ids import new_id

DEFAULT_ORGANIZATION = "default"


class UnpricedPolicy(models.TextChoices):
    BLOCK = "block"
    ALLOW = "allow"


class Organization(models.Model):
    id = models.CharField(primary_key=True, max_length=255, default=new_id)
    name = models.CharField(max_length=255, unique=True)
    blocked = models.BooleanField(default=False, help_text="Refuses every key of this organization.")
    retention_days = models.PositiveIntegerField(
        null=True, blank=True, help_text="How long stored responses are kept; empty: as the gateway's setting says."
    )
    allowed_models = models.JSONField(
        default=list,
        db_default=Value([], models.JSONField()),
        blank=True,
        help_text="Model groups that anything in this organization may call; empty: all.",
    )
    metadata = models.JSONField(default=dict, db_default=Value({}, models.JSONField()), blank=True)
    time_zone = models.CharField(
        max_length=64, default="UTC", db_default="UTC", help_text="Where the days and months of its budgets begin."
    )
    unpriced_policy = models.CharField(
        max_length=10,
        choices=UnpricedPolicy.choices,
        default=UnpricedPolicy.BLOCK,
        db_default=UnpricedPolicy.BLOCK,
        help_text="A call of a model without a price, under a hard budget.",
    )
    budget_template = models.ForeignKey(
        "tenants.BudgetTemplate", on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    stored_bytes = models.BigIntegerField(default=0, db_default=0, editable=False)  # as the worker last counted them
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
