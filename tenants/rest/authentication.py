"""Authentication and permissions of the management API.

A caller is the master key or a virtual key, never a session. `tenants.permissions` says what each may do.
"""

import hmac
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar, cast

from django.conf import settings
from django.db.models import Q
from django.utils import timezone
from django_scopes import scope, scopes_disabled
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from gateway.pipeline.client_address import client_address
from gateway.pipeline.identify import Plane, check_origin, presented_key
from tenants.access import digest_of, master_digest
from tenants.key_fields import allowed_networks_of, allowed_routes_of
from tenants.models import VirtualKey
from tenants.permissions import MASTER, Area, Caller, Reach, caller_of_key, reach_of

if TYPE_CHECKING:
    from rest_framework.views import APIView  # which itself imports this module, by way of the settings

READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Guarded:
    """The area that a route touches. Without these lines only the platform's own roles may call it."""

    area: ClassVar[Area] = Area.SETTINGS
    #: The narrowest reach that may call the route. A view that says less than PLATFORM filters its rows by the caller.
    least_reach: ClassVar[Reach] = Reach.PLATFORM
    #: True for a route that reads although its method is POST.
    is_read: ClassVar[bool] = False

    def least_reach_for(self, request: Request) -> Reach:
        return self.least_reach

    def is_write(self, request: Request) -> bool:
        return not self.is_read and request.method not in READ_METHODS


def caller_of(request: Request) -> Caller:
    return cast(Caller, request.user)


def reach_in(view: Guarded, request: Request) -> Reach:
    """The reach of the caller's right on this route."""
    return reach_of(caller_of(request), view.area, write=view.is_write(request))


def scope_of(view: Guarded, request: Request) -> AbstractContextManager[None]:
    """The organizations that the caller reaches on this route: all, or its own."""
    caller = caller_of(request)
    if reach_in(view, request) == Reach.PLATFORM:
        return cast("AbstractContextManager[None]", scopes_disabled())
    return cast("AbstractContextManager[None]", scope(organization=caller.organization_id))


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
            return MASTER, None
        key = _find_usable_key(digest)
        if key is None:
            raise exceptions.AuthenticationFailed
        _check_origin(request, key)
        return caller_of_key(key), None

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class HasReach(BasePermission):
    """A caller whose role reaches far enough in the view's area; any other gets 403."""

    message = "This call needs the master key, or a key of a user whose role allows it."

    def has_permission(self, request: Request, view: "APIView") -> bool:
        return isinstance(view, Guarded) and reach_in(view, request) >= view.least_reach_for(request)


class IsKnown(BasePermission):
    """Any caller; the view limits what it sees."""

    def has_permission(self, request: Request, view: "APIView") -> bool:
        return caller_of(request).is_authenticated


def _check_origin(request: Request, key: VirtualKey) -> None:
    """Raises Forbidden for a route or an address that the key may not be used at."""
    address = client_address(
        request.headers.get("x-forwarded-for", ""),
        str(request.META.get("REMOTE_ADDR", "")),
        is_behind_proxy=settings.TOLLGATE_TLS,
    )
    routes, networks = allowed_routes_of(key), allowed_networks_of(key)
    check_origin(request.path, address, allowed_routes=routes, allowed_networks=networks)


def _find_usable_key(digest: str) -> VirtualKey | None:
    """The key with this digest, or with this former digest while that works."""
    now = timezone.now()
    with scopes_disabled():  # no scope is known yet: the key tells its organization
        keys = (
            VirtualKey.objects.select_related("organization", "team", "user")
            .filter(blocked=False, organization__blocked=False)
            .exclude(team__blocked=True)
            .exclude(user__is_active=False)
            .filter(Q(expires_at=None) | Q(expires_at__gt=now))
        )
        former = Q(former_keys__digest=digest, former_keys__expires_at__gt=now)
        return keys.filter(digest=digest).first() or keys.filter(former).first()
