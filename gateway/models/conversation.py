"""Conversation: items that outlive their responses; IdempotencyKey: a create that must not run twice."""

from typing import ClassVar

from django.db import models
from django_scopes import ScopedManager

from tenants.models import Organization


class Conversation(models.Model):
    id = models.CharField(primary_key=True, max_length=64, editable=False)
    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+", db_index=False)
    owner = models.CharField(max_length=300)
    metadata = models.JSONField(default=dict)
    created_at = models.DateTimeField()
    #: The running response that holds the conversation; other creates are refused until it ends.
    locked_by = models.CharField(max_length=64, default="", blank=True)
    locked_until = models.DateTimeField(null=True)
    released_by = models.CharField(max_length=64, default="", db_default="", blank=True)  # the holder before

    objects: ClassVar[models.Manager["Conversation"]] = ScopedManager(organization="organization")

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            models.Index(fields=["organization", "owner", "-created_at"], name="conversation_list"),
            models.Index(fields=["created_at"], name="conversation_newest"),  # the console's, across organizations
        ]

    def __str__(self) -> str:
        return self.id


class ConversationItem(models.Model):
    """One item. `position` orders a conversation's items and is set by the writer: an instant in microseconds, then
    the place within one write."""

    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="+", db_index=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+", db_index=False
    )
    item_id = models.CharField(max_length=128)
    position = models.BigIntegerField()
    body = models.BinaryField()

    objects: ClassVar[models.Manager["ConversationItem"]] = ScopedManager(organization="organization")

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["conversation", "item_id"], name="conversation_item_is_unique"),
            models.UniqueConstraint(fields=["conversation", "position"], name="conversation_position_is_unique"),
        ]

    def __str__(self) -> str:
        return self.item_id


class IdempotencyKey(models.Model):
    """Scope: one owner within one organization, for 24 hours."""

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="+", db_index=False)
    owner = models.CharField(max_length=300)
    digest = models.CharField(max_length=64)  # of the header's value
    body_digest = models.CharField(max_length=64)
    response_id = models.CharField(max_length=64)
    writer_id = models.CharField(max_length=36)  # the process that answers the request
    is_answered = models.BooleanField(default=False)
    created_at = models.DateTimeField()

    objects: ClassVar[models.Manager["IdempotencyKey"]] = ScopedManager(organization="organization")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["organization", "owner", "digest"], name="idempotency_key_is_unique")
        ]
        indexes = [models.Index(fields=["created_at"], name="idempotency_key_age")]

    def __str__(self) -> str:
        return self.response_id
