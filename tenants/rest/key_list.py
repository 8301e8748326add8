"""Lists of keys: /key/list and /key/aliases, with the names of LiteLLM's parameters."""

from collections.abc import Mapping

from django.db.models import F, OuterRef, Q, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce
from django.utils import timezone
from django_scopes import scopes_disabled
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.protocol.errors import BadRequest
from tenants.models import Membership, Scope, SpendTotal, User, VirtualKey
from tenants.rest.fields import read_count, read_query, read_query_flag
from tenants.rest.key_views import KeyView
from tenants.rest.keys import render_keys

MAX_PAGE = 10**9 - 1
#: Parameters that name one value of a column.
FILTERS = {
    "user_id": "user__username",
    "team_id": "team_id",
    "organization_id": "organization_id",
    "key_hash": "digest",
    "key_alias": "alias",
}
FLAGS = ("return_full_object", "include_team_keys", "include_created_by_keys", "substring_matching")
SORTED_BY = {
    "created_at": "created_at",
    "updated_at": "updated_at",
    "key_alias": "alias",
    "key_name": "last4",
    "user_id": "user__username",
    "team_id": "team_id",
    "organization_id": "organization_id",
    "expires": "expires_at",
    "last_active": "last_used_at",
    "spend": "total_pusd",
}
STATUSES = ("active", "expired", "revoked", "deleted", "rotation_due")


class ListKeys(KeyView):
    def get(self, request: Request) -> Response:
        known = {"page", "size", "sort_by", "sort_order", "search", "status", "expires", "expand", *FLAGS, *FILTERS}
        query = read_query(request, known=known)
        flags = {name: read_query_flag(query, name) for name in FLAGS}
        if query.get("expand", "user") != "user":
            raise BadRequest("'expand' must be user.", param="expand")
        page = read_count(query, "page", default=1, maximum=MAX_PAGE)
        size = read_count(query, "size", default=10, maximum=100)
        condition = _owned(query, flags) & _named(query, substring=flags["substring_matching"]) & _in_state(query)
        rows = self.rows(VirtualKey.objects.filter(condition))
        total = rows.count()
        ordered = order_keys(rows, query).select_related("user", "organization", "budget_template")
        keys = list(ordered[(page - 1) * size : page * size])
        is_expanded = "expand" in query
        shown: list[object] = [key.digest for key in keys]
        if flags["return_full_object"] or is_expanded:
            pairs = zip(render_keys(keys), keys, strict=True)
            shown = [{**row, "user": _render_user(key.user)} if is_expanded else row for row, key in pairs]
        return Response({"keys": shown, "total_count": total, "current_page": page, "total_pages": -(-total // size)})


class KeyAliases(KeyView):
    def get(self, request: Request) -> Response:
        query = read_query(request, known={"page", "size", "search", "team_id"})
        page = read_count(query, "page", default=1, maximum=MAX_PAGE)
        size = read_count(query, "size", default=50, maximum=100)
        rows = self.rows(VirtualKey.objects.exclude(alias=""))
        if "search" in query:
            rows = rows.filter(alias__icontains=query["search"])
        if "team_id" in query:
            rows = rows.filter(team_id=query["team_id"])
        total = rows.count()
        aliases = list(rows.order_by("alias").values_list("alias", flat=True)[(page - 1) * size : page * size])
        return Response(
            {
                "aliases": aliases,
                "total_count": total,
                "current_page": page,
                "total_pages": -(-total // size),
                "size": size,
            }
        )


def _owned(query: Mapping[str, str], flags: Mapping[str, bool]) -> Q:
    """The keys of the user, team and organization that the query names. With a user, the flags add the keys of its
    teams and those that it created."""
    condition = Q(**{FILTERS[name]: query[name] for name in ("team_id", "organization_id") if name in query})
    user_id = query.get("user_id")
    if user_id is None:
        return condition
    column = "user__username__icontains" if flags["substring_matching"] else "user__username"
    owned = Q(**{column: user_id})
    if flags["include_team_keys"]:
        with scopes_disabled():  # the teams narrow the keys, which are scoped themselves
            owned |= Q(team__in=[*Membership.objects.filter(user__username=user_id).values_list("team", flat=True)])
    if flags["include_created_by_keys"]:
        owned |= Q(created_by=user_id)
    return condition & owned


def _named(query: Mapping[str, str], *, substring: bool) -> Q:
    condition = Q()
    if "key_hash" in query:
        condition &= Q(digest=query["key_hash"])
    if "key_alias" in query:
        condition &= Q(alias__icontains=query["key_alias"]) if substring else Q(alias=query["key_alias"])
    if "search" in query:
        text = query["search"]
        condition &= Q(digest=text) | Q(id=text) | Q(alias__icontains=text)
    return condition


def _in_state(query: Mapping[str, str]) -> Q:
    now = timezone.now()
    is_past = Q(expires_at__lte=now)
    is_current = Q(expires_at=None) | Q(expires_at__gt=now)
    condition = Q()
    match query.get("status"):
        case None:
            pass
        case "active":
            condition &= Q(blocked=False) & is_current
        case "expired":
            condition &= Q(blocked=False) & is_past
        case "revoked":
            condition &= Q(blocked=True)
        case "rotation_due":
            condition &= Q(rotates_at__lte=now)
        case "deleted":
            condition &= Q(pk__in=())  # deleted keys are not kept
        case _:
            raise BadRequest(f"'status' must be one of {', '.join(STATUSES)}.", param="status")
    match query.get("expires"):
        case None:
            pass
        case "expired":
            condition &= is_past
        case "active":
            condition &= is_current
        case _:
            raise BadRequest("'expires' must be expired or active.", param="expires")
    return condition


def order_keys(rows: QuerySet[VirtualKey], query: Mapping[str, str]) -> QuerySet[VirtualKey]:
    name, order = query.get("sort_by", "created_at"), query.get("sort_order", "desc")
    column = SORTED_BY.get(name)
    if column is None:
        raise BadRequest(f"'sort_by' must be one of {', '.join(SORTED_BY)}.", param="sort_by")
    if order not in {"asc", "desc"}:
        raise BadRequest("'sort_order' must be asc or desc.", param="sort_order")
    if name == "spend":
        totals = SpendTotal._base_manager.filter(
            scope=Scope.KEY, scope_id=OuterRef("id"), organization=OuterRef("organization")
        )
        spent = totals.annotate(shown_pusd=F("pusd") - F("credit_pusd")).values("shown_pusd")[:1]
        rows = rows.annotate(total_pusd=Coalesce(Subquery(spent), Value(0)))
    sign = "-" if order == "desc" else ""
    first = F(column).desc(nulls_last=True) if sign else F(column).asc(nulls_last=True)
    return rows.order_by(first, f"{sign}id")


def _render_user(user: User | None) -> dict[str, object] | None:
    if user is None:
        return None
    return {"user_id": user.username, "user_email": user.email or None, "user_alias": user.alias or None}
