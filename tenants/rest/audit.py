"""The audit log by LiteLLM's routes and fields: /audit and /audit/{id}.

LiteLLM's words for actions and tables stand beside ours (`object_type`); both may be filtered by.
"""

from collections.abc import Mapping, Sequence
from datetime import time

from django.db.models import Q, QuerySet
from rest_framework.request import Request
from rest_framework.response import Response

from gateway.protocol.errors import BadRequest, NotFound
from gateway.protocol.json.types import JsonObject
from tenants.keys import digest_of_reference
from tenants.models import AuditEntry, VirtualKey
from tenants.permissions import Area, Reach
from tenants.rest.fields import read_count, read_instant, read_query, render_instant
from tenants.rest.views import ManagementView

MAX_PAGE = 10**6
MAX_DIGITS = 18  # any such number fits the column
#: LiteLLM's action → ours.
ACTIONS: Mapping[str, Sequence[str]] = {
    "created": ("create",),
    "updated": ("update", "limits", "credential"),
    "deleted": ("delete",),
    "blocked": ("block",),
    "unblocked": ("unblock",),
    "rotated": ("rotate",),
    "read": ("read",),  # ours: of stored prompts and answers, in the console
}
#: LiteLLM's table → our types of objects; an object and its limits have entries of two types.
TABLES: Mapping[str, Sequence[str]] = {
    "LiteLLM_VerificationToken": ("virtualkey", "key"),
    "LiteLLM_TeamTable": ("team",),
    "LiteLLM_TeamMembership": ("membership", "member"),
    "LiteLLM_UserTable": ("user",),
    "LiteLLM_EndUserTable": ("enduser", "end_user"),
    "LiteLLM_BudgetTable": ("budgettemplate", "template"),
    "LiteLLM_OrganizationTable": ("organization",),
    "LiteLLM_ProxyModelTable": ("deployment",),
    "LiteLLM_TagTable": ("tag",),
}
_ACTION_OF = {own: name for name, words in ACTIONS.items() for own in words}
_TABLE_OF = {own: name for name, words in TABLES.items() for own in words}
FILTERS = {
    "action",
    "changed_by",
    "changed_by_api_key",
    "end_date",
    "object_id",
    "object_key_hash",
    "object_type",
    "organization_id",
    "search",
    "start_date",
    "table_name",
}


class AuditView(ManagementView):
    area = Area.AUDIT
    least_reach = Reach.OWN


class ListAudit(AuditView):
    """The newest entries first."""

    def get(self, request: Request) -> Response:
        query = read_query(request, known={"page", "page_size", "sort_by", "sort_order", *FILTERS})
        page = read_count(query, "page", default=1, maximum=MAX_PAGE)
        size = read_count(query, "page_size", default=10, maximum=100)
        if query.get("sort_by", "updated_at") not in {"updated_at", "id"}:
            raise BadRequest("'sort_by' must be updated_at or id.", param="sort_by")
        order = query.get("sort_order", "desc")
        if order not in {"asc", "desc"}:
            raise BadRequest("'sort_order' must be asc or desc.", param="sort_order")
        rows = self.rows(AuditEntry.objects.filter(_read_condition(query)))
        total = rows.count()
        entries = rows.order_by("id" if order == "asc" else "-id")[(page - 1) * size : page * size]
        return Response(
            {
                "audit_logs": render_entries(list(entries)),
                "total": total,
                "page": page,
                "page_size": size,
                "total_pages": -(-total // size),
            }
        )


class AuditInfo(AuditView):
    def get(self, request: Request, entry_id: str) -> Response:
        read_query(request, known=set())
        entries: QuerySet[AuditEntry] = AuditEntry.objects.none()
        if _is_id(entry_id):
            entries = self.rows(AuditEntry.objects.filter(id=int(entry_id)))
        entry = entries.first()
        if entry is None:
            raise NotFound("Audit entry not found.", param="id")
        return Response(render_entries([entry])[0])


def render_entries(entries: Sequence[AuditEntry]) -> list[JsonObject]:
    """The key by which a change was made and its user, where the key still exists."""
    keys = VirtualKey.objects.select_related("user").in_bulk({entry.actor for entry in entries})
    return [_render(entry, keys.get(entry.actor)) for entry in entries]


def _render(entry: AuditEntry, key: VirtualKey | None) -> JsonObject:
    user_id = key.user.username if key is not None and key.user is not None else entry.actor
    return {
        "id": str(entry.id),
        "updated_at": render_instant(entry.at),
        "changed_by": entry.changed_by or user_id,
        "changed_by_api_key": key.digest if key is not None else "",
        "action": _ACTION_OF.get(entry.action, entry.action),
        "table_name": _TABLE_OF.get(entry.object_type, entry.object_type),
        "object_id": entry.object_id,
        "before_value": entry.before,
        "updated_values": entry.after,
        "actor": entry.actor,
        "own_action": entry.action,
        "object_type": entry.object_type,
        "organization_id": entry.organization_id,
        "digest": entry.digest,
    }


def _read_condition(query: Mapping[str, str]) -> Q:
    """The filter that the query says. Raises BadRequest."""
    condition = Q()
    for name, column, words in (("action", "action", ACTIONS), ("table_name", "object_type", TABLES)):
        if name in query:
            condition &= Q(**{f"{column}__in": _read_words(query, name, words)})
    for name in ("object_type", "organization_id"):
        if name in query:
            condition &= Q(**{name: query[name]})
    if "object_id" in query:
        condition &= _match_object(query["object_id"])
    if "object_key_hash" in query:
        keys = _find_key_ids(query["object_key_hash"])
        condition &= Q(object_type__in=TABLES["LiteLLM_VerificationToken"], object_id__in=keys)
    if "changed_by" in query:
        condition &= _match_person(query["changed_by"])
    if "search" in query:
        text = query["search"]
        found = _match_object(text) | _match_person(text) | Q(actor__in=_find_key_ids(text))
        condition &= found | Q(id=int(text)) if _is_id(text) else found
    if "changed_by_api_key" in query:
        condition &= Q(actor__in=_find_key_ids(query["changed_by_api_key"]))
    if "start_date" in query:
        condition &= Q(at__gte=read_instant(query, "start_date", time.min))
    if "end_date" in query:
        condition &= Q(at__lte=read_instant(query, "end_date", time.max))
    return condition


def _match_object(name: str) -> Q:
    return Q(object_id__in={name, *_find_key_ids(name)})


def _match_person(name: str) -> Q:
    """The changes that the user made, or for whom they were made."""
    own_keys = VirtualKey.objects.filter(user__username=name).values("id")
    return Q(changed_by=name) | (Q(changed_by="") & (Q(actor=name) | Q(actor__in=own_keys)))


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS


def _find_key_ids(reference: str) -> list[str]:
    """The id of the key that is named by its id, its text or its digest."""
    condition = Q(id=reference) | Q(digest=digest_of_reference(reference))
    return list(VirtualKey.objects.filter(condition).values_list("id", flat=True))


def _read_words(query: Mapping[str, str], name: str, words: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """Our words for LiteLLM's word, or the one word that is ours."""
    text = query[name]
    own = {word for group in words.values() for word in group}
    if text not in words and text not in own:
        raise BadRequest(f"{name!r} must be one of {', '.join(words)}.", param=name)
    return words.get(text, (text,))
