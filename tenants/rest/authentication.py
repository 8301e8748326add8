"""Authentication and permissions of the management API.

A caller is the master key or a virtual key, never a session.
"""

import hmac
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from django.db.models import Q
from django.utils import timezone
from django_scopes import scope, scopes_disabled
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from gateway.pipeline.identify import Plane, presented_key
from tenants.access import digest_of, master_digest
from tenants.models import VirtualKey

if TYPE_CHECKING:
    from rest_framework.views import APIView  # which itself imports this module, by way of the settings

MASTER_NAME = "master key"


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of the presented key, in `request.user`; `key` is None for the master key."""

    key: VirtualKey | None

    @property
    def is_master(self) -> bool:
        return self.key is None

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def name(self) -> str:
        """The value of `created_by`; never the text of a key."""
        return MASTER_NAME if self.key is None else self.key.id


def caller_of(request: Request) -> Caller:
    return cast(Caller, request.user)


def scope_of(caller: Caller) -> AbstractContextManager[None]:
    """The organizations that a caller can reach: all for the master key, its own for a virtual key."""
    if caller.key is None:
        return cast("AbstractContextManager[None]", scopes_disabled())
    return cast("AbstractContextManager[None]", scope(organization=caller.key.organization))


class BearerAuthentication(BaseAuthentication):
    """Reads the key of the request. Every key that cannot be used gets the same 401."""

    def authenticate(self, request: Request) -> tuple[Caller, None]:
        # UTF-8 keeps a header that is not ASCII that way, and the check below refuses it.
        headers = {name.lower().encode(): value.encode() for name, value in request.headers.items()}
        text = presented_key(headers, Plane.MANAGEMENT)
        if not text or not text.isascii():
            raise exceptions.AuthenticationFailed
        digest = digest_of(text)
        master = master_digest()
        if master is not None and hmac.compare_digest(master, digest):
            return Caller(key=None), None
        key = _find_usable_key(digest)
        if key is None or not hmac.compare_digest(key.digest, digest):
            raise exceptions.AuthenticationFailed
        return Caller(key=key), None

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class IsMaster(BasePermission):
    """The master key only; a virtual key gets 403."""

    message = "This call needs the master key."

    def has_permission(self, request: Request, view: "APIView") -> bool:
        return caller_of(request).is_master


class IsKnown(BasePermission):
    """The master key or any virtual key; the view limits what a virtual key sees."""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        return caller_of(request).is_authenticated


def _find_usable_key(digest: str) -> VirtualKey | None:
    with scopes_disabled():  # no scope is known yet: the key tells its organization
        return (
            VirtualKey.objects.select_related("organization", "team", "user")
            .filter(digest=digest, blocked=False, organization__blocked=False)
            .exclude(team__blocked=True)
            .exclude(user__is_active=False)
            .filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now()))
            .first()
        )
