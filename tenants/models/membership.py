"""Membership: a user in a team, with a role there. Roles of the platform and of organizations stand on the user."""

from typing import ClassVar

from django.db import models
from django.db.models import Value
from django_scopes import ScopedManager

from tenants.models.limits import BudgetTemplate
from tenants.models.organization import Organization
from tenants.models.team import Team
from tenants.models.user import User


class Membership(models.Model):
    class Role(models.TextChoices):
        ADMIN = "admin"
        USER = "user"

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="memberships")
    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=20, choices=Role.choices, default=Role.USER)
    allowed_models = models.JSONField(
        default=list,
        db_default=Value([], models.JSONField()),
        blank=True,
        help_text="Model groups that the user may call with keys of this team; empty: all that the team may.",
    )
    budget_template = models.ForeignKey(BudgetTemplate, on_delete=models.SET_NULL, null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[models.Manager["Membership"]] = ScopedManager(organization="organization")

    class Meta:
        ordering = ["created_at"]
        constraints = [models.UniqueConstraint(fields=["team", "user"], name="membership_is_unique")]

    def __str__(self) -> str:
        return f"{self.user} in {self.team}"
