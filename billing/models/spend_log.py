"""SpendLog: the durable record of one upstream attempt that could cost money.

Life of a row (`state`): open → metered → priced | unpriced. Side exits: aborted (nothing was sent upstream), lost (its
process seemed dead; charged by estimate) and parked (the hourly sums cannot take it; they do not count it). A lost row
whose process closes it after all becomes late, and from there priced | unpriced: what is known replaces the estimate,
in the hourly sums too. Ids and names are values, not foreign keys: deleting a key or
a deployment never deletes history. Tokens are disjoint: the five input columns add up to the whole input, the
three output columns to the whole output. Money is in picodollars (1e-12 USD).
"""

from typing import ClassVar

from django.db import models
from django.db.models.expressions import RawSQL
from django_scopes import ScopedManager

from billing.models.constraints import WholeNumbers
from tenants.models import Organization

SETTLED = ~models.Q(state__in=["open", "metered"])


class SpendLog(models.Model):
    class State(models.TextChoices):
        OPEN = "open"
        METERED = "metered"
        PRICED = "priced"
        UNPRICED = "unpriced"
        ABORTED = "aborted"
        LOST = "lost"
        LATE = "late"
        PARKED = "parked"

    id = models.UUIDField(primary_key=True, editable=False)
    request_id = models.UUIDField()
    attempt = models.PositiveSmallIntegerField(default=0)
    state = models.CharField(max_length=8, choices=State, default=State.OPEN)
    writer_id = models.CharField(max_length=36)  # the web process that holds the row while it is open

    # The caller, as values
    organization = models.ForeignKey(
        Organization, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+", db_index=False
    )
    team_id = models.CharField(max_length=255, default="")
    user_id = models.CharField(max_length=255, default="")
    key_id = models.CharField(max_length=255, default="")
    key_digest = models.CharField(max_length=64, default="")
    key_alias = models.CharField(max_length=255, default="")
    end_user = models.CharField(max_length=255, default="")
    tags = models.TextField(default="[]")  # JSON list, as text: the same column on both databases
    metadata = models.TextField(default="{}")  # JSON object, as text

    # The call and its target
    source = models.CharField(max_length=10, default="", db_default="")  # probe; empty: a client's call
    application = models.CharField(max_length=40, default="", db_default="")  # see gateway.protocol.applications
    operation = models.CharField(max_length=20)
    stream = models.BooleanField(default=False)
    model_group = models.CharField(max_length=255)
    deployment_id = models.CharField(max_length=255)
    provider = models.CharField(max_length=40)
    upstream_model = models.CharField(max_length=255)
    price_id = models.CharField(max_length=36, default="")

    # The result
    served_model = models.CharField(max_length=255, default="")
    upstream_id = models.CharField(max_length=255, default="")
    service_tier = models.CharField(max_length=40, default="")
    finish = models.CharField(max_length=20, default="")  # see protocol.call.Finish
    status_code = models.PositiveSmallIntegerField(default=0)  # the status that the client got
    error_code = models.CharField(max_length=64, default="")
    error_message = models.CharField(max_length=1000, default="", db_default="")  # without secrets and addresses
    usage = models.TextField(default="")  # the provider's usage object, verbatim JSON
    usage_source = models.CharField(max_length=10, default="none")  # provider | partial | estimated | none
    usage_inconsistent = models.BooleanField(default=False)
    input_tokens = models.BigIntegerField(default=0)
    input_audio_tokens = models.BigIntegerField(default=0)
    cache_read_tokens = models.BigIntegerField(default=0)
    cache_write_5m_tokens = models.BigIntegerField(default=0)
    cache_write_1h_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    output_audio_tokens = models.BigIntegerField(default=0)
    reasoning_tokens = models.BigIntegerField(default=0)
    lost_tokens = models.BigIntegerField(default=0, db_default=0)  # of a late row: the estimate that was charged

    routing = models.TextField(default="", db_default="")  # see billing.attempt_routing

    cache_hit = models.BooleanField(default=False, db_default=False)  # the response cache has answered: it cost nothing
    budget_windows = models.TextField(default="", db_default="")  # the ids of the windows that its cost is settled in

    started_at = models.DateTimeField()
    first_token_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    cost_pusd = models.BigIntegerField(null=True)
    provider_cost_pusd = models.BigIntegerField(null=True)  # what the provider is paid; None: the cost itself
    cache_saving_pusd = models.BigIntegerField(null=True)  # against the price of input that is not cached
    priced_at = models.DateTimeField(null=True)
    #: Why the row has no price; of a priced one, which lines stood in for others.
    price_error = models.CharField(max_length=255, default="")

    objects: ClassVar[models.Manager["SpendLog"]] = ScopedManager(organization="organization")

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["request_id", "attempt"], name="spend_log_attempt_is_unique"),
            WholeNumbers(
                fields=[
                    "input_tokens",
                    "input_audio_tokens",
                    "cache_read_tokens",
                    "cache_write_5m_tokens",
                    "cache_write_1h_tokens",
                    "output_tokens",
                    "output_audio_tokens",
                    "reasoning_tokens",
                    "lost_tokens",
                    "cost_pusd",
                ],
                name="spend_log_is_whole",
            ),
        ]
        indexes = [
            models.Index(fields=["id"], name="spend_log_metered", condition=models.Q(state="metered")),
            models.Index(fields=["writer_id"], name="spend_log_open", condition=models.Q(state="open")),
            models.Index(fields=["id"], name="spend_log_late", condition=models.Q(state="late")),
            models.Index(fields=["id"], name="spend_log_uncosted", condition=models.Q(state__in=["unpriced", "lost"])),
            models.Index(fields=["organization", "-id"], name="spend_log_organization"),
            models.Index(fields=["key_digest", "-id"], name="spend_log_key"),
            models.Index(fields=["upstream_id"], name="spend_log_upstream_id", condition=~models.Q(upstream_id="")),
            # Of billing.log_search. They have settled rows only: a row costs each of them one entry, not one a state
            models.Index(fields=["key_id", "-id"], name="spend_log_key_id", condition=SETTLED & ~models.Q(key_id="")),
            models.Index(fields=["user_id", "-id"], name="spend_log_user", condition=SETTLED & ~models.Q(user_id="")),
            models.Index(fields=["team_id", "-id"], name="spend_log_team", condition=SETTLED & ~models.Q(team_id="")),
            models.Index(fields=["source", "-id"], name="spend_log_source", condition=SETTLED & ~models.Q(source="")),
            models.Index(
                fields=["organization", "model_group", "-id"], name="spend_log_model_group", condition=SETTLED
            ),
            models.Index(
                fields=["organization", "deployment_id", "-id"], name="spend_log_deployment", condition=SETTLED
            ),
            models.Index(
                fields=["organization", "application", "-id"],
                name="spend_log_application",
                condition=SETTLED & ~models.Q(application=""),
            ),
            models.Index(
                fields=["organization", "end_user", "-id"],
                name="spend_log_end_user",
                condition=SETTLED & ~models.Q(end_user=""),
            ),
            models.Index(
                fields=["organization", "error_code", "-id"],
                name="spend_log_error",
                condition=SETTLED & ~models.Q(error_code=""),
            ),
            models.Index(
                fields=["organization", "-id"],
                name="spend_log_failure",
                condition=SETTLED & ~models.Q(error_code="", finish="complete", status_code=200),
            ),
            models.Index(
                fields=["state", "-id"],
                name="spend_log_odd_state",
                condition=models.Q(state__in=["aborted", "lost", "parked"]),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model_group} {self.request_id}"

    @staticmethod
    def match_upstream_id(text: str) -> models.Q:
        """The rows with this upstream id. SQLite uses their index only if the query repeats the index's condition."""
        return models.Q(upstream_id=text) & ~models.Q(upstream_id=RawSQL("''", []))


class SpendLogTag(models.Model):
    """A tag of a settled row, for lists by tag; written with the row's price. Its row has no more than MOST of them."""

    MOST = 32

    pk = models.CompositePrimaryKey("organization_id", "tag", "spend_id")
    organization = models.ForeignKey(
        Organization, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+", db_index=False
    )
    tag = models.CharField(max_length=255)
    spend_id = models.UUIDField()

    objects: ClassVar[models.Manager["SpendLogTag"]] = ScopedManager(organization="organization")

    def __str__(self) -> str:
        return f"{self.tag} {self.spend_id}"


class Writer(models.Model):
    """A web process that writes spend logs: alive while its heartbeat is fresh."""

    id = models.CharField(primary_key=True, max_length=36)
    seen_at = models.DateTimeField()
    suspected_at = models.DateTimeField(null=True)  # set by the sweeper, cleared by the next heartbeat

    def __str__(self) -> str:
        return self.id
