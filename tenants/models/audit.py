"""AuditEntry: one change of the platform's configuration, chained to the entry before it by digests."""

from django.db import models

from tenants.models.organization import Organization


class AuditEntry(models.Model):
    """Never changed or deleted. `digest` is the SHA-256 of the entry's content and of `previous_digest`."""

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField()
    organization = models.ForeignKey(
        Organization, on_delete=models.DO_NOTHING, db_constraint=False, null=True, blank=True, related_name="+"
    )
    actor = models.CharField(max_length=255)  # a user id, a key's alias or masked text, "master key", "system"
    changed_by = models.CharField(max_length=255, blank=True, default="")  # as the caller says (litellm-changed-by)
    action = models.CharField(max_length=40)  # create | update | delete | block | unblock | rotate | …
    object_type = models.CharField(max_length=40)
    object_id = models.CharField(max_length=600)
    before = models.JSONField(null=True, blank=True)
    after = models.JSONField(null=True, blank=True)
    previous_digest = models.CharField(max_length=64, blank=True, default="")
    digest = models.CharField(max_length=64)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "audit entries"
        indexes = [
            models.Index(fields=["organization", "-id"], name="audit_by_organization"),
            models.Index(fields=["object_type", "object_id", "-id"], name="audit_by_object"),
            models.Index(fields=["object_id", "-id"], name="audit_by_object_id"),
            models.Index(fields=["actor", "-id"], name="audit_by_actor"),
            models.Index(fields=["at"], name="audit_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.object_type} {self.object_id}"
