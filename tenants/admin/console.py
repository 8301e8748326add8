"""The base of the console's screens: table cells, form fields, and ModelAdmins that write through services only."""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import flatten_fieldsets, unquote
from django.contrib.admin.widgets import RelatedFieldWidgetWrapper
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse, reverse_lazy
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.forms import AdminForm, Fieldline
from unfold.paginator import InfinitePaginator as UnfoldInfinitePaginator
from unfold.widgets import INPUT_CLASSES, UnfoldAdminTextareaWidget

from gateway.protocol.errors import Forbidden, NotFound
from gateway.protocol.json.types import JsonObject
from tenants.invalid import ArgumentInvalid
from tenants.keys import IssuedKey
from tenants.models import DEFAULT_ORGANIZATION, EndUser, Organization, Team, VirtualKey
from tenants.permissions import Area, Reach, visible_rows, writable_rows
from tenants.session_rights import caller_of, reach_of_user, readable_rows

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

#: The variables of a template.
Context = dict[str, object]
#: (title, options) of each fieldset of a form.
Fieldsets = list[tuple[object, dict[str, object]]]
Row = TypeVar("Row", Organization, Team, VirtualKey, EndUser)

# Cells


def timestamp(value: datetime | None, *, is_complete: bool = False) -> SafeString | str:
    """`11-20 07:31:02`, in another year `2025-11-20`; date, time and zone are the tooltip, or the text if complete."""
    if value is None:
        return "–"
    local = timezone.localtime(value)
    complete = f"{local:%Y-%m-%d %H:%M:%S} {local.tzname()}"
    short = f"{local:%m-%d %H:%M:%S}" if local.year == timezone.localtime().year else f"{local:%Y-%m-%d}"
    return format_html(
        '<time class="tg-moment" datetime="{}" title="{}">{}</time>',
        local.isoformat(),
        complete,
        complete if is_complete else short,
    )


def clipped_text(text: object, *, default: object = "–") -> SafeString:
    """One line, cut with an ellipsis if it is too long for the cell."""
    if not text:
        return muted_text(default)
    return format_html('<span class="tg-clip" title="{}">{}</span>', text, text)


def code(text: object) -> SafeString:
    return format_html('<code class="tg-code">{}</code>', text)


def muted_text(text: object) -> SafeString:
    return format_html('<span class="tg-muted">{}</span>', text)


def number(text: object) -> SafeString:
    return format_html('<span class="tg-number">{}</span>', text)


def badge(kind: str, text: object, title: object = "") -> SafeString:
    """`kind`: success, warning, danger, info or neutral."""
    told = format_html(' title="{}"', title) if title else ""
    return format_html('<span class="tg-badge tg-badge-{}"{}>{}</span>', kind, told, text)


def two_lines(first: object, second: object) -> SafeString:
    return format_html('<span class="tg-two"><span>{}</span><span class="tg-muted">{}</span></span>', first, second)


def name_list(names: list[str], *, default: object, limit: int = 2) -> SafeString:
    """The first names and the number of the others."""
    if not names:
        return muted_text(default)
    chips = format_html_join("", '<code class="tg-chip">{}</code>', ((name,) for name in names[:limit]))
    rest = len(names) - limit
    more = format_html('<span class="tg-muted">+{}</span>', rest) if rest > 0 else ""
    return format_html('<span class="tg-names" title="{}">{}{}</span>', "\n".join(names), chips, more)


def indent_json(text: str) -> str:
    """The JSON with indentation; other text unchanged."""
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


# Forms


class TextListField(forms.Field):
    """A list of texts, one per line or separated by commas."""

    def __init__(
        self, *, label: "StrOrPromise", help_text: "StrOrPromise", attrs: Mapping[str, object] | None = None
    ) -> None:
        widget = UnfoldAdminTextareaWidget(
            attrs={"rows": 2, "spellcheck": "false", "class": "tg-mono", **(attrs or {})}
        )
        super().__init__(widget=widget, required=False, label=label, help_text=help_text)

    def to_python(self, value: object) -> list[str]:
        text = str(value or "")
        return list(dict.fromkeys(name.strip() for name in re.split(r"[,\n]", text) if name.strip()))

    def prepare_value(self, value: object) -> object:
        return "\n".join(value) if isinstance(value, list) else value

    def has_changed(self, initial: list[str] | None, data: object) -> bool:
        return self.to_python(data) != list(initial or [])


class NamesField(TextListField):
    """A list of model groups, which the browser suggests."""

    def __init__(self, *, label: "StrOrPromise", help_text: "StrOrPromise") -> None:
        attrs = {"rows": 3, "data-suggestions": reverse_lazy("admin:model_groups")}
        super().__init__(label=label, help_text=help_text, attrs=attrs)


class JSONObjectField(forms.JSONField):
    def __init__(self, *, label: "StrOrPromise", help_text: "StrOrPromise" = "") -> None:
        attrs = {"rows": 4, "spellcheck": "false", "class": "tg-mono"}
        widget = UnfoldAdminTextareaWidget(attrs=attrs)
        super().__init__(widget=widget, required=False, label=label, help_text=help_text)

    def prepare_value(self, value: object) -> str:
        return str(value or "") if isinstance(value, str | None) else json.dumps(value, indent=2, ensure_ascii=False)

    def clean(self, value: object) -> JsonObject:
        cleaned = super().clean(value)
        if cleaned is None:
            return {}
        if not isinstance(cleaned, dict):
            raise forms.ValidationError(_('This must be a JSON object, such as {"cost_center": "42"}.'))
        return cleaned


class DateTimeLocalField(forms.DateTimeField):
    """A date and time, entered with the browser's own control."""

    def __init__(self, *, label: "StrOrPromise", help_text: "StrOrPromise" = "") -> None:
        widget = forms.DateTimeInput(
            attrs={"type": "datetime-local", "class": " ".join([*INPUT_CLASSES, "tg-short"])},
            format="%Y-%m-%dT%H:%M",
        )
        super().__init__(widget=widget, required=False, label=label, help_text=help_text)


class ServiceForm(forms.ModelForm):  # type: ignore[type-arg]  # ModelForm takes no argument at run time
    """A form whose data a service stores. A refusal of the service becomes an error of the field that it names."""

    refusal: tuple[str, str] | None = None
    #: Fields whose database constraints the service checks, with a better message.
    checked_by_service: frozenset[str] = frozenset()

    def _get_validation_exclusions(self) -> set[str]:
        excluded: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]  # not in the stubs
        return excluded | self.checked_by_service

    def clean(self) -> Context:
        cleaned = super().clean() or {}
        if self.refusal is not None:
            name, message = self.refusal
            self.add_error(
                name if name in self.fields else None,
                message[:1].upper() + message[1:] if name in self.fields or not name else f"{name}: {message}",
            )
        return cleaned


def _open_if_wrong(fieldset: Any, wrong: Collection[str]) -> Any:
    """A fieldset without the class that collapses it, where one of its fields has an error."""
    name, options = fieldset
    if not set(flatten_fieldsets([fieldset])).intersection(wrong):
        return fieldset
    return name, {**options, "classes": [each for each in options.get("classes", ()) if each != "collapse"]}


# Screens


class ConsoleRequest(HttpRequest):
    """The attributes that screens add to a request. No request is of this class; see `console_request`."""

    refusal: tuple[str, str] | None
    issued: IssuedKey


def console_request(request: HttpRequest) -> ConsoleRequest:
    return cast(ConsoleRequest, request)


class AreaAdmin(ModelAdmin):
    """Screens of the rows of an area of `tenants.permissions`, whose table decides who reads and writes them."""

    area: Area
    #: Who reaches less far sees no row.
    least_reach = Reach.OWN
    least_write_reach = Reach.OWN

    def may(self, request: HttpRequest, row: models.Model | str | None, *, write: bool) -> bool:
        """True if the user reads or writes the row or its id; without a row, if there may be such rows."""
        reach = reach_of_user(request, self.area, write=write)
        if reach < (self.least_write_reach if write else self.least_reach):
            return False
        caller = caller_of(request)
        key = row.pk if isinstance(row, models.Model) else row
        if key is None or reach == Reach.PLATFORM or caller is None:
            return reach > Reach.NONE
        stored = self.model._base_manager.filter(pk=key)
        return (writable_rows if write else visible_rows)(caller, self.area, stored).exists()

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.may(request, None, write=False)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.may(request, obj, write=False)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.may(request, None, write=True)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.may(request, obj, write=True)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.may(request, obj, write=True)

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        rows: models.QuerySet[Any] = super().get_queryset(request)
        reach = reach_of_user(request, self.area)
        return readable_rows(request, self.area, rows) if reach >= self.least_reach else rows.none()

    def get_list_filter(self, request: HttpRequest) -> Sequence[Any]:
        """Only who reaches all organizations filters by them: the filter would name the others."""
        filters: Sequence[Any] = super().get_list_filter(request)
        if reach_of_user(request, Area.ORGANIZATIONS) == Reach.PLATFORM:
            return filters
        return [entry for entry in filters if not (isinstance(entry, tuple) and entry[0] == "organization")]

    def formfield_for_foreignkey(
        self, db_field: "models.ForeignKey[Any, Any]", request: HttpRequest, **kwargs: Any
    ) -> "forms.ModelChoiceField[Any] | None":
        """Offers only organizations that the user may read."""
        if db_field.related_model is Organization:
            kwargs["queryset"] = readable_rows(request, Area.ORGANIZATIONS, Organization.objects.all())
        field: forms.ModelChoiceField[Any] | None = super().formfield_for_foreignkey(db_field, request, **kwargs)
        return field


class ConsoleAdmin(AreaAdmin):
    """The screens of a table. Subclasses write in `save_model` and `delete_queryset`, through services only."""

    #: The name of a service's argument → the form's field.
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
        extra_context: Context | None = None,
    ) -> HttpResponse:
        """Django's view without its transaction, which on SQLite would hold the only write lock through validation and
        password hashing. Services open short transactions themselves."""
        # Unfold's changeform_view sets these too
        helpers.AdminForm, helpers.Fieldline = AdminForm, Fieldline  # type: ignore[misc]
        response: HttpResponse
        console_request(request).refusal = None
        try:
            response = self._changeform_view(request, object_id, form_url, extra_context)
        except (ArgumentInvalid, Forbidden, NotFound) as refusal:
            name = self.refusal_fields.get(refusal.param or "", refusal.param or "")
            console_request(request).refusal = name, refusal.message
            response = self._changeform_view(request, object_id, form_url, extra_context)
        return response

    def get_form(
        self, request: HttpRequest, obj: models.Model | None = None, change: bool = False, **kwargs: object
    ) -> type[ServiceForm]:
        form: type[ServiceForm] = super().get_form(request, obj, change, **kwargs)
        form.refusal = console_request(request).refusal
        return form

    def render_change_form(
        self, request: HttpRequest, context: Context, *args: object, **kwargs: object
    ) -> HttpResponse:
        """Django's form with one save button, and with every fieldset open that has an error."""
        context |= {"show_save_and_continue": False, "show_save_and_add_another": False}
        form = context["adminform"]
        assert isinstance(form, helpers.AdminForm)
        form.fieldsets = [_open_if_wrong(fieldset, form.form.errors.keys()) for fieldset in form.fieldsets]
        response: HttpResponse = super().render_change_form(request, context, *args, **kwargs)
        return response

    def initial_organization(self, request: HttpRequest) -> str:
        """The organization that the form of a new row proposes."""
        caller = caller_of(request)
        return (caller.organization_id if caller is not None else None) or DEFAULT_ORGANIZATION

    def log_bulk_change(self, request: HttpRequest, rows: Sequence[models.Model], message: object) -> None:
        """Write an action on several rows into the history of each."""
        LogEntry.objects.log_actions(request.user.pk or "", rows, CHANGE, str(message))

    def delete_model(self, request: HttpRequest, obj: models.Model) -> None:
        self.delete_queryset(request, self.model._default_manager.filter(pk=obj.pk))

    def formfield_for_dbfield(
        self, db_field: "models.Field[object, object]", request: HttpRequest, **kwargs: object
    ) -> forms.Field | None:
        """Foreign keys get no buttons that add, edit or delete the other row in a pop-up."""
        field: forms.Field | None = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field is not None and isinstance(field.widget, RelatedFieldWidgetWrapper):
            field.widget.can_add_related = field.widget.can_change_related = False
            field.widget.can_delete_related = field.widget.can_view_related = False
        return field


class InfinitePaginator(UnfoldInfinitePaginator):
    """Counts no rows and ends after 200 pages, where a filter is faster.

    Unfold shows previous and next links for a paginator with this class name.
    """

    count = 200 * 50


class OwnerAdmin(ConsoleAdmin):
    """Rows of an organization that own virtual keys: the key's form offers those of the key's organization,
    and platform admins, who have none."""

    def get_search_results(
        self, request: HttpRequest, queryset: models.QuerySet[Any], search_term: str
    ) -> tuple[models.QuerySet[Any], bool]:
        rows, may_repeat = super().get_search_results(request, queryset, search_term)
        organization = request.GET.get("organization")
        if organization and request.path == reverse("admin:autocomplete"):
            rows = rows.filter(models.Q(organization=organization) | models.Q(organization=None))
        return rows, may_repeat


class ReadOnlyAdmin(ConsoleAdmin):
    """Rows that the console shows on a page without a form."""

    detail_template: str
    sortable_by: list[str] = []
    list_fullwidth = True
    show_full_result_count = False

    def refuse_change(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    has_add_permission = has_change_permission = refuse_change

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Context | None = None
    ) -> HttpResponse:
        row = self.get_object(request, unquote(object_id))
        if row is None:
            redirect: HttpResponse = self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
            return redirect
        context = {**self.admin_site.each_context(request), "opts": self.opts, **self.describe(row, request)}
        request.current_app = self.admin_site.name
        return TemplateResponse(request, self.detail_template, context)

    def describe(self, row: Any, request: HttpRequest) -> Context:
        """The variables of the template."""
        raise NotImplementedError


def make_block_action(description: object, *, blocked: bool) -> Callable[..., None]:
    """The action of a BlockableAdmin that blocks or unblocks the selected rows."""

    @action(description=description, permissions=["change"])
    def act(screen: "BlockableAdmin[Row]", request: HttpRequest, queryset: models.QuerySet[Row]) -> None:
        changing = queryset.filter(blocked=not blocked)
        rows = list(changing)
        screen.set_blocked(changing, blocked=blocked)
        screen.log_bulk_change(request, rows, _("Blocked.") if blocked else _("Unblocked."))
        count = len(rows)
        text = (
            ngettext("%d is blocked now.", "%d are blocked now.", count)
            if blocked
            else ngettext("%d is no longer blocked.", "%d are no longer blocked.", count)
        )
        screen.message_user(request, text % count, messages.SUCCESS)

    blocking_action: Callable[..., None] = act
    return blocking_action


class BlockableAdmin(ConsoleAdmin, Generic[Row]):
    """Rows that can be blocked. Subclasses make the two actions with `make_block_action`."""

    actions = ["block", "unblock"]

    def set_blocked(self, rows: models.QuerySet[Row], *, blocked: bool) -> None:
        """Block or unblock the rows through the service."""
        raise NotImplementedError

    @display(description=_("id"))
    def id_display(self, row: Row) -> SafeString:
        return code(row.pk)

    @display(description=_("status"))
    def status(self, row: Row) -> SafeString:
        return badge("danger", _("blocked")) if row.blocked else badge("success", _("active"))

    @display(description=_("created"), ordering="created_at")
    def created(self, row: Row) -> SafeString | str:
        return timestamp(row.created_at)

    @display(description=_("created"))
    def created_at_display(self, row: Row) -> SafeString | str:
        return timestamp(row.created_at, is_complete=True)
