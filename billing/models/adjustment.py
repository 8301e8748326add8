"""PriceAdjustment and RepriceJob: what a repricing has changed, and how far it is.

A spend row that has a cost keeps it for ever; an adjustment says what it costs by another version of the price. Its
delta stands in the hourly sums and in the budgets. A row that had no price gets its first cost in the row itself.
"""

from typing import ClassVar

from django.db import models
from django_scopes import ScopedManager

from billing.models.constraints import WholeNumbers
from tenants.ids import new_id
from tenants.models import Organization


class RepriceJob(models.Model):
    class State(models.TextChoices):
        RUNNING = "running"
        DONE = "done"
        CANCELLED = "cancelled"

    id = models.CharField(primary_key=True, max_length=36, default=new_id, editable=False)
    model = models.CharField(max_length=255)  # a model group, or the id of a deployment
    is_unpriced = models.BooleanField()  # only rows that have no cost yet
    since = models.DateTimeField(null=True)
    until = models.DateTimeField()  # rows that start later have their price already
    reason = models.CharField(max_length=255, default="", db_default="", blank=True)
    actor = models.CharField(max_length=255, default="", db_default="", blank=True)
    state = models.CharField(max_length=10, choices=State, default=State.RUNNING)
    cursor = models.UUIDField(null=True)  # the last row that is done
    rows = models.BigIntegerField(default=0)  # seen so far
    changed = models.BigIntegerField(default=0)
    delta_pusd = models.BigIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.model} {self.state}"


class PriceAdjustment(models.Model):
    id = models.CharField(primary_key=True, max_length=36, default=new_id, editable=False)
    spend_id = models.UUIDField()
    organization = models.ForeignKey(
        Organization, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+", db_index=False
    )
    job_id = models.CharField(max_length=36)
    old_price_id = models.CharField(max_length=36, default="", blank=True)
    new_price_id = models.CharField(max_length=36)
    cost_pusd = models.BigIntegerField()  # the row's cost from now on
    delta_pusd = models.BigIntegerField()  # what that is more than before
    margin_delta_pusd = models.BigIntegerField(default=0, db_default=0)
    cache_saving_delta_pusd = models.BigIntegerField(default=0, db_default=0)
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[models.Manager["PriceAdjustment"]] = ScopedManager(organization="organization")

    class Meta:
        constraints = [
            # not by the price: a row may come back to one that it had before
            models.UniqueConstraint(fields=["spend_id", "job_id"], name="price_adjustment_is_once_a_job"),
            WholeNumbers(fields=["cost_pusd", "delta_pusd"], name="price_adjustment_is_whole"),
        ]

    def __str__(self) -> str:
        return f"{self.spend_id} {self.delta_pusd:+d}"
