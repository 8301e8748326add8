"""Screens of the conversations: read-only but for erasing."""

from typing import Any

from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display

from gateway.admin.item_view import listing
from gateway.admin.stored_response import CreatedFilter, OrganizationFilter, StoredAdmin, may_read
from gateway.models import Conversation, ConversationItem
from gateway.protocol.dialects.responses.items import render_item
from gateway.protocol.json.types import JsonObject
from gateway.state.packing import unpack
from gateway.stores.retention import erase_conversations
from tenants.admin.console import badge, name_list
from tenants.models import Organization

ITEMS_PER_PAGE = 100


@admin.register(Conversation)
class ConversationAdmin(StoredAdmin):
    list_display = ["time", "shown_id", "place", "labels", "state"]
    list_filter = [CreatedFilter, OrganizationFilter]
    detail_template = "console/conversation.html"
    search_fields = ["id"]
    search_help_text = _("Search by conversation id or owner (team:…, user:…, key:…)")

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[Conversation], search_term: str
    ) -> tuple[models.QuerySet[Conversation], bool]:
        """Exact ones only: each is one look-up in an index."""
        term = search_term.strip()
        if not term:
            return queryset, False
        if term.startswith(("team:", "user:", "key:")):
            return queryset.filter(organization__in=Organization.objects.values("pk"), owner=term), False
        return queryset.filter(pk=term), False

    @display(description=_("metadata"))
    def labels(self, row: Conversation) -> SafeString:
        return name_list([f"{key}={value}" for key, value in row.metadata.items()], none="–")

    @display(description=_("state"))
    def state(self, row: Conversation) -> SafeString:
        is_held = row.locked_by and row.locked_until and row.locked_until > timezone.now()
        return badge("info", _("answering"), row.locked_by) if is_held else badge("neutral", _("idle"))

    def get_list_display(self, request: HttpRequest) -> list[str]:
        """Labels are the clients' own words."""
        return [name for name in self.list_display if name != "labels" or may_read(request)]

    def facts(self, row: Conversation) -> dict[str, Any]:
        return {"title": _("Conversation"), "state": self.state(row)}

    def reading(self, row: Conversation, request: HttpRequest) -> dict[str, Any]:
        return {"metadata": row.metadata, **_page_of(row, request.GET.get("after", ""))}

    def content(self, row: Conversation) -> JsonObject:
        bodies = ConversationItem.objects.filter(conversation_id=row.pk).values_list("body", flat=True)
        return {
            "id": row.pk,
            "metadata": row.metadata,
            "items": [render_item(unpack(body), frozenset()) for body in bodies],
        }

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[Conversation]) -> None:
        erase_conversations(queryset)


def _page_of(row: Conversation, after: str) -> dict[str, Any]:
    """The items behind a position, the oldest first."""
    items = ConversationItem.objects.filter(conversation_id=row.pk)
    if after.isdecimal() and len(after) < 19:
        items = items.filter(position__gt=int(after))
    found = list(items.order_by("position").values_list("position", "body")[: ITEMS_PER_PAGE + 1])
    page = found[:ITEMS_PER_PAGE]
    return {
        "said": listing([unpack(body) for _position, body in page]),
        "is_later": bool(after),
        "next_after": page[-1][0] if len(found) > len(page) else None,
    }
