"""StoredResponse: one answer of /v1/responses with its input items; BackgroundRun and EventBatch: the queue and the
event log of background responses.

A follow-up points to its parent, and the chain of its ancestors is its history. A row is immutable once its status is
terminal. Ids and names are values, not foreign keys.
"""

from typing import ClassVar

from django.db import models
from django_scopes import ScopedManager

from tenants.models import Organization


class StoredResponse(models.Model):
    class Status(models.TextChoices):
        QUEUED = "queued"
        IN_PROGRESS = "in_progress"
        COMPLETED = "completed"
        INCOMPLETE = "incomplete"
        FAILED = "failed"
        CANCELLED = "cancelled"

    id = models.CharField(primary_key=True, max_length=64, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+", db_index=False
    )
    owner = models.CharField(max_length=300)  # `team:…`, `user:…` or `key:…`: the principal that sees it
    parent_id = models.CharField(max_length=64, default="", blank=True)
    conversation_id = models.CharField(max_length=64, default="", blank=True)
    depth = models.PositiveIntegerField(default=1)
    model_group = models.CharField(max_length=255)
    deployment_id = models.CharField(max_length=255, default="", blank=True)
    provider = models.CharField(max_length=40, default="", blank=True)
    status = models.CharField(max_length=12, choices=Status)
    is_background = models.BooleanField(default=False)
    is_streamed = models.BooleanField(default=False)
    created_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField()
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    metadata = models.JSONField(default=dict)
    spend_id = models.CharField(max_length=36, default="", blank=True)  # the attempt in the spend log
    body = models.BinaryField()  # its own input and output, which later turns read; see gateway/state/packing.py
    head = models.BinaryField(db_default=b"")  # the object without its output

    objects: ClassVar[models.Manager["StoredResponse"]] = ScopedManager(organization="organization")

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(fields=["organization", "owner", "-created_at", "-id"], name="stored_response_list"),
            models.Index(fields=["created_at"], name="stored_response_newest"),  # the console's, across organizations
            models.Index(fields=["expires_at"], name="stored_response_expiry"),
            models.Index(fields=["parent_id"], name="stored_response_parent", condition=~models.Q(parent_id="")),
            models.Index(
                fields=["conversation_id", "created_at"],
                name="stored_response_conversation",
                condition=~models.Q(conversation_id=""),
            ),
        ]

    def __str__(self) -> str:
        return self.id


class BackgroundRun(models.Model):
    """A queued or running background response, with the worker that has claimed it and the end of its lease."""

    response_id = models.CharField(primary_key=True, max_length=64)
    organization = models.ForeignKey(
        Organization, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+", db_index=False
    )
    key_digest = models.CharField(max_length=64)
    request_id = models.CharField(max_length=36)
    request = models.BinaryField()  # the create, as the client sent it
    headers = models.JSONField(default=dict)  # the request headers that determine the answer and the spend log
    queued_at = models.DateTimeField()
    worker_id = models.CharField(max_length=36, default="", blank=True)  # empty until a worker claims it
    lease_until = models.DateTimeField(null=True)
    suspected_at = models.DateTimeField(null=True)  # set by the sweeper, cleared when the lease is renewed

    objects: ClassVar[models.Manager["BackgroundRun"]] = ScopedManager(organization="organization")

    class Meta:
        ordering = ["queued_at"]
        indexes = [
            models.Index(fields=["worker_id"], name="background_run_worker"),
            models.Index(fields=["lease_until"], name="background_run_lease"),
            models.Index(fields=["organization", "key_digest", "worker_id", "queued_at"], name="background_run_slots"),
        ]

    def __str__(self) -> str:
        return self.response_id


class EventBatch(models.Model):
    """Some events of a background response's stream, in order. Lives as long as the response."""

    response_id = models.CharField(max_length=64)
    organization = models.ForeignKey(
        Organization, on_delete=models.DO_NOTHING, db_constraint=False, related_name="+", db_index=False
    )
    first_number = models.PositiveIntegerField()
    last_number = models.PositiveIntegerField()
    body = models.BinaryField()

    objects: ClassVar[models.Manager["EventBatch"]] = ScopedManager(organization="organization")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["response_id", "last_number"], name="event_batch_is_unique")]

    def __str__(self) -> str:
        return f"{self.response_id} {self.first_number}"
