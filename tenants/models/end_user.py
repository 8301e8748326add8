"""EndUser: a customer of the client, named in its requests (LiteLLM's `customer`)."""

from typing import ClassVar

from django.db import models
from django_scopes import ScopedManager

from tenants.models.limits import BudgetTemplate
from tenants.models.organization import Organization


class EndUser(models.Model):
    """Created when a request first names it."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="end_users")
    external_id = models.CharField("end user id", max_length=255)
    alias = models.CharField(max_length=255, blank=True, default="")
    blocked = models.BooleanField(default=False)
    allowed_models = models.JSONField(default=list, blank=True)
    default_model = models.CharField(max_length=255, blank=True, default="")
    budget_template = models.ForeignKey(BudgetTemplate, on_delete=models.SET_NULL, null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects: ClassVar[models.Manager["EndUser"]] = ScopedManager(organization="organization")

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["organization", "external_id"], name="end_user_is_unique"),
        ]

    def __str__(self) -> str:
        return self.alias or self.external_id
