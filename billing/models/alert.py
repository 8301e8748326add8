"""Alerts: what happened (Alert), where alerts go (AlertChannel), and each way of one to the other (AlertDelivery)."""

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django_scopes import ScopedManager

from tenants.ids import new_id
from tenants.models import Organization


class AlertKind(models.TextChoices):
    BUDGET = "budget.threshold", "a budget has reached a threshold"
    FORECAST = "budget.forecast", "a budget will be spent before its window ends"
    SPIKE = "spend.spike", "the spend of an hour is far above the usual"
    UNPRICED = "model.unpriced", "calls have no price"
    CREDENTIAL = "deployment.credential", "an upstream refuses the credential of a deployment"
    PRICING_LAG = "pricing.lag", "calls wait for their cost"
    TEST = "test", "a test"
    REPORT = "report.spend", "a scheduled report"


class AlertChannel(models.Model):
    """A place that alerts are sent to. Without an organization it is the platform's, and gets the alerts of all."""

    class Kind(models.TextChoices):
        WEBHOOK = "webhook", "webhook"
        EMAIL = "email", "e-mail"
        SLACK = "slack", "Slack"
        FEISHU = "feishu", "Feishu"
        DINGTALK = "dingtalk", "DingTalk"
        WECOM = "wecom", "WeCom"

    id = models.CharField(primary_key=True, max_length=255, default=new_id, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="alert_channels", null=True, blank=True
    )
    name = models.CharField(max_length=255)
    kind = models.CharField(max_length=20, choices=Kind)
    credential = models.TextField(editable=False)  # sealed: addresses hold tokens
    hint = models.CharField(max_length=255)  # what may be shown of the address
    alert_kinds = models.JSONField(default=list, blank=True)  # empty: all
    is_enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[models.Manager["AlertChannel"]] = ScopedManager(organization="organization")

    class Meta:
        ordering = ["name", "id"]

    def __str__(self) -> str:
        return self.name


class Alert(models.Model):
    """Something that happened once: `key` is unique, so two processes that find it make one row. Without an
    organization it concerns the platform."""

    id = models.CharField(primary_key=True, max_length=255, default=new_id, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="alerts", null=True, blank=True
    )
    kind = models.CharField(max_length=30, choices=AlertKind)
    key = models.CharField(max_length=700, unique=True)
    title = models.CharField(max_length=500)
    data = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    objects: ClassVar[models.Manager["Alert"]] = ScopedManager(organization="organization")

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.title


class AlertDelivery(models.Model):
    """One alert on its way to one channel. `next_at` is when it may be tried; a process that tries it moves it on."""

    class State(models.TextChoices):
        PENDING = "pending", "pending"
        DELIVERED = "delivered", "delivered"
        FAILED = "failed", "failed"

    id = models.CharField(primary_key=True, max_length=255, default=new_id, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="+", null=True, blank=True
    )  # the channel's
    alert = models.ForeignKey(Alert, on_delete=models.CASCADE, related_name="+")
    channel = models.ForeignKey(AlertChannel, on_delete=models.CASCADE, related_name="+")
    state = models.CharField(max_length=10, choices=State, default=State.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    next_at = models.DateTimeField()
    status_code = models.PositiveIntegerField(null=True, blank=True)
    error = models.CharField(max_length=500, blank=True, default="")
    ended_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[models.Manager["AlertDelivery"]] = ScopedManager(organization="organization")

    class Meta:
        ordering = ["-created_at", "id"]
        constraints = [models.UniqueConstraint(fields=["alert", "channel"], name="alert_is_delivered_once")]
        indexes = [models.Index(fields=["next_at"], condition=Q(state="pending"), name="alert_delivery_due")]

    def __str__(self) -> str:
        return f"{self.alert_id} to {self.channel_id}"
