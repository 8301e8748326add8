"""Scheduled reports: when one is made and where it is sent (ReportSchedule), and its file on the way (ReportFile)."""

from typing import ClassVar

from django.db import models
from django.db.models import Q, Value
from django_scopes import ScopedManager

from billing.models.alert import Alert
from tenants.ids import new_id
from tenants.models import Organization


class ReportSchedule(models.Model):
    """A report that is sent again and again. Without an organization it is the platform's, and tells the spend of all.

    `next_at` is when it is due. `try_at` is when a worker may take it: later than `next_at` while one makes it, and
    after a failure. `attempts` are those since it was due."""

    class Frequency(models.TextChoices):
        DAILY = "daily", "every day"
        WEEKLY = "weekly", "every week"
        MONTHLY = "monthly", "every month"

    id = models.CharField(primary_key=True, max_length=255, default=new_id, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="report_schedules", null=True, blank=True
    )
    name = models.CharField(max_length=255)
    group_by = models.CharField(max_length=100)
    #: {dimension: the member whose rows the report is of}; a member that is gone has none.
    filters = models.JSONField(default=dict, db_default=Value({}, models.JSONField()), blank=True)
    measures = models.CharField(max_length=40, default="", db_default="", blank=True)  # beside the usual ones
    period = models.CharField(max_length=20)
    time_zone = models.CharField(max_length=64)
    format = models.CharField(max_length=10)
    frequency = models.CharField(max_length=10, choices=Frequency)
    weekday = models.CharField(max_length=10, blank=True, default="")  # weekly alone
    day = models.PositiveSmallIntegerField(null=True, blank=True)  # of the month; monthly alone
    hour = models.PositiveSmallIntegerField()
    channel_ids = models.JSONField(default=list)
    is_enabled = models.BooleanField(default=True)
    next_at = models.DateTimeField()
    try_at = models.DateTimeField()
    attempts = models.PositiveIntegerField(default=0)
    last_sent_at = models.DateTimeField(null=True, blank=True)
    error = models.CharField(max_length=500, blank=True, default="")  # of the last attempt; empty after a success
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[models.Manager["ReportSchedule"]] = ScopedManager(organization="organization")

    class Meta:
        ordering = ["name", "id"]
        indexes = [models.Index(fields=["try_at"], condition=Q(is_enabled=True), name="report_schedule_due")]

    def __str__(self) -> str:
        return self.name


class ReportFile(models.Model):
    """The report that an alert of the kind `report.spend` carries, until it is delivered. `rows`: the first ones, for
    webhooks and chats; `content` is None where the file was too large to send."""

    alert = models.OneToOneField(Alert, on_delete=models.CASCADE, primary_key=True, related_name="+")
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="+", null=True, blank=True
    )  # the alert's
    name = models.CharField(max_length=100)
    media_type = models.CharField(max_length=100)
    content = models.BinaryField(null=True)
    rows = models.JSONField(default=list)

    objects: ClassVar[models.Manager["ReportFile"]] = ScopedManager(organization="organization")

    def __str__(self) -> str:
        return self.name
