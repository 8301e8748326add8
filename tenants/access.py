"""Who may enter the platform: the master key and one-time login links. Both are kept as SHA-256 digests."""

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
    """SHA-256 hex: the digest under which every key of this platform is kept, equal to LiteLLM's `token`."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def master_digest() -> str | None:
    return MasterKey.objects.values_list("digest", flat=True).filter(id=1).first()


def is_master(text: str) -> bool:
    digest = master_digest()
    return digest is not None and hmac.compare_digest(digest, digest_of(text))


@transaction.atomic
def ensure_master_key(given: str, source: str) -> str | None:
    """Make `given` the master key; without one, keep the stored key or generate it.

    Returns the text of a newly generated key, which is shown once and kept nowhere.
    """
    stored = MasterKey.objects.select_for_update().filter(id=1).first()
    if not given and stored is not None:
        return None
    text = given or f"sk-{secrets.token_urlsafe(32)}"
    digest = digest_of(text)
    if stored is None or stored.digest != digest:
        MasterKey.objects.update_or_create(
            id=1, defaults={"digest": digest, "source": source if given else "generated"}
        )
        bump_revision()
    return None if given else text


def platform_admin() -> User:
    """The first platform admin; made without a password, entered by a login link."""
    admin = User.objects.filter(is_superuser=True, is_active=True).order_by("id").first()
    if admin is None:
        admin, _ = User.objects.get_or_create(
            username=ADMIN_USERNAME, defaults={"is_superuser": True, "is_staff": True, "password": "!"}
        )
    return admin


def make_login_link(user: User) -> str:
    """The token of a link that logs `user` in once, within an hour."""
    LoginLink.objects.filter(expires_at__lt=timezone.now()).delete()
    token = secrets.token_urlsafe(32)
    LoginLink.objects.create(digest=digest_of(token), user=user, expires_at=timezone.now() + LINK_LIFE)
    return token


def use_login_link(token: str) -> User | None:
    """The link's user, once; None for a token that is unknown, used or expired."""
    link = LoginLink.objects.select_related("user").filter(digest=digest_of(token)).first()
    if link is None or LoginLink.objects.filter(digest=link.digest).delete()[0] != 1:
        return None
    return link.user if link.expires_at > timezone.now() and link.user.is_active else None
