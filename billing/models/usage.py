"""The rollups of reports: sums by every dimension, for each quarter of an hour and for each day of UTC, written in the
transaction that settles the rows they sum.

A series is one combination of dimensions. Its sums stand in UsageQuarter and, once more, in UsageDay. Quarters of an
hour make the days of every time zone exact. `requests` counts a request at its last attempt, `attempts` every attempt.
Columns of latency count the successful attempts of each slot (billing/latency.py); NULL is 0.

A series has no end user and no tags, which clients invent: UsageMemberDay has the sums of these, by days alone. The
first ones of an organization's day get a UsageMember each, all later ones share one (billing/usage_members.py).
"""

from datetime import date
from typing import ClassVar

from django.db import models
from django_scopes import ScopedManager

from billing.latency import COLUMNS
from billing.models.constraints import MAX_SUM, WholeNumbers
from tenants.models import Organization

FIRST_DAY = date(2000, 1, 1)  # before every row
_SUMMED = (
    "requests",
    "attempts",
    "input_tokens",
    "input_audio_tokens",
    "cache_read_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "output_audio_tokens",
    "reasoning_tokens",
    "cost_pusd",
    "cache_hits",
    "cache_saving_pusd",
    "margin_pusd",
)


class UsageSeries(models.Model):
    digest = models.UUIDField(unique=True)  # of all dimensions
    organization = models.ForeignKey(
        Organization, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+", db_index=False
    )
    team_id = models.CharField(max_length=255)
    user_id = models.CharField(max_length=255)
    key_id = models.CharField(max_length=255)
    model_group = models.CharField(max_length=255)
    provider = models.CharField(max_length=40)
    deployment_id = models.CharField(max_length=255)
    upstream_model = models.CharField(max_length=255)
    application = models.CharField(max_length=40)
    operation = models.CharField(max_length=20)
    is_failure = models.BooleanField()

    objects: ClassVar[models.Manager["UsageSeries"]] = ScopedManager(organization="organization")

    class Meta:
        indexes = [models.Index(fields=["organization"], name="usage_series_organization")]

    def __str__(self) -> str:
        return f"{self.model_group} {self.key_id}"


class UsageSums(models.Model):
    starts_at = models.DateTimeField()
    series = models.ForeignKey(
        UsageSeries, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+", db_index=False
    )
    organization = models.ForeignKey(
        Organization, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+", db_index=False
    )
    requests = models.BigIntegerField(default=0)
    attempts = models.BigIntegerField(default=0)
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
    cache_hits = models.BigIntegerField(default=0, db_default=0)  # attempts that the response cache has answered
    cache_saving_pusd = models.BigIntegerField(default=0, db_default=0)
    margin_pusd = models.BigIntegerField(default=0, db_default=0)  # the cost less what providers are paid

    class Meta:
        abstract = True


for _column in COLUMNS:
    UsageSums.add_to_class(_column, models.IntegerField(null=True))


class UsageQuarter(UsageSums):
    pk = models.CompositePrimaryKey("starts_at", "series_id")

    objects: ClassVar[models.Manager["UsageQuarter"]] = ScopedManager(organization="organization")

    class Meta:
        constraints = [WholeNumbers(fields=_SUMMED, maximum=MAX_SUM, name="usage_quarter_is_whole")]

    def __str__(self) -> str:
        return f"{self.starts_at:%Y-%m-%dT%H:%M}"


class UsageDay(UsageSums):
    pk = models.CompositePrimaryKey("starts_at", "series_id")

    objects: ClassVar[models.Manager["UsageDay"]] = ScopedManager(organization="organization")

    class Meta:
        constraints = [WholeNumbers(fields=_SUMMED, maximum=MAX_SUM, name="usage_day_is_whole")]

    def __str__(self) -> str:
        return f"{self.starts_at:%Y-%m-%d}"


class UsageMember(models.Model):
    """An end user or a tag of one day. The name is empty for all that came when the day had its most already, and in
    the dimension `tagged`, which has each row with a tag once."""

    class Dimension(models.TextChoices):
        END_USER = "end_user"
        TAG = "tag"
        TAGGED = "tagged"

    starts_at = models.DateTimeField()
    organization = models.ForeignKey(
        Organization, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+", db_index=False
    )
    dimension = models.CharField(max_length=10, choices=Dimension)
    name = models.CharField(max_length=255)

    objects: ClassVar[models.Manager["UsageMember"]] = ScopedManager(organization="organization")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["starts_at", "organization", "dimension", "name"], name="usage_member_is_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.starts_at:%Y-%m-%d} {self.dimension} {self.name}"


class UsageMemberDay(UsageSums):
    member = models.ForeignKey(
        UsageMember, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+", db_index=False
    )
    pk = models.CompositePrimaryKey("starts_at", "member_id", "series_id")

    objects: ClassVar[models.Manager["UsageMemberDay"]] = ScopedManager(organization="organization")

    class Meta:
        constraints = [WholeNumbers(fields=_SUMMED, maximum=MAX_SUM, name="usage_member_day_is_whole")]

    def __str__(self) -> str:
        return f"{self.starts_at:%Y-%m-%d}"


class UsageCoverage(models.Model):
    """One row: the rollups of this day, of UTC, and of all later ones are complete; earlier ones may not be."""

    id = models.PositiveSmallIntegerField(primary_key=True)
    complete_from = models.DateField()
    #: The same of the rollups of end users and tags, where it is later.
    members_complete_from = models.DateField(default=FIRST_DAY, db_default=FIRST_DAY)

    def __str__(self) -> str:
        return str(self.complete_from)
