"""Access to the platform itself: MasterKey, LoginLink, LoginAttempts; and Revision, the counter of changes, with the
Change rows of each."""

from django.db import models

from tenants.models.user import User


class MasterKey(models.Model):
    """The SHA-256 digest of the master key: one row, shared by all replicas."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    digest = models.CharField(max_length=64)
    source = models.CharField(max_length=20)  # environment | config | generated
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"master key ({self.source})"


class LoginLink(models.Model):
    """A one-time link into the console, stored as the digest of its token."""

    digest = models.CharField(primary_key=True, max_length=64)
    user = models.ForeignKey(User, on_delete=models.CASCADE)
    expires_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"login link for {self.user}"


class LoginAttempts(models.Model):
    """The failed sign-ins of an account or from an address since `since`, by the digest of what they have in common."""

    digest = models.CharField(primary_key=True, max_length=64)
    count = models.PositiveIntegerField(default=0)
    since = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.count} failed sign-ins since {self.since}"


class Revision(models.Model):
    """Grows with every change of keys, teams, organizations or deployments; replicas poll it twice a second."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    value = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return str(self.value)


class Change(models.Model):
    """One thing that a revision changed. Replicas read the changes after the revision that they know, and forget these
    things only."""

    class Kind(models.TextChoices):
        KEY = "key"  # `ref` is its digest
        TEAM = "team"
        USER = "user"  # its user id
        ORGANIZATION = "organization"
        END_USER = "end_user"  # "{length of the organization's id}:{organization}:{end user id}"
        TAG = "tag"  # likewise
        TEMPLATE = "template"
        DEPLOYMENT = "deployment"
        EVERYTHING = "everything"

    revision = models.BigIntegerField(db_index=True)
    kind = models.CharField(max_length=20, choices=Kind.choices)
    ref = models.CharField(max_length=600, blank=True, default="")
    at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.kind} {self.ref}"
