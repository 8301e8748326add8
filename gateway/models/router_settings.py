"""RouterSettings: the rules of routing, one row for the installation."""

from django.db import models


class RouterSettings(models.Model):
    """`values`: LiteLLM's `router_settings`, as gateway/routing/read_settings.py reads them."""

    class Source(models.TextChoices):
        CONFIG = "config", "managed by config.yaml"
        CONSOLE = "console", "console"

    id = models.PositiveSmallIntegerField(primary_key=True, default=1, editable=False)
    values = models.JSONField(default=dict, blank=True)
    source = models.CharField(max_length=10, choices=Source, default=Source.CONSOLE, editable=False)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name_plural = "router settings"
        constraints = [models.CheckConstraint(condition=models.Q(id=1), name="one_row_of_router_settings")]

    def __str__(self) -> str:
        return "Routing"
