"""Screens of the stored responses: read-only but for erasing. Content is for platform admins only, and who reads it is
logged."""

import json
import logging
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.db import models
from django.db.models.expressions import RawSQL
from django.db.models.functions import Concat
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import ChoicesDropdownFilter, DropdownFilter
from unfold.decorators import display

from billing.admin.spend_log import InfinitePaginator, ModelGroupFilter, TimeFilter, seconds
from billing.models import SpendLog
from gateway.admin.item_view import OUTPUTS, listing
from gateway.models import Conversation, Deployment, StoredResponse
from gateway.protocol.dialects.responses.items import render_item, render_response
from gateway.protocol.ids import response_of
from gateway.protocol.json.types import JsonObject
from gateway.state.packing import unpack_response
from gateway.stores.retention import erase_responses
from tenants.admin.console import ConsoleAdmin, badge, code, muted_text, number, timestamp, two_lines
from tenants.models import Organization

logger = logging.getLogger(__name__)

MOST_CHILDREN = 20
SMALL = 5_000
BADGES = {"completed": "success", "incomplete": "warning", "failed": "danger", "cancelled": "neutral"}


def may_read(request: HttpRequest) -> bool:
    """What people and models said is for nobody else, whatever roles the console will know."""
    return bool(request.user.is_active and request.user.is_superuser)


class CreatedFilter(TimeFilter):
    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        if self.value() not in self.spans:
            return queryset
        return queryset.filter(created_at__gte=timezone.now() - self.spans[self.value()][1])


class OrganizationFilter(DropdownFilter):
    """The rows of a small organization are found by its index and sorted; the newest of a large one are near the end
    of the index of all, and sorting all of its rows would take long."""

    title = _("organization")
    parameter_name = "organization"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return list(Organization.objects.order_by("name").values_list("pk", "name")[:500])

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        if not self.value():
            return queryset
        own = queryset.model._default_manager.filter(organization_id=self.value())
        if not own.order_by().values_list("pk", flat=True)[SMALL : SMALL + 1]:
            return queryset.filter(organization_id=self.value())
        large: models.QuerySet[Any] = queryset.alias(of=Concat("organization_id", models.Value("")))
        return large.filter(of=self.value())


class StoredAdmin(ConsoleAdmin):
    """What the two screens share. Rows are told in the order of their creation and never counted."""

    sortable_by: list[str] = []
    ordering = ["-created_at", "-id"]
    paginator = InfinitePaginator
    list_fullwidth = True
    list_display_links = ["time"]
    list_select_related = ["organization"]
    show_full_result_count = False
    detail_template: str

    @display(description=_("created"))
    def time(self, row: Any) -> SafeString | str:
        return timestamp(row.created_at)

    @display(description=_("id"))
    def shown_id(self, row: Any) -> SafeString:
        return code(f"{row.pk[:17]}…")

    @display(description=_("organization / owner"))
    def place(self, row: Any) -> SafeString:
        return two_lines(row.organization, row.owner)

    def refuse_writing(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    has_add_permission = has_change_permission = refuse_writing

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may_read(request)

    def get_urls(self) -> list[URLPattern]:
        name = f"gateway_{self.opts.model_name}_content"
        download = path("<str:object_id>/content/", self.admin_site.admin_view(self.download), name=name)
        return [download, *super().get_urls()]

    def download(self, request: HttpRequest, object_id: str) -> HttpResponse:
        row = self.get_object(request, object_id)
        if row is None or not may_read(request):
            raise Http404
        self.note_reading(request, row.pk)
        body = json.dumps(self.content(row), indent=2, ensure_ascii=False)
        headers = {"Content-Disposition": f'attachment; filename="{row.pk}.json"'}
        return HttpResponse(body, content_type="application/json", headers=headers)

    def content(self, row: Any) -> JsonObject:
        """All of it, as the API shows it."""
        raise NotImplementedError

    def note_reading(self, request: HttpRequest, row_id: str) -> None:
        said = {"user": request.user.get_username(), "row": row_id}
        logger.info("stored content was read in the console", extra=said)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        row = self.get_object(request, unquote(object_id))
        if row is None:
            missing: HttpResponse = self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
            return missing
        context = {
            **self.admin_site.each_context(request),
            **self.facts(row),
            "opts": self.opts,
            "original": row,
            "row": row,
            "organization": row.organization,
            "created": timestamp(row.created_at, whole=True),
            "may_read": may_read(request),
            "may_erase": self.has_delete_permission(request),
        }
        if may_read(request):
            self.note_reading(request, row.pk)
            context |= self.reading(row, request)
        request.current_app = self.admin_site.name
        return TemplateResponse(request, self.detail_template, context)

    def facts(self, row: Any) -> dict[str, Any]:
        """What the detail page says beside the content."""
        raise NotImplementedError

    def reading(self, row: Any, request: HttpRequest) -> dict[str, Any]:
        """The content, as the detail page shows it."""
        raise NotImplementedError


@admin.register(StoredResponse)
class StoredResponseAdmin(StoredAdmin):
    list_display = ["time", "shown_id", "route", "place", "turn", "tokens", "state", "expires"]
    list_filter = [CreatedFilter, ("status", ChoicesDropdownFilter), ModelGroupFilter, OrganizationFilter]
    detail_template = "console/stored_response.html"
    search_fields = ["id"]
    search_help_text = _("Search by response id, item id or owner (team:…, user:…, key:…)")

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[StoredResponse]:
        rows: models.QuerySet[StoredResponse] = super().get_queryset(request)
        return rows.defer("body", "head", "metadata")

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[StoredResponse], search_term: str
    ) -> tuple[models.QuerySet[StoredResponse], bool]:
        """Exact ones only: each is one look-up in an index."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if term.startswith(("team:", "user:", "key:")):
            return queryset.filter(organization__in=Organization.objects.values("pk"), owner=term), False
        return queryset.filter(pk=response_of(term) or term), False

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
            return badge("neutral", _("expired"), _("Shown to nobody; its row goes with the next purge that may."))
        return badge(BADGES.get(row.status, "info"), row.status.replace("_", " "))

    @display(description=_("expires"))
    def expires(self, row: StoredResponse) -> SafeString:
        local = timezone.localtime(row.expires_at)
        return format_html('<span class="tg-number" title="{}">{}</span>', f"{local:%H:%M:%S}", f"{local:%Y-%m-%d}")

    # Detail

    def facts(self, row: StoredResponse) -> dict[str, Any]:
        place, parent = row.conversation_id, row.parent_id
        return {
            "title": _("Stored response"),
            "state": self.state(row),
            "expires": timestamp(row.expires_at, whole=True),
            "took": seconds(row.completed_at - row.created_at) if row.completed_at else None,
            "deployment": Deployment.objects.filter(pk=row.deployment_id).first() if row.deployment_id else None,
            "conversation": Conversation.objects.filter(pk=place).only("pk").first() if place else None,
            "spend": _spend_of(row),
            "parent": StoredResponse.objects.filter(pk=parent).only("pk").first() if parent else None,
            "children": _children_of(row),
        }

    def reading(self, row: StoredResponse, request: HttpRequest) -> dict[str, Any]:
        return _reading_of(row)

    def content(self, row: StoredResponse) -> JsonObject:
        asked, response = _said_in(row)
        every: frozenset[str] = frozenset()
        return {"response": render_response(response, every), "input": [render_item(item, every) for item in asked]}

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[StoredResponse]) -> None:
        erase_responses(queryset)


def _said_in(row: StoredResponse) -> tuple[list[JsonObject], JsonObject]:
    """(input, response)."""
    asked, response = unpack_response(row.body, row.head)
    response["status"] = row.status  # the object of one that has not ended is as it was queued
    return asked, response


def _reading_of(row: StoredResponse) -> dict[str, Any]:
    asked, response = _said_in(row)
    parent = StoredResponse.objects.filter(pk=row.parent_id).first() if _has_outputs(asked) else None
    before = _said_in(parent)[1]["output"] if parent is not None else []
    usage = response.get("usage") or {}
    details = [
        (_("Input"), usage.get("input_tokens")),
        (_("of it from cache"), (usage.get("input_tokens_details") or {}).get("cached_tokens")),
        (_("Output"), usage.get("output_tokens")),
        (_("of it reasoning"), (usage.get("output_tokens_details") or {}).get("reasoning_tokens")),
        (_("Total"), usage.get("total_tokens")),
    ]
    return {
        "asked": listing(asked, before),  # tools are named by the calls that the turn before ended with
        "answered": listing(response.get("output") or [], asked),
        "instructions": response.get("instructions") or "",
        "usage": [(title, f"{count:,}") for title, count in details if isinstance(count, int)],
        "error": response.get("error"),
        "incomplete": (response.get("incomplete_details") or {}).get("reason"),
        "tools": [str(tool.get("name") or tool.get("type")) for tool in response.get("tools") or []],
        "metadata": json.dumps(row.metadata, indent=2, ensure_ascii=False) if row.metadata else "",
    }


def _has_outputs(items: list[JsonObject]) -> bool:
    return any(item.get("type") in OUTPUTS for item in items)


def _spend_of(row: StoredResponse) -> SpendLog | None:
    try:
        return SpendLog.objects.filter(pk=UUID(row.spend_id)).only("pk").first() if row.spend_id else None
    except ValueError:
        return None


def _children_of(row: StoredResponse) -> list[StoredResponse]:
    """By the index of the parents, which SQLite uses only where its own condition stands in the query."""
    rows = StoredResponse.objects.filter(parent_id=row.pk).exclude(parent_id=RawSQL("''", []))
    return list(rows.only("pk", "status", "created_at", "model_group")[:MOST_CHILDREN])
