"""UsageHour: sums per UTC hour, written in the same transaction that prices the rows they sum."""

from typing import ClassVar

from django.db import models
from django_scopes import ScopedManager

from billing.models.constraints import MAX_SUM, WholeNumbers
from tenants.models import Organization


class UsageHour(models.Model):
    hour = models.DateTimeField()
    organization = models.ForeignKey(
        Organization, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+", db_index=False
    )
    team_id = models.CharField(max_length=255)
    user_id = models.CharField(max_length=255)
    key_id = models.CharField(max_length=255)
    model_group = models.CharField(max_length=255)
    provider = models.CharField(max_length=40)
    deployment_id = models.CharField(max_length=255)

    requests = models.BigIntegerField(default=0)
    failures = models.BigIntegerField(default=0)
    estimated = models.BigIntegerField(default=0)
    unpriced = models.BigIntegerField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    input_audio_tokens = models.BigIntegerField(default=0)
    cache_read_tokens = models.BigIntegerField(default=0)
    cache_write_5m_tokens = models.BigIntegerField(default=0)
    cache_write_1h_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    output_audio_tokens = models.BigIntegerField(default=0)
    reasoning_tokens = models.BigIntegerField(default=0)
    cost_pusd = models.BigIntegerField(default=0)

    objects: ClassVar[models.Manager["UsageHour"]] = ScopedManager(organization="organization")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=[
                    "hour",
                    "organization",
                    "team_id",
                    "user_id",
                    "key_id",
                    "model_group",
                    "provider",
                    "deployment_id",
                ],
                name="usage_hour_is_unique",
            ),
            WholeNumbers(
                fields=[
                    "requests",
                    "input_tokens",
                    "input_audio_tokens",
                    "cache_read_tokens",
                    "cache_write_5m_tokens",
                    "cache_write_1h_tokens",
                    "output_tokens",
                    "output_audio_tokens",
                    "reasoning_tokens",
                    "cost_pusd",
                ],
                maximum=MAX_SUM,
                name="usage_hour_is_whole",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h {self.model_group}"
