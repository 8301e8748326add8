"""Screens of the stored responses, which can be read and erased. Content is for platform admins, and for admins of an
organization who may view content; each access is logged. Platform admins alone erase."""

import json
import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Generic, TypeVar
from uuid import UUID

from django.contrib import admin
from django.db import models, transaction
from django.db.models.expressions import RawSQL
from django.db.models.functions import Concat
from django.db.models.lookups import Exact
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import ChoicesDropdownFilter, DropdownFilter
from unfold.decorators import display

from billing.admin.log_filters import ModelGroupFilter, SpanFilter
from billing.admin.spend_cells import format_span
from billing.models import SpendLog
from gateway.admin.item_view import OUTPUTS, render_items
from gateway.models import Conversation, Deployment, StoredResponse
from gateway.protocol.dialects.responses.items import render_item, render_response
from gateway.protocol.ids import response_of
from gateway.protocol.json.types import JsonObject
from gateway.state.packing import unpack_response
from gateway.stores.retention import erase_responses
from tenants.admin.console import (
    Context,
    InfinitePaginator,
    ReadOnlyAdmin,
    badge,
    code,
    muted_text,
    number,
    timestamp,
    two_lines,
)
from tenants.audit import Entry, acting_as, record
from tenants.models import Organization
from tenants.permissions import Area, Reach
from tenants.session_rights import reach_of_user

logger = logging.getLogger(__name__)

MAX_CHILDREN = 20
MAX_SORTED_ROWS = 5_000
Row = TypeVar("Row", StoredResponse, Conversation)

BADGES = {"completed": "success", "incomplete": "warning", "failed": "danger", "cancelled": "neutral"}


def is_platform_admin(request: HttpRequest) -> bool:
    return bool(request.user.is_active and request.user.is_superuser)


def may_read_content(request: HttpRequest) -> bool:
    """Content holds the words of users and models: a right of its own, for the rows that the role lets the user see."""
    return is_platform_admin(request) or reach_of_user(request, Area.CONTENT) >= Reach.ORGANIZATION


class CreatedFilter(SpanFilter):
    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Row]) -> models.QuerySet[Row]:
        start = self.start()
        return queryset.filter(created_at__gte=start) if start else queryset


class OrganizationFilter(DropdownFilter):
    """Filters by organization.

    A small organization's rows are read by its index and then sorted. Sorting all rows of a large one would take long;
    its newest rows are near the end of the index of all rows, which the query of an expression makes the database use.
    """

    title = _("organization")
    parameter_name = "organization"

    def lookups(self, request: HttpRequest, model_admin: "StoredAdmin[Row]") -> list[tuple[str, str]]:
        return list(Organization.objects.order_by("name").values_list("pk", "name")[:500])

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Row]) -> models.QuerySet[Row]:
        if not self.value():
            return queryset
        own = queryset.model._default_manager.filter(organization_id=self.value())
        if not own.order_by().values_list("pk", flat=True)[MAX_SORTED_ROWS : MAX_SORTED_ROWS + 1]:
            return queryset.filter(organization_id=self.value())
        return queryset.filter(Exact(Concat("organization_id", models.Value("")), self.value()))


class StoredAdmin(ReadOnlyAdmin, Generic[Row]):
    """The base of both screens. Rows stand in the order of their creation and are never counted."""

    area = Area.RESPONSES
    ordering = ["-created_at", "-id"]
    paginator = InfinitePaginator
    list_display_links = ["time"]
    list_select_related = ["organization"]

    @display(description=_("created"))
    def time(self, row: Row) -> SafeString | str:
        return timestamp(row.created_at)

    @display(description=_("id"))
    def id_display(self, row: Row) -> SafeString:
        return code(f"{row.pk[:17]}…")

    @display(description=_("organization / owner"))
    def owner_display(self, row: Row) -> SafeString:
        return two_lines(row.organization, row.owner)

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[Row], search_term: str
    ) -> tuple[models.QuerySet[Row], bool]:
        """Rows with exactly this id or owner: one look-up in an index each."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if term.startswith(("team:", "user:", "key:")):
            return queryset.filter(organization__in=Organization.objects.values("pk"), owner=term), False
        return queryset.filter(pk=self.read_id(term)), False

    def read_id(self, term: str) -> str:
        return term

    def has_delete_permission(self, request: HttpRequest, obj: Row | None = None) -> bool:
        return is_platform_admin(request)

    def get_list_filter(self, request: HttpRequest) -> Sequence[Any]:
        """The filter by organization names all of them."""
        filters: Sequence[Any] = super().get_list_filter(request)
        sees_all = reach_of_user(request, Area.ORGANIZATIONS) == Reach.PLATFORM
        return [entry for entry in filters if sees_all or entry is not OrganizationFilter]

    def get_urls(self) -> list[URLPattern]:
        name = f"gateway_{self.opts.model_name}_content"
        download = path("<str:object_id>/content/", self.admin_site.admin_view(self.download), name=name)
        return [download, *super().get_urls()]

    def download(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None or not may_read_content(request):
            raise Http404
        self.log_access(request, row)
        body = json.dumps(self.export(row), indent=2, ensure_ascii=False)
        headers = {"Content-Disposition": f'attachment; filename="{row.pk}.json"'}
        return HttpResponse(body, content_type="application/json", headers=headers)

    def export(self, row: Row) -> JsonObject:
        """The whole content in the shape of the API."""
        raise NotImplementedError

    def log_access(self, request: HttpRequest, row: Row) -> None:
        """Notes the access in the log and in the audit log, before the content is shown."""
        name = request.user.get_username()
        with acting_as(name), transaction.atomic():
            record(Entry("read", self.opts.model_name or "", row.pk, row.organization_id, None, None))
        logger.info("stored content was read in the console", extra={"user": name, "row": row.pk})

    def describe(self, row: Row, request: HttpRequest) -> Context:
        context: Context = {
            "original": row,
            "row": row,
            "organization": row.organization,
            "created": timestamp(row.created_at, is_complete=True),
            "may_read": may_read_content(request),
            "may_erase": self.has_delete_permission(request),
            **self.describe_metadata(row),
        }
        if may_read_content(request):
            self.log_access(request, row)
            context |= self.describe_content(row, request)
        return context

    def describe_metadata(self, row: Row) -> Context:
        """The template's variables without the content."""
        raise NotImplementedError

    def describe_content(self, row: Row, request: HttpRequest) -> Context:
        """The template's variables with the content."""
        raise NotImplementedError


@admin.register(StoredResponse)
class StoredResponseAdmin(StoredAdmin[StoredResponse]):
    list_display = ["time", "id_display", "route", "owner_display", "turn", "tokens", "state", "expires"]
    list_filter = [CreatedFilter, ("status", ChoicesDropdownFilter), ModelGroupFilter, OrganizationFilter]
    detail_template = "console/stored_response.html"
    search_fields = ["id"]
    search_help_text = _("Search by response id, item id or owner (team:…, user:…, key:…)")

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[StoredResponse]:
        rows: models.QuerySet[StoredResponse] = super().get_queryset(request)
        return rows.defer("body", "head", "metadata")

    def read_id(self, term: str) -> str:
        """The id of the response; an id of one of its items names it too."""
        return response_of(term) or term

    # List

    @display(description=_("model group → provider"))
    def route(self, row: StoredResponse) -> SafeString:
        return two_lines(row.model_group, f"→ {row.provider}" if row.provider else "–")

    @display(description=_("turn"))
    def turn(self, row: StoredResponse) -> SafeString:
        return muted_text(_("conversation")) if row.conversation_id else number(row.depth)

    @display(description=_("tokens in → out"))
    def tokens(self, row: StoredResponse) -> SafeString:
        return number(f"{row.input_tokens:,} → {row.output_tokens:,}")

    @display(description=_("status"))
    def state(self, row: StoredResponse) -> SafeString:
        if row.expires_at <= timezone.now():
            return badge("neutral", _("expired"), _("The API no longer returns it. A purge will delete it."))
        return badge(BADGES.get(row.status, "info"), row.status.replace("_", " "))

    @display(description=_("expires"))
    def expires(self, row: StoredResponse) -> SafeString:
        local = timezone.localtime(row.expires_at)
        return format_html('<span class="tg-number" title="{}">{}</span>', f"{local:%H:%M:%S}", f"{local:%Y-%m-%d}")

    # Detail

    def describe_metadata(self, row: StoredResponse) -> Context:
        conversation, parent = row.conversation_id, row.parent_id
        spend = _find_spend_log(row)
        return {
            "title": _("Stored response"),
            "state": self.state(row),
            "expires": timestamp(row.expires_at, is_complete=True),
            "took": _format_duration(row, spend),
            "deployment": Deployment.objects.filter(pk=row.deployment_id).first() if row.deployment_id else None,
            "conversation": Conversation.objects.filter(pk=conversation).only("pk").first() if conversation else None,
            "spend": spend,
            "parent": StoredResponse.objects.filter(pk=parent).only("pk").first() if parent else None,
            "children": _find_children(row),
        }

    def describe_content(self, row: StoredResponse, request: HttpRequest) -> Context:
        return _describe_content(row)

    def export(self, row: StoredResponse) -> JsonObject:
        input_items, response = _unpack(row)
        include: frozenset[str] = frozenset()
        return {
            "response": render_response(response, include),
            "input": [render_item(item, include) for item in input_items],
        }

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[StoredResponse]) -> None:
        erase_responses(queryset)


def _unpack(row: StoredResponse) -> tuple[list[JsonObject], JsonObject]:
    """(the items of the input, the response)."""
    input_items, response = unpack_response(row.body, row.head)
    response["status"] = row.status  # until the response ends, its object says "queued"
    return input_items, response


def _describe_content(row: StoredResponse) -> Context:
    input_items, response = _unpack(row)
    parent = StoredResponse.objects.filter(pk=row.parent_id).first() if _has_tool_outputs(input_items) else None
    before = _unpack(parent)[1]["output"] if parent is not None else []
    usage = response.get("usage") or {}
    details = [
        (_("Input"), usage.get("input_tokens")),
        (_("From cache"), (usage.get("input_tokens_details") or {}).get("cached_tokens")),
        (_("Output"), usage.get("output_tokens")),
        (_("Reasoning"), (usage.get("output_tokens_details") or {}).get("reasoning_tokens")),
        (_("Total"), usage.get("total_tokens")),
    ]
    return {
        "input": render_items(input_items, before),  # the turn before holds the names of the tools
        "output": render_items(response.get("output") or [], input_items),
        "instructions": response.get("instructions") or "",
        "usage": [(title, f"{count:,}") for title, count in details if isinstance(count, int)],
        "error": response.get("error"),
        "incomplete": (response.get("incomplete_details") or {}).get("reason"),
        "tools": [str(tool.get("name") or tool.get("type")) for tool in response.get("tools") or []],
        "metadata": json.dumps(row.metadata, indent=2, ensure_ascii=False) if row.metadata else "",
    }


def _has_tool_outputs(items: list[JsonObject]) -> bool:
    return any(item.get("type") in OUTPUTS for item in items)


def _find_spend_log(row: StoredResponse) -> SpendLog | None:
    try:
        return SpendLog.objects.filter(pk=UUID(row.spend_id)).only("pk", "ended_at").first() if row.spend_id else None
    except ValueError:
        return None


def _format_duration(row: StoredResponse, spend: SpendLog | None) -> str | None:
    """The time from creation to completion. The API completes in whole seconds; the spend log has the exact end."""
    if row.completed_at is None:
        return None
    end = spend.ended_at if spend is not None and spend.ended_at else row.completed_at
    return format_span(max(end - row.created_at, timedelta()))


def _find_children(row: StoredResponse) -> list[StoredResponse]:
    """The turns that follow. SQLite uses the index of parents only if the query repeats the index's condition."""
    rows = StoredResponse.objects.filter(parent_id=row.pk).exclude(parent_id=RawSQL("''", []))
    return list(rows.only("pk", "status", "created_at", "model_group")[:MAX_CHILDREN])
