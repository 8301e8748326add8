"""The master key and one-time login links, both stored as SHA-256 digests, and the limit of failed sign-ins."""

import hashlib
import hmac
import math
import secrets
import unicodedata
from datetime import timedelta

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from tenants.models import LoginAttempts, LoginLink, MasterKey, User
from tenants.revision import bump_revision, changed_key

ADMIN_USERNAME = "admin"
LINK_LIFE = timedelta(hours=1)
MAX_LOGIN_ATTEMPTS = 5  # for each account and for each address
LOGIN_WINDOW = timedelta(minutes=15)


def digest_of(text: str) -> str:
    """The SHA-256 digest of a key in hex: the form in which keys are stored, equal to LiteLLM's `token`."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def master_digest() -> str | None:
    return MasterKey.objects.values_list("digest", flat=True).filter(id=1).first()


def is_master(text: str) -> bool:
    digest = master_digest()
    return digest is not None and hmac.compare_digest(digest, digest_of(text))


@transaction.atomic
def ensure_master_key(configured: str, source: str) -> str | None:
    """Make `configured` the master key; if it is empty, keep the stored key or generate one.

    Returns the text of a generated key, which is shown once and not stored.
    """
    stored = MasterKey.objects.select_for_update().filter(id=1).first()
    if not configured and stored is not None:
        return None
    text = configured or f"sk-{secrets.token_urlsafe(32)}"
    digest = digest_of(text)
    if stored is None or stored.digest != digest:
        MasterKey.objects.update_or_create(
            id=1, defaults={"digest": digest, "source": source if configured else "generated"}
        )
        bump_revision(*(changed_key(value) for value in (digest, stored.digest if stored else digest)))
    return None if configured else text


def ensure_platform_admin() -> User:
    """The first platform admin. If there is none, it is created without a password; a login link lets it in."""
    admin = User.objects.filter(is_superuser=True, is_active=True).order_by("id").first()
    if admin is None:
        admin, _ = User.objects.get_or_create(
            username=ADMIN_USERNAME, defaults={"is_superuser": True, "is_staff": True, "password": "!"}
        )
    return admin


def create_login_link(user: User) -> str:
    """Create a link that signs `user` in once, within an hour. Returns its token."""
    LoginLink.objects.filter(expires_at__lt=timezone.now()).delete()
    token = secrets.token_urlsafe(32)
    LoginLink.objects.create(digest=digest_of(token), user=user, expires_at=timezone.now() + LINK_LIFE)
    return token


def is_login_link(token: str) -> bool:
    """True for a link that still works. It stays."""
    return LoginLink.objects.filter(
        digest=digest_of(token), expires_at__gt=timezone.now(), user__is_active=True
    ).exists()


def use_login_link(token: str) -> User | None:
    """Use up the link. Returns its user, or None for a token that is unknown, used or expired."""
    link = LoginLink.objects.select_related("user").filter(digest=digest_of(token)).first()
    if link is None or LoginLink.objects.filter(digest=link.digest).delete()[0] != 1:
        return None
    return link.user if link.expires_at > timezone.now() and link.user.is_active else None


def count_login_attempt(username: str, address: str) -> int:
    """Count an attempt before its password is checked. Returns the seconds to wait; 0 where it may go on.

    Attempts that come at once are counted one after the other: the rows are locked.
    """
    now = timezone.now()
    digests = _attempt_digests(username, address)
    LoginAttempts.objects.filter(since__lte=now - LOGIN_WINDOW).delete()
    with transaction.atomic():
        new = [LoginAttempts(digest=digest, since=now) for digest in digests]
        LoginAttempts.objects.bulk_create(new, ignore_conflicts=True)
        rows = list(LoginAttempts.objects.select_for_update().filter(digest__in=digests).order_by("digest"))
        waits = [row.since + LOGIN_WINDOW - now for row in rows if row.count >= MAX_LOGIN_ATTEMPTS]
        if waits:
            LoginAttempts.objects.filter(digest__in=digests, count=0).delete()
            return max(1, math.ceil(max(waits).total_seconds()))
        LoginAttempts.objects.filter(digest__in=digests).update(count=F("count") + 1)
    return 0


def forget_login_attempts(username: str, address: str) -> None:
    """After a sign-in that succeeded."""
    LoginAttempts.objects.filter(digest__in=_attempt_digests(username, address)).delete()


def _attempt_digests(username: str, address: str) -> list[str]:
    account = unicodedata.normalize("NFKC", username).casefold()
    return sorted([digest_of(f"account:{account}"), digest_of(f"address:{address}")])
