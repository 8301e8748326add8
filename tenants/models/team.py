"""Team: a group of people and keys inside one organization."""

from typing import ClassVar

from django.db import models
from django.db.models import Value
from django_scopes import ScopedManager

from tenants.ids import new_id
from tenants.models.limits import BudgetTemplate
from tenants.models.organization import Organization


class Team(models.Model):
    id = models.CharField(primary_key=True, max_length=255, default=new_id)
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="teams")
    alias = models.CharField(max_length=255, blank=True, default="")
    allowed_models = models.JSONField(
        default=list, blank=True, help_text="Model groups that keys of this team may call; empty: all."
    )
    model_aliases = models.JSONField(default=dict, db_default=Value({}, models.JSONField()), blank=True)
    budget_template = models.ForeignKey(
        BudgetTemplate, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    member_template = models.ForeignKey(  # of every member without a template of its own
        BudgetTemplate, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    metadata = models.JSONField(default=dict, blank=True)
    blocked = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects: ClassVar[models.Manager["Team"]] = ScopedManager(organization="organization")

    class Meta:
        ordering = ["alias", "id"]

    def __str__(self) -> str:
        return self.alias or self.id
