"""Screens of the conversations, which can be read and erased."""

from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display

from gateway.admin.item_view import render_items
from gateway.admin.stored_response import CreatedFilter, OrganizationFilter, StoredAdmin, may_read_content
from gateway.models import Conversation, ConversationItem
from gateway.protocol.dialects.responses.items import render_item
from gateway.protocol.json.types import JsonObject
from gateway.state.packing import unpack
from gateway.stores.retention import erase_conversations
from tenants.admin.console import Context, badge, name_list

ITEMS_PER_PAGE = 100


@admin.register(Conversation)
class ConversationAdmin(StoredAdmin[Conversation]):
    list_display = ["time", "id_display", "owner_display", "labels", "state"]
    list_filter = [CreatedFilter, OrganizationFilter]
    detail_template = "console/conversation.html"
    search_fields = ["id"]
    search_help_text = _("Search by conversation id or owner (team:…, user:…, key:…)")

    @display(description=_("metadata"))
    def labels(self, row: Conversation) -> SafeString:
        return name_list([f"{key}={value}" for key, value in row.metadata.items()], default="–")

    @display(description=_("state"))
    def state(self, row: Conversation) -> SafeString:
        is_locked = row.locked_by and row.locked_until and row.locked_until > timezone.now()
        return badge("info", _("answering"), row.locked_by) if is_locked else badge("neutral", _("idle"))

    def get_list_display(self, request: HttpRequest) -> list[str]:
        """Labels are content."""
        return [name for name in self.list_display if name != "labels" or may_read_content(request)]

    def describe_metadata(self, row: Conversation) -> Context:
        return {"title": _("Conversation"), "state": self.state(row)}

    def describe_content(self, row: Conversation, request: HttpRequest) -> Context:
        return {"metadata": row.metadata, **_describe_page(row, request.GET.get("after", ""))}

    def export(self, row: Conversation) -> JsonObject:
        bodies = ConversationItem.objects.filter(conversation_id=row.pk).values_list("body", flat=True)
        return {
            "id": row.pk,
            "metadata": row.metadata,
            "items": [render_item(unpack(body), frozenset()) for body in bodies],
        }

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[Conversation]) -> None:
        erase_conversations(queryset)


def _describe_page(row: Conversation, after: str) -> Context:
    """The items after a position, the oldest first."""
    items = ConversationItem.objects.filter(conversation_id=row.pk)
    if after.isdecimal() and len(after) < 19:
        items = items.filter(position__gt=int(after))
    rows = list(items.order_by("position").values_list("position", "body")[: ITEMS_PER_PAGE + 1])
    page = rows[:ITEMS_PER_PAGE]
    return {
        "items": render_items([unpack(body) for _position, body in page]),
        "is_later": bool(after),
        "next_after": page[-1][0] if len(rows) > len(page) else None,
    }
