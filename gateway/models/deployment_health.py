"""DeploymentHealth: the last probe of a deployment, and when the next one is due. One row a deployment."""

from django.db import models

from gateway.models.deployment import Deployment


class DeploymentHealth(models.Model):
    class Kind(models.TextChoices):
        MODELS = "models"  # the list of the upstream's models, which costs nothing
        CALL = "call"  # one real call, by a schedule
        TEST = "test"  # one real call, asked for by an admin

    deployment = models.OneToOneField(Deployment, on_delete=models.CASCADE, primary_key=True, related_name="+")
    next_at = models.DateTimeField(null=True, db_index=True)  # null: never probed by a schedule
    probed_at = models.DateTimeField(null=True, db_index=True)
    kind = models.CharField(max_length=10, choices=Kind, default="")
    result = models.CharField(max_length=20, default="")  # ok, unknown, or a class of routing.error_class
    message = models.CharField(max_length=1000, default="")  # of the error, without secrets and addresses
    latency_s = models.FloatField(default=0)

    def __str__(self) -> str:
        return f"{self.deployment_id} {self.result}"
