"""User: a person or service account. `username` is the user id of the management API."""

from django.contrib.auth.models import AbstractUser
from django.db import models

from tenants.models.organization import Organization


class User(AbstractUser):
    username = models.CharField("user id", max_length=255, unique=True)
    # A platform admin may have none; every other user has exactly one.
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="users", null=True, blank=True
    )

    class Meta(AbstractUser.Meta):
        constraints = [
            models.CheckConstraint(
                name="user_inside_an_organization",
                condition=models.Q(organization__isnull=False) | models.Q(is_superuser=True),
            )
        ]
