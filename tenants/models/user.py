"""User: a person or service account. `username` is the user id of the management API."""

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models import Value

from tenants.models.organization import Organization


class Role(models.TextChoices):
    """The rights of a user outside its teams; `docs/tenancy.md` has the table. A superuser is the platform admin."""

    PLATFORM_VIEWER = "platform_viewer"
    ORGANIZATION_ADMIN = "organization_admin"
    BILLING_VIEWER = "billing_viewer"
    MEMBER = "member"
    MEMBER_VIEWER = "member_viewer"


class User(AbstractUser):
    username = models.CharField("user id", max_length=255, unique=True)
    # A platform admin may have none; every other user has exactly one.
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="users", null=True, blank=True
    )
    role = models.CharField(max_length=20, choices=Role.choices, default=Role.MEMBER, db_default=Role.MEMBER)
    may_view_content = models.BooleanField(
        default=False, db_default=False, help_text="May read prompts and answers of what the role may see."
    )
    alias = models.CharField(max_length=255, blank=True, default="", db_default="")
    allowed_models = models.JSONField(default=list, db_default=Value([], models.JSONField()), blank=True)
    metadata = models.JSONField(default=dict, db_default=Value({}, models.JSONField()), blank=True)
    budget_template = models.ForeignKey(
        "tenants.BudgetTemplate", on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )

    class Meta(AbstractUser.Meta):
        constraints = [
            models.CheckConstraint(
                name="user_inside_an_organization",
                condition=models.Q(organization__isnull=False) | models.Q(is_superuser=True),
            )
        ]
