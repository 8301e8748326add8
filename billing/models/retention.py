"""SpendRetention and RetiredSpend: from when on the spend log and its rollups are complete, and the sums that deleted
rows were part of.

A deleted row leaves its cost here, for each sum that is kept by rows alone: so rows and retired spend together go on
proving the spend of end users and of budget windows.
"""

from enum import IntEnum
from typing import ClassVar

from django.db import models
from django_scopes import ScopedManager

from tenants.models import Organization


class SpendRetention(models.Model):
    """One row for each kind of what is deleted. What began before `complete_from` may have been deleted."""

    class Kind(IntEnum):
        """`ROWS`: of the spend log; `DAYS`: rollups of days, also by end user and tag; `QUARTERS`: those of quarters of
        an hour."""

        ROWS = 1
        DAYS = 2
        QUARTERS = 3

    id = models.PositiveSmallIntegerField(primary_key=True)
    complete_from = models.DateTimeField(null=True)
    runner_id = models.CharField(max_length=36, default="", blank=True)  # the one process that deletes
    lease_ends_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return str(self.complete_from)


class RetiredSpend(models.Model):
    class Kind(models.TextChoices):
        END_USER = "end_user"
        WINDOW = "window"

    pk = models.CompositePrimaryKey("organization_id", "kind", "holder")
    organization = models.ForeignKey(
        Organization, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+", db_index=False
    )
    kind = models.CharField(max_length=10, choices=Kind)
    holder = models.CharField(max_length=255)  # the name of the end user, or the id of the window
    pusd = models.BigIntegerField(default=0)

    objects: ClassVar[models.Manager["RetiredSpend"]] = ScopedManager(organization="organization")

    class Meta:
        indexes = [models.Index(fields=["kind", "holder"], name="retired_spend_holder")]

    def __str__(self) -> str:
        return f"{self.kind} {self.holder} {self.pusd}"
