"""What all screens of the console share: cells, form fields, and ModelAdmins that write through services only."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.urls import reverse_lazy
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.forms import AdminForm, Fieldline
from unfold.widgets import UnfoldAdminTextareaWidget

# Cells


def timestamp(value: datetime | None, *, whole: bool = False) -> SafeString | str:
    """An instant in a fixed width: `11-20 07:31:02`, in another year `2025-11-20`; the whole one as the tooltip."""
    if value is None:
        return "–"
    local = timezone.localtime(value)
    full = f"{local:%Y-%m-%d %H:%M:%S} {local.tzname()}"
    short = f"{local:%m-%d %H:%M:%S}" if local.year == timezone.localtime().year else f"{local:%Y-%m-%d}"
    return format_html(
        '<time class="tg-moment" datetime="{}" title="{}">{}</time>',
        local.isoformat(),
        full,
        full if whole else short,
    )


def clipped_text(text: object, *, none: object = "–") -> SafeString:
    """One line of a table cell, cut with an ellipsis where it is too long; `none` stands in for nothing."""
    if not text:
        return muted_text(none)
    return format_html('<span class="tg-clip" title="{}">{}</span>', text, text)


def code(text: object) -> SafeString:
    return format_html('<code class="tg-code">{}</code>', text)


def muted_text(text: object) -> SafeString:
    return format_html('<span class="tg-muted">{}</span>', text)


def number(text: object) -> SafeString:
    return format_html('<span class="tg-number">{}</span>', text)


def badge(kind: str, text: object, title: object = "") -> SafeString:
    """`kind`: success, warning, danger, info or neutral."""
    return format_html('<span class="tg-badge tg-badge-{}" title="{}">{}</span>', kind, title, text)


def two_lines(first: object, second: object) -> SafeString:
    return format_html('<span class="tg-two"><span>{}</span><span class="tg-muted">{}</span></span>', first, second)


def name_list(values: list[str], *, none: object, most: int = 2) -> SafeString:
    """The first few of a list of names, and how many more there are."""
    if not values:
        return muted_text(none)
    shown = format_html_join("", '<code class="tg-chip">{}</code>', ((value,) for value in values[:most]))
    rest = len(values) - most
    more = format_html('<span class="tg-muted">+{}</span>', rest) if rest > 0 else ""
    return format_html('<span class="tg-names" title="{}">{}{}</span>', "\n".join(values), shown, more)


# Forms


class NamesField(forms.CharField):
    """A list of names, one a line; commas separate too."""

    def __init__(self, **kwargs: Any) -> None:
        known = reverse_lazy("admin:model_groups")
        attrs = {"rows": 3, "spellcheck": "false", "class": "tg-mono", "data-suggestions": known}
        super().__init__(widget=UnfoldAdminTextareaWidget(attrs=attrs), required=False, **kwargs)

    def to_python(self, value: Any) -> list[str]:  # type: ignore[override]  # a list is this field's value
        text = super().to_python(value) or ""
        return list(dict.fromkeys(name.strip() for name in re.split(r"[,\n]", text) if name.strip()))

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def has_changed(self, initial: Any, data: Any) -> bool:
        return self.to_python(data) != list(initial or [])


class JSONObjectField(forms.JSONField):
    """A JSON object."""

    def __init__(self, **kwargs: Any) -> None:
        attrs = {"rows": 4, "spellcheck": "false", "class": "tg-mono"}
        super().__init__(widget=UnfoldAdminTextareaWidget(attrs=attrs), required=False, **kwargs)

    def prepare_value(self, value: Any) -> Any:
        return json.dumps(value, indent=2, ensure_ascii=False) if isinstance(value, dict) else value

    def clean(self, value: Any) -> dict[str, Any]:
        cleaned = super().clean(value)
        if cleaned is None:
            return {}
        if not isinstance(cleaned, dict):
            raise forms.ValidationError(_('This must be a JSON object, such as {"cost_center": "42"}.'))
        return cleaned


class ServiceForm(forms.ModelForm):  # type: ignore[type-arg]  # no subscript at run time
    """A form whose data a service stores; the service's refusal comes back as an error of the field it names."""

    refusal: tuple[str, str] | None = None

    #: Fields whose database constraints are left to the service, which says better what is wrong and where.
    checked_by_service: frozenset[str] = frozenset()

    def _get_validation_exclusions(self) -> set[str]:
        excluded: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]  # not in the stubs
        return excluded | self.checked_by_service

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if self.refusal is not None:
            name, message = self.refusal
            self.add_error(
                name if name in self.fields else None,
                message[:1].upper() + message[1:] if name in self.fields else f"{name}: {message}",
            )
        return cleaned


# Screens


class ConsoleAdmin(ModelAdmin):
    """A table's screens. Subclasses write in `save_model` and `delete_queryset`, through services only."""

    refusals: tuple[type[Exception], ...] = ()
    #: The name that a service uses → the form's field.
    refusal_fields: Mapping[str, str] = {}
    list_per_page = 50
    list_filter_submit = True
    list_filter_sheet = True
    show_facets = admin.ShowFacets.NEVER
    compressed_fields = True

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """As Django's, but without a transaction around the whole of a POST: on SQLite it would hold the only write
        lock through validation and password hashing. Services bring their own, short ones."""
        # As Unfold's own changeform_view does
        helpers.AdminForm, helpers.Fieldline = AdminForm, Fieldline  # type: ignore[misc]
        response: HttpResponse
        try:
            response = self._changeform_view(request, object_id, form_url, extra_context)
        except self.refusals as refusal:
            field, message = self.read_refusal(refusal)
            request.refusal = self.refusal_fields.get(field, field), message  # type: ignore[attr-defined]
            response = self._changeform_view(request, object_id, form_url, extra_context)
        return response

    def read_refusal(self, refusal: Any) -> tuple[str, str]:
        """The field that a service's exception names, and what is wrong with it."""
        return refusal.param, refusal.message

    def get_form(
        self, request: HttpRequest, obj: models.Model | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        form.refusal = getattr(request, "refusal", None)
        return form

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """One way to save."""
        context |= {"show_save_and_continue": False, "show_save_and_add_another": False}
        response: HttpResponse = super().render_change_form(request, context, *args, **kwargs)
        return response

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        self.delete_queryset(request, self.model._default_manager.filter(pk=obj.pk))

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Foreign keys without the buttons that add, edit and delete the other row in a pop-up."""
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field is not None and hasattr(field.widget, "can_add_related"):
            for act in ("add", "change", "delete", "view"):
                setattr(field.widget, f"can_{act}_related", False)
        return field


def make_block_action(description: object, *, blocked: bool) -> Any:
    """The action of a BlockableAdmin that blocks the selected rows, or unblocks them."""

    @action(description=description)
    def act(screen: "BlockableAdmin", request: HttpRequest, queryset: models.QuerySet[Any]) -> None:
        count = screen.set_blocked(queryset, blocked=blocked)
        text = (
            ngettext("%d is blocked now.", "%d are blocked now.", count)
            if blocked
            else ngettext("%d is no longer blocked.", "%d are no longer blocked.", count)
        )
        screen.message_user(request, text % count, messages.SUCCESS)

    return act


class BlockableAdmin(ConsoleAdmin):
    """Rows that can be blocked. Subclasses name their two actions, made by `blocking`, in their own words."""

    actions = ["block", "unblock"]

    def set_blocked(self, rows: models.QuerySet[Any], *, blocked: bool) -> int:
        """Through the service; how many rows to report."""
        raise NotImplementedError

    @display(description=_("id"))
    def shown_id(self, row: Any) -> SafeString:
        return code(row.pk)

    @display(description=_("status"))
    def status(self, row: Any) -> SafeString:
        return badge("danger", _("blocked")) if row.blocked else badge("success", _("active"))

    @display(description=_("created"), ordering="created_at")
    def created(self, row: Any) -> SafeString | str:
        return timestamp(row.created_at)

    @display(description=_("created"))
    def created_on(self, row: Any) -> SafeString | str:
        return timestamp(row.created_at, whole=True)
