"""VirtualKey: the credential of a client. Only its SHA-256 digest and last four characters are stored."""

from typing import ClassVar

from django.db import models
from django.db.models import Q, Value
from django_scopes import ScopedManager

from tenants.ids import new_id
from tenants.models.limits import BudgetTemplate
from tenants.models.organization import Organization
from tenants.models.team import Team
from tenants.models.user import User


class KeyType(models.TextChoices):
    DEFAULT = "default"
    LLM_API = "llm_api"
    MANAGEMENT = "management"
    READ_ONLY = "read_only"


class VirtualKey(models.Model):
    id = models.CharField(primary_key=True, max_length=255, default=new_id, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="virtual_keys")
    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="virtual_keys", null=True, blank=True)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="virtual_keys", null=True, blank=True)
    alias = models.CharField(max_length=255, blank=True, default="")
    digest = models.CharField(max_length=64, unique=True, editable=False)
    last4 = models.CharField(max_length=4, editable=False)
    allowed_models = models.JSONField(
        default=list, blank=True, help_text="Model groups this key may call; empty: all that its team may."
    )
    type = models.CharField(max_length=20, choices=KeyType.choices, default=KeyType.DEFAULT, db_default=KeyType.DEFAULT)
    allowed_routes = models.JSONField(
        default=list, db_default=Value([], models.JSONField()), blank=True, help_text="Empty: as the type says."
    )
    allowed_networks = models.JSONField(
        default=list,
        db_default=Value([], models.JSONField()),
        blank=True,
        help_text="CIDR ranges of callers; empty: all.",
    )
    model_aliases = models.JSONField(default=dict, db_default=Value({}, models.JSONField()), blank=True)
    timeouts = models.JSONField(
        default=dict, db_default=Value({}, models.JSONField()), blank=True
    )  # {timeout: seconds}
    is_service_account = models.BooleanField(default=False, db_default=False)
    budget_template = models.ForeignKey(
        BudgetTemplate, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    rotation_interval = models.CharField(
        max_length=20, blank=True, default="", db_default="", help_text="30d, 1mo, …; empty: never."
    )
    rotates_at = models.DateTimeField(null=True, blank=True, editable=False, db_index=True)
    metadata = models.JSONField(default=dict, blank=True)
    blocked = models.BooleanField(default=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    created_by = models.CharField(max_length=255, blank=True, default="", editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects: ClassVar[models.Manager["VirtualKey"]] = ScopedManager(organization="organization")

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(fields=["alias"], condition=~Q(alias=""), name="virtual_key_alias_is_unique")
        ]

    def __str__(self) -> str:
        return f"{self.alias} ({self.masked_text})" if self.alias else self.masked_text

    @property
    def masked_text(self) -> str:
        """`sk-...` and the last four characters of the key."""
        return f"sk-...{self.last4}"


class FormerKey(models.Model):
    """The text that a rotated key had before, which works until `expires_at`; the digest still finds its spend logs."""

    digest = models.CharField(primary_key=True, max_length=64)
    key = models.ForeignKey(VirtualKey, on_delete=models.CASCADE, related_name="former_keys")
    expires_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"former text of {self.key_id}"
