"""Limits: RateLimit and Budget of a scope, the BudgetTemplate that several scopes share, and the windows of a budget
with what processes have leased of them. Amounts are picodollars."""

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django_scopes import ScopedManager

from tenants.ids import new_id
from tenants.models.organization import Organization


class Scope(models.TextChoices):
    """The kind of thing that a limit or budget binds. `scope_id` names it within the organization."""

    ORGANIZATION = "organization"  # its id
    TEAM = "team"  # its id
    MEMBER = "member"  # "{team id}:{user id}"
    USER = "user"  # its user id
    KEY = "key"  # its id
    END_USER = "end_user"  # as requests name it
    TAG = "tag"  # the tag
    DEPLOYMENT = "deployment"  # its id
    TEMPLATE = "template"  # the id of a BudgetTemplate


class RateLimit(models.Model):
    """At most `value` of a dimension in any span of the period; parallel requests have no period."""

    class Dimension(models.TextChoices):
        REQUESTS = "requests"
        TOKENS = "tokens"
        INPUT_TOKENS = "input_tokens"
        OUTPUT_TOKENS = "output_tokens"
        PARALLEL = "parallel"

    class Period(models.TextChoices):
        MINUTE = "minute"
        DAY = "day"

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="rate_limits")
    scope = models.CharField(max_length=20, choices=Scope.choices)
    scope_id = models.CharField(max_length=600)
    model = models.CharField(max_length=255, blank=True, default="", help_text="Empty: every model together.")
    dimension = models.CharField(max_length=20, choices=Dimension.choices)
    period = models.CharField(max_length=10, choices=Period.choices, default=Period.MINUTE)
    value = models.BigIntegerField()
    is_shadow = models.BooleanField(default=False, help_text="Counts and reports, but refuses nothing.")
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[models.Manager["RateLimit"]] = ScopedManager(organization="organization")

    class Meta:
        ordering = ["scope", "scope_id", "model", "dimension", "period"]
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "scope", "scope_id", "model", "dimension", "period"],
                name="rate_limit_is_unique",
            ),
            models.CheckConstraint(name="rate_limit_is_not_negative", condition=Q(value__gte=0)),
        ]

    def __str__(self) -> str:
        return f"{self.value} {self.dimension} per {self.period}"


class BudgetTemplate(models.Model):
    """Limits and budgets that several scopes take over by its id: LiteLLM's `budget_id`. Each scope spends its own."""

    id = models.CharField(primary_key=True, max_length=255, default=new_id)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="budget_templates")
    is_end_user_default = models.BooleanField(
        default=False, help_text="Binds every end user of the organization without a budget of its own."
    )
    created_by = models.CharField(max_length=255, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects: ClassVar[models.Manager["BudgetTemplate"]] = ScopedManager(organization="organization")

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["organization"], condition=Q(is_end_user_default=True), name="one_end_user_default"
            )
        ]

    def __str__(self) -> str:
        return self.id


class Budget(models.Model):
    """An amount that a scope may spend in each window. A hard limit refuses; a soft one reports."""

    id = models.CharField(primary_key=True, max_length=255, default=new_id)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="budgets")
    scope = models.CharField(max_length=20, choices=Scope.choices)
    scope_id = models.CharField(max_length=600)
    model = models.CharField(max_length=255, blank=True, default="", help_text="Empty: every model together.")
    duration = models.CharField(
        max_length=20, blank=True, default="", help_text="1h, 1d, 7d, 30d, 1mo, …; empty: for all time."
    )
    is_additional = models.BooleanField(
        default=False, help_text="A further window beside the main budget (LiteLLM's budget_limits)."
    )
    limit_pusd = models.BigIntegerField(null=True, blank=True)
    soft_limit_pusd = models.BigIntegerField(null=True, blank=True)
    increase_pusd = models.BigIntegerField(default=0)  # on top of the limit, until `increase_ends_at`
    increase_ends_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[models.Manager["Budget"]] = ScopedManager(organization="organization")

    class Meta:
        ordering = ["scope", "scope_id", "model", "duration"]
        constraints = [
            models.UniqueConstraint(
                fields=["organization", "scope", "scope_id", "model", "duration", "is_additional"],
                name="budget_is_unique",
            ),
            models.CheckConstraint(
                name="budget_limits_are_not_negative",
                condition=(Q(limit_pusd__isnull=True) | Q(limit_pusd__gte=0))
                & (Q(soft_limit_pusd__isnull=True) | Q(soft_limit_pusd__gte=0))
                & Q(increase_pusd__gte=0),
            ),
        ]

    def __str__(self) -> str:
        return f"budget of {self.scope} {self.scope_id}"


class BudgetWindow(models.Model):
    """One window of the spending of one scope. A new window is a new row; late costs go to the window of their call.

    `settled_pusd` is the sum of priced rows; `leased_pusd` is what processes hold for calls that run or
    are not priced yet. Spend counts per budget and spender, because a template serves many scopes.

    A rolling window is one row without an end, whose `starts_at` tells its length (tenants/budget_windows.py).
    """

    id = models.CharField(primary_key=True, max_length=255, default=new_id)
    budget = models.ForeignKey(Budget, on_delete=models.CASCADE, related_name="windows")
    scope = models.CharField(max_length=20)  # the spender; the budget's own scope may be a template
    scope_id = models.CharField(max_length=600)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True, blank=True)  # None: for all time
    settled_pusd = models.BigIntegerField(default=0)
    leased_pusd = models.BigIntegerField(default=0)
    credit_pusd = models.BigIntegerField(default=0)  # an administrator reset the spend: this much no longer counts

    class Meta:
        ordering = ["-starts_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["budget", "scope", "scope_id", "starts_at"], name="budget_window_is_unique"
            ),
            models.CheckConstraint(name="budget_window_leases_are_not_negative", condition=Q(leased_pusd__gte=0)),
        ]
        indexes = [models.Index(fields=["ends_at"], name="budget_window_ends_at")]

    def __str__(self) -> str:
        return f"{self.settled_pusd} pUSD since {self.starts_at}"


class BudgetLease(models.Model):
    """The amount that one process may spend of a window without asking the database again, and the cost of its calls
    that are not priced yet. Part of the window's `leased_pusd`. Below 0 after a priced call cost more than was leased,
    until the process accounts for it."""

    id = models.CharField(primary_key=True, max_length=255, default=new_id)
    window = models.ForeignKey(BudgetWindow, on_delete=models.CASCADE, related_name="leases")
    writer_id = models.CharField(max_length=255, db_index=True)
    amount_pusd = models.BigIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["window", "writer_id"], name="one_lease_for_each_process"),
        ]

    def __str__(self) -> str:
        return f"{self.amount_pusd} pUSD"


class RollingSpend(models.Model):
    """The part of a rolling window's settled amount that is the cost of calls which began in one bucket: a sixtieth of
    the window, up to `ends_at`. The row goes, and its amount leaves the window, when the bucket is older than the
    window is long."""

    window = models.ForeignKey(BudgetWindow, on_delete=models.CASCADE, related_name="buckets")
    ends_at = models.DateTimeField()
    settled_pusd = models.BigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["window", "ends_at"], name="rolling_spend_is_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.settled_pusd} pUSD until {self.ends_at}"


class SpendTotal(models.Model):
    """The priced cost of everything that a scope ever called; pricing adds to it in its own transaction."""

    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, db_constraint=False, related_name="spend_totals"
    )
    scope = models.CharField(max_length=20, choices=Scope.choices)
    scope_id = models.CharField(max_length=600)
    pusd = models.BigIntegerField(default=0)
    credit_pusd = models.BigIntegerField(default=0)  # an administrator reset the spend: this much is not shown

    objects: ClassVar[models.Manager["SpendTotal"]] = ScopedManager(organization="organization")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "scope", "scope_id"], name="spend_total_is_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.pusd} pUSD by {self.scope} {self.scope_id}"
