"""Deployment: one upstream, one credential, one upstream model, offered under the name of a model group."""

from typing import ClassVar

from django.db import models
from django_scopes import ScopedManager

from tenants.ids import new_id
from tenants.models import Organization


class Deployment(models.Model):
    class Source(models.TextChoices):
        BUILTIN = "builtin", "built in"
        CONFIG = "config", "managed by config.yaml"
        CONSOLE = "console", "console"

    id = models.CharField(primary_key=True, max_length=255, default=new_id, editable=False)
    # Without an organization a deployment is shared by all of them.
    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="deployments", null=True, blank=True
    )
    model_group = models.CharField(max_length=255, help_text="The public name that clients put in `model`.")
    provider = models.CharField(max_length=40)
    upstream_model = models.CharField(max_length=255, help_text="The model's name at the upstream.")
    api_base = models.CharField("API base", max_length=1024, blank=True, default="")
    credential = models.TextField(blank=True, default="", editable=False)  # sealed, see encryption.py
    parameters = models.JSONField(
        default=dict, blank=True, help_text="Extra fields put into each upstream request body."
    )
    model_info = models.JSONField(default=dict, blank=True)
    weight = models.FloatField(default=1, help_text="Share of the group's calls, relative to its siblings.")
    order = models.IntegerField(default=0, help_text="Lower orders are tried first.")
    rpm = models.PositiveIntegerField("requests per minute", null=True, blank=True)
    tpm = models.PositiveIntegerField("tokens per minute", null=True, blank=True)
    max_parallel = models.PositiveIntegerField("parallel calls", null=True, blank=True)
    timeout_s = models.FloatField(null=True, blank=True, help_text="Seconds to the whole answer.")
    stream_timeout_s = models.FloatField(null=True, blank=True, help_text="Seconds to the first event of a stream.")
    connect_timeout_s = models.FloatField(null=True, blank=True, help_text="Seconds to connect, DNS included.")
    stream_idle_timeout_s = models.FloatField(null=True, blank=True, help_text="Longest silence within a stream.")
    max_stream_duration_s = models.FloatField(null=True, blank=True, help_text="Seconds to the end of a stream.")
    price_id = models.CharField(max_length=36, default="", blank=True, editable=False)
    enabled = models.BooleanField(default=True)
    source = models.CharField(max_length=10, choices=Source, default=Source.CONSOLE, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects: ClassVar[models.Manager["Deployment"]] = ScopedManager(organization="organization")

    class Meta:
        ordering = ["model_group", "order", "id"]

    def __str__(self) -> str:
        return f"{self.model_group} → {self.provider}/{self.upstream_model}"
