"""The master key and one-time login links, both stored as SHA-256 digests."""

import hashlib
import hmac
import secrets
from datetime import timedelta

from django.db import transaction
from django.utils import timezone

from tenants.models import LoginLink, MasterKey, User
from tenants.revision import bump_revision

ADMIN_USERNAME = "admin"
LINK_LIFE = timedelta(hours=1)


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
        bump_revision()
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


def use_login_link(token: str) -> User | None:
    """Use up the link. Returns its user, or None for a token that is unknown, used or expired."""
    link = LoginLink.objects.select_related("user").filter(digest=digest_of(token)).first()
    if link is None or LoginLink.objects.filter(digest=link.digest).delete()[0] != 1:
        return None
    return link.user if link.expires_at > timezone.now() and link.user.is_active else None
