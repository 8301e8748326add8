"""The rights of the user who is signed in to the console, for its screens."""

from typing import TypeVar

from django.db import models
from django.http import HttpRequest

from tenants.models import User
from tenants.permissions import Area, Caller, Reach, caller_of_user, reach_of, visible_rows

AnyRow = TypeVar("AnyRow", bound=models.Model)


def caller_of(request: HttpRequest) -> Caller | None:
    """The signed-in user with all their rights, read once for each request; None without a session."""
    attributes = vars(request)
    if "console_caller" not in attributes:
        user = request.user
        attributes["console_caller"] = caller_of_user(user) if isinstance(user, User) and user.is_active else None
    caller: Caller | None = attributes["console_caller"]
    return caller


def reach_of_user(request: HttpRequest, area: Area, *, write: bool = False) -> Reach:
    caller = caller_of(request)
    return Reach.NONE if caller is None else reach_of(caller, area, write=write)


def readable_rows(request: HttpRequest, area: Area, rows: models.QuerySet[AnyRow]) -> models.QuerySet[AnyRow]:
    """The rows that the signed-in user may read."""
    caller = caller_of(request)
    return rows.none() if caller is None else visible_rows(caller, area, rows)
