"""Users: the one way to create, change and delete them in the console.

`keys.find_or_create_user` creates the owner of a key, `access.ensure_platform_admin` the first platform admin.
"""

from django.db import transaction

from tenants.models import Organization, User
from tenants.revision import bump_revision


def create_user(
    *,
    username: str,
    email: str = "",
    organization: Organization | None = None,
    is_superuser: bool = False,
    password: str = "",
) -> User:
    """Create a user. Only a platform admin may have no organization. Without a password, only a login link signs in."""
    user = User(
        username=username,
        email=email,
        organization=organization,
        is_superuser=is_superuser,
        is_staff=is_superuser,
    )
    user.set_password(password or None)  # before the transaction: hashing is slow
    with transaction.atomic():
        user.save(force_insert=True)
        bump_revision()
    return user


def update_user(
    user: User,
    *,
    email: str,
    first_name: str,
    last_name: str,
    organization: Organization | None,
    is_superuser: bool,
    is_active: bool,
) -> User:
    """Change the user. One who is not active cannot sign in, and their keys are refused."""
    user.email, user.first_name, user.last_name = email, first_name, last_name
    user.organization = organization
    user.is_superuser = user.is_staff = is_superuser
    user.is_active = is_active
    with transaction.atomic():
        user.save()
        bump_revision()
    return user


def delete_user(user: User) -> None:
    """Delete the user and their keys. Spend logs stay."""
    with transaction.atomic():
        user.delete()
        bump_revision()
