"""IdempotentWrite: the answer of a management write that was sent with an Idempotency-Key."""

from django.db import models


class IdempotentWrite(models.Model):
    """Made in the transaction of the write, so that there is one exactly where the write took place. The key and the
    request are digests; the answer, which may show the text of a new key, is encrypted."""

    id = models.BigAutoField(primary_key=True)
    caller = models.CharField(max_length=300)
    key_digest = models.CharField(max_length=64)
    request_digest = models.CharField(max_length=64)
    answer = models.TextField()
    created_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["caller", "key_digest"], name="one_write_per_idempotency_key")]
        indexes = [models.Index(fields=["caller", "-id"], name="idempotent_write_by_caller")]

    def __str__(self) -> str:
        return f"{self.caller} {self.key_digest[:8]}"
