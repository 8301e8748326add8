"""Screens of organizations, teams, users and virtual keys; and, first, what all screens of the console share.

Every write goes through the services of this app; a service's refusal is shown on the field that it names.
"""

import json
import re
import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.contrib.auth.password_validation import validate_password
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse, reverse_lazy
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from django.views.decorators.debug import sensitive_post_parameters
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import DropdownFilter, RelatedDropdownFilter
from unfold.decorators import action, display
from unfold.forms import AdminForm, AdminPasswordChangeForm, Fieldline
from unfold.widgets import (
    INPUT_CLASSES,
    UnfoldAdminPasswordWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from tenants.keys import (
    KeyInvalid,
    delete_keys,
    issue_key,
    read_metadata,
    read_models,
    read_name,
    set_key_blocked,
    update_key,
)
from tenants.models import DEFAULT_ORGANIZATION, Organization, Team, User, VirtualKey
from tenants.revision import bump_revision
from tenants.teams import create_team, set_team_blocked

# What all screens share


def moment(value: datetime | None, *, whole: bool = False) -> SafeString | str:
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


def clipped(text: object) -> SafeString:
    """One line of a table cell, cut with an ellipsis where it is too long."""
    return format_html('<span class="tg-clip" title="{}">{}</span>', text, text)


def code(text: object) -> SafeString:
    return format_html('<code class="tg-code">{}</code>', text)


def muted(text: object) -> SafeString:
    return format_html('<span class="tg-muted">{}</span>', text)


def badge(kind: str, text: object, title: object = "") -> SafeString:
    """`kind`: success, warning, danger, info or neutral."""
    return format_html('<span class="tg-badge tg-badge-{}" title="{}">{}</span>', kind, title, text)


def active_or_blocked(*, blocked: bool) -> SafeString:
    return badge("danger", _("blocked")) if blocked else badge("success", _("active"))


def two_lines(first: object, second: object) -> SafeString:
    return format_html('<span class="tg-two"><span>{}</span><span class="tg-muted">{}</span></span>', first, second)


def names(values: list[str], *, none: object, most: int = 2) -> SafeString:
    """The first few of a list of names, and how many more there are."""
    if not values:
        return muted(none)
    shown = format_html_join("", '<code class="tg-chip">{}</code>', ((value,) for value in values[:most]))
    rest = len(values) - most
    more = format_html('<span class="tg-muted">+{}</span>', rest) if rest > 0 else ""
    return format_html('<span class="tg-names" title="{}">{}{}</span>', "\n".join(values), shown, more)


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


class ObjectField(forms.JSONField):
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


class MomentField(forms.DateTimeField):
    """An instant, entered with the browser's own date and time control."""

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.DateTimeInput(
            attrs={"type": "datetime-local", "class": " ".join([*INPUT_CLASSES, "tg-short"])},
            format="%Y-%m-%dT%H:%M",
        )
        super().__init__(widget=widget, **kwargs)


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


class ConsoleAdmin(ModelAdmin):
    """A table's screens. Subclasses write in `save_model` and `delete_*`, through services only."""

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

    @display(description=_("created"))
    def created_on(self, row: Any) -> SafeString | str:
        return moment(row.created_at, whole=True)

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Foreign keys without the buttons that add, edit and delete the other row in a pop-up."""
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field is not None and hasattr(field.widget, "can_add_related"):
            for act in ("add", "change", "delete", "view"):
                setattr(field.widget, f"can_{act}_related", False)
        return field


# Organizations


@admin.register(Organization)
class OrganizationAdmin(ConsoleAdmin):
    list_display = ["title", "shown_id", "key_count", "team_count", "status", "created"]
    search_fields = ["name", "id"]
    search_help_text = _("Search by name or id")
    list_filter = ["blocked"]
    actions = ["block", "unblock"]

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Organization]:
        def counted(model: type[models.Model]) -> models.Subquery:
            rows = model._default_manager.filter(organization=models.OuterRef("pk")).order_by()
            counts = rows.values("organization").annotate(rows=models.Count("pk")).values("rows")
            return models.Subquery(counts, output_field=models.IntegerField())

        rows: models.QuerySet[Organization] = super().get_queryset(request)
        return rows.annotate(keys=counted(VirtualKey), teams_=counted(Team))

    def get_fieldsets(self, request: HttpRequest, obj: Organization | None = None) -> Any:
        known = (None, {"fields": ["shown_id", "created_on"]})
        own = (None, {"fields": ["name", "blocked"]})
        return [own, known] if obj else [own]

    def get_readonly_fields(self, request: HttpRequest, obj: Organization | None = None) -> Any:
        return ["shown_id", "created_on"]

    @display(description=_("name"), ordering="name")
    def title(self, organization: Organization) -> SafeString:
        return clipped(organization.name)

    @display(description=_("id"))
    def shown_id(self, organization: Organization) -> SafeString:
        return code(organization.pk)

    @display(description=_("virtual keys"))
    def key_count(self, organization: Organization) -> int:
        return organization.keys or 0  # type: ignore[attr-defined]  # annotated

    @display(description=_("teams"))
    def team_count(self, organization: Organization) -> int:
        return organization.teams_ or 0  # type: ignore[attr-defined]  # annotated

    @display(description=_("status"))
    def status(self, organization: Organization) -> SafeString:
        return active_or_blocked(blocked=organization.blocked)

    @display(description=_("created"), ordering="created_at")
    def created(self, organization: Organization) -> SafeString | str:
        return moment(organization.created_at)

    def save_model(self, request: HttpRequest, obj: Organization, form: Any, change: bool) -> None:
        with transaction.atomic():
            obj.save()
            bump_revision()

    def has_delete_permission(self, request: HttpRequest, obj: Organization | None = None) -> bool:
        """An organization's spend is history that outlives it only by its id: block it instead."""
        return False

    @action(description=_("Block the selected organizations"))
    def block(self, request: HttpRequest, queryset: models.QuerySet[Organization]) -> None:
        self._set_blocked(request, queryset, blocked=True)

    @action(description=_("Unblock the selected organizations"))
    def unblock(self, request: HttpRequest, queryset: models.QuerySet[Organization]) -> None:
        self._set_blocked(request, queryset, blocked=False)

    def _set_blocked(self, request: HttpRequest, queryset: models.QuerySet[Organization], *, blocked: bool) -> None:
        with transaction.atomic():
            count = Organization.objects.filter(pk__in=[row.pk for row in queryset]).update(blocked=blocked)
            bump_revision()
        report_blocked(self, request, count, blocked=blocked)


def report_blocked(screen: ConsoleAdmin, request: HttpRequest, count: int, *, blocked: bool) -> None:
    text = (
        ngettext("%d is blocked now.", "%d are blocked now.", count)
        if blocked
        else ngettext("%d is no longer blocked.", "%d are no longer blocked.", count)
    )
    screen.message_user(request, text % count, messages.SUCCESS)


# Teams


class TeamForm(ServiceForm):
    team_id = forms.CharField(
        label=_("Team id"),
        max_length=255,
        required=False,
        help_text=_("As requests and reports name it; leave empty to have one made."),
        widget=UnfoldAdminTextInputWidget(attrs={"class": "tg-mono"}),
    )
    allowed_models = NamesField(
        label=_("Models"),
        help_text=_("Model groups that keys of this team may call, one a line; empty: all."),
    )
    metadata = ObjectField(label=_("Metadata"))

    class Meta:
        model = Team
        fields = ["organization", "alias", "allowed_models", "metadata", "blocked"]


@admin.register(Team)
class TeamAdmin(ConsoleAdmin):
    form = TeamForm
    refusals = (KeyInvalid,)
    refusal_fields = {"id": "team_id"}
    list_display = ["title", "shown_id", "place", "callable_models", "status", "created"]
    list_select_related = ["organization"]
    search_fields = ["alias", "id"]
    search_help_text = _("Search by alias or id")
    list_filter = ["blocked"]
    actions = ["block", "unblock"]

    class Media:
        js = [forms.Script("console/suggestions.js", type="module")]

    def get_fieldsets(self, request: HttpRequest, obj: Team | None = None) -> Any:
        if obj is None:
            return [(None, {"fields": ["alias", "organization", "team_id", "allowed_models", "metadata"]})]
        return [
            (None, {"fields": ["alias", "blocked", "allowed_models", "metadata"]}),
            (None, {"fields": ["shown_id", "organization", "created_on"]}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Team | None = None) -> Any:
        return ["shown_id", "created_on", "organization"] if obj else []

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"organization": DEFAULT_ORGANIZATION, **super().get_changeform_initial_data(request)}

    @display(description=_("alias"), ordering="alias")
    def title(self, team: Team) -> SafeString:
        return clipped(team)

    @display(description=_("id"))
    def shown_id(self, team: Team) -> SafeString:
        return code(team.pk)

    @display(description=_("organization"), ordering="organization__name")
    def place(self, team: Team) -> SafeString:
        return clipped(team.organization)

    @display(description=_("models"))
    def callable_models(self, team: Team) -> SafeString:
        return names(team.allowed_models, none=_("all"))

    @display(description=_("status"))
    def status(self, team: Team) -> SafeString:
        return active_or_blocked(blocked=team.blocked)

    @display(description=_("created"), ordering="created_at")
    def created(self, team: Team) -> SafeString | str:
        return moment(team.created_at)

    def save_model(self, request: HttpRequest, obj: Team, form: Any, change: bool) -> None:
        if change:
            obj.alias = read_name(obj.alias, "alias")
            obj.allowed_models, obj.metadata = read_models(obj.allowed_models), read_metadata(obj.metadata)
            with transaction.atomic():
                obj.save()
                bump_revision()
            return
        given = form.cleaned_data
        team = create_team(
            organization=given["organization"],
            id=given["team_id"] or None,
            alias=given["alias"],
            allowed_models=given["allowed_models"],
            metadata=given["metadata"],
        )
        obj.pk = team.pk

    def delete_model(self, request: HttpRequest, obj: Team) -> None:
        self.delete_queryset(request, Team.objects.filter(pk=obj.pk))

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[Team]) -> None:
        with transaction.atomic():
            queryset.delete()  # and their keys
            bump_revision()

    @action(description=_("Block the selected teams"))
    def block(self, request: HttpRequest, queryset: models.QuerySet[Team]) -> None:
        for team in queryset:
            set_team_blocked(team, blocked=True)
        report_blocked(self, request, len(queryset), blocked=True)

    @action(description=_("Unblock the selected teams"))
    def unblock(self, request: HttpRequest, queryset: models.QuerySet[Team]) -> None:
        for team in queryset:
            set_team_blocked(team, blocked=False)
        report_blocked(self, request, len(queryset), blocked=False)


# Virtual keys

EXPIRIES = {
    "never": (_("Never"), None),
    "1h": (_("In 1 hour"), timedelta(hours=1)),
    "1d": (_("In 24 hours"), timedelta(days=1)),
    "7d": (_("In 7 days"), timedelta(days=7)),
    "30d": (_("In 30 days"), timedelta(days=30)),
    "90d": (_("In 90 days"), timedelta(days=90)),
    "365d": (_("In a year"), timedelta(days=365)),
    "date": (_("On a date …"), None),
}


class VirtualKeyForm(ServiceForm):
    checked_by_service = frozenset({"alias"})
    allowed_models = NamesField(
        label=_("Models"),
        help_text=_("Model groups this key may call, one a line; empty: all that its team may."),
    )
    expiry = forms.ChoiceField(
        label=_("Expires"),
        choices=[(value, title) for value, (title, _span) in EXPIRIES.items()],
        widget=UnfoldAdminSelectWidget(),
    )
    expires_at = MomentField(label=_("Expires on"), required=False)
    metadata = ObjectField(label=_("Metadata"), help_text=_("A JSON object, kept with the key and with its spend."))

    class Meta:
        model = VirtualKey
        # The admin adds the fields of its fieldsets within a request; a field of teams made here, outside of any
        # scope, would be refused by django-scopes.
        fields = ["alias", "allowed_models", "metadata"]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.digest:  # a stored key, not one to be issued
            self.initial["expires_at"] = self.instance.expires_at
            self.initial["expiry"] = "date" if self.instance.expires_at else "never"
        if "expires_at" in self.fields:
            self.fields["expires_at"].help_text = _("Time zone: %s.") % timezone.get_current_timezone_name()

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        expiry = cleaned.get("expiry")
        if expiry == "date":
            if not cleaned.get("expires_at") and "expires_at" not in self.errors:
                self.add_error("expires_at", _("Give the date and time at which the key expires."))
        elif expiry is not None:
            span = EXPIRIES[expiry][1]
            cleaned["expires_at"] = timezone.now() + span if span else None
        return cleaned


class StatusFilter(DropdownFilter):
    title = _("status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("active", _("active")), ("blocked", _("blocked")), ("expired", _("expired"))]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[VirtualKey]) -> models.QuerySet[VirtualKey]:
        expired = models.Q(expires_at__lte=timezone.now())
        match self.value():
            case "active":
                return queryset.exclude(expired).filter(blocked=False)
            case "blocked":
                return queryset.filter(blocked=True)
            case "expired":
                return queryset.filter(expired, blocked=False)
        return queryset


@admin.register(VirtualKey)
class VirtualKeyAdmin(ConsoleAdmin):
    form = VirtualKeyForm
    refusals = (KeyInvalid,)
    list_display = [
        "title",
        "place",
        "shown_team",
        "shown_user",
        "callable_models",
        "status",
        "created",
        "expires",
    ]
    list_select_related = ["organization", "team", "user"]
    search_fields = ["alias", "last4__exact", "team__alias", "user__username"]
    search_help_text = _("Search by alias, last four, team or user")
    list_filter = [StatusFilter, ("organization", RelatedDropdownFilter)]
    actions = ["block", "unblock"]
    autocomplete_fields = ["team", "user"]
    conditional_fields = {"expires_at": "expiry == 'date'"}
    change_form_before_template = "console/issue_key_nonce.html"

    class Media:
        js = [forms.Script("console/suggestions.js", type="module")]

    # Lists

    @display(description=_("key"), ordering="alias")
    def title(self, key: VirtualKey) -> SafeString:
        return two_lines(clipped(key.alias) if key.alias else muted(_("no alias")), code(key.shown))

    @display(description=_("organization"), ordering="organization__name")
    def place(self, key: VirtualKey) -> SafeString:
        return clipped(key.organization)

    @display(description=_("key"))
    def shown_key(self, key: VirtualKey) -> SafeString:
        return code(key.shown)

    @display(description=_("team"), ordering="team__alias")
    def shown_team(self, key: VirtualKey) -> object:
        return clipped(key.team) if key.team else muted("–")

    @display(description=_("user"), ordering="user__username")
    def shown_user(self, key: VirtualKey) -> object:
        return clipped(key.user.username) if key.user else muted("–")

    @display(description=_("models"))
    def callable_models(self, key: VirtualKey) -> SafeString:
        return names(key.allowed_models, none=_("all"), most=1)

    @display(description=_("status"))
    def status(self, key: VirtualKey) -> SafeString:
        """What a call with this key meets: a block above the key counts as well."""
        if key.blocked:
            return badge("danger", _("blocked"))
        if key.organization.blocked:
            return badge("danger", _("org. blocked"), _("Its organization is blocked."))
        if key.team is not None and key.team.blocked:
            return badge("danger", _("team blocked"), _("Its team is blocked."))
        if key.expires_at is not None and key.expires_at <= timezone.now():
            return badge("warning", _("expired"))
        return badge("success", _("active"))

    @display(description=_("created"), ordering="created_at")
    def created(self, key: VirtualKey) -> SafeString | str:
        return moment(key.created_at)

    @display(description=_("expires"), ordering="expires_at")
    def expires(self, key: VirtualKey) -> SafeString | str:
        return moment(key.expires_at) if key.expires_at else muted(_("never"))

    @display(description=_("issued by"))
    def issued_by(self, key: VirtualKey) -> str:
        return key.created_by or "–"

    # Issue and edit

    def get_fieldsets(self, request: HttpRequest, obj: VirtualKey | None = None) -> Any:
        may = (_("What it may do"), {"fields": ["allowed_models", "expiry", "expires_at"]})
        more = (_("More"), {"fields": ["metadata"]})
        if obj is None:
            return [(_("Whose key"), {"fields": ["alias", "organization", "team", "user"]}), may, more]
        return [
            (None, {"fields": ["shown_key", "status", "organization", "created_on", "issued_by"]}),
            (_("Whose key"), {"fields": ["alias", "team", "user", "blocked"]}),
            may,
            more,
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: VirtualKey | None = None) -> Any:
        return ["shown_key", "status", "organization", "created_on", "issued_by"] if obj else []

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        given = super().get_changeform_initial_data(request)
        return {"organization": DEFAULT_ORGANIZATION, "expiry": "never", **given}

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """A browser that reloads the page of a new key sends the form again: each form issues one key only."""
        if request.method == "POST" and not spend_nonce(request):
            text = _("That form has issued its key already, and the key cannot be shown again. This is a new form.")
            self.message_user(request, text, messages.WARNING)
            return HttpResponseRedirect(request.path)
        context = {
            **(extra_context or {}),
            "title": _("Issue a virtual key"),
            "issue_nonce": new_nonce(request),
        }
        response: HttpResponse = super().add_view(request, form_url, context)
        return response

    def save_model(self, request: HttpRequest, obj: VirtualKey, form: Any, change: bool) -> None:
        given = form.cleaned_data
        if change:
            changed = {"expires_at" if name == "expiry" else name for name in form.changed_data}
            update_key(obj, changes={name: given[name] for name in changed})
            return
        issued = issue_key(
            organization=given["organization"],
            alias=given["alias"],
            allowed_models=given["allowed_models"],
            team=given["team"],
            user=given["user"],
            metadata=given["metadata"],
            expires_at=given["expires_at"],
            created_by=request.user.get_username(),
        )
        obj.pk, obj.last4 = issued.key.pk, issued.key.last4
        request.issued_text = issued.text  # type: ignore[attr-defined]  # lives as long as this request

    def response_add(self, request: HttpRequest, obj: VirtualKey, post_url_continue: str | None = None) -> HttpResponse:
        """The one response that holds the key's text: it is written into no message, session, table or address."""
        key = VirtualKey.objects.select_related("organization", "team", "user").get(pk=obj.pk)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": _("Virtual key issued"),
            "key": key,
            "issued_text": request.issued_text,  # type: ignore[attr-defined]
            "base_url": request.build_absolute_uri("/v1"),
        }
        headers = {"Cache-Control": "no-store"}
        return TemplateResponse(request, "console/key_issued.html", context, headers=headers)

    # Block and delete

    def delete_model(self, request: HttpRequest, obj: VirtualKey) -> None:
        delete_keys([obj])

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[VirtualKey]) -> None:
        delete_keys(list(queryset))

    @action(description=_("Block the selected keys"))
    def block(self, request: HttpRequest, queryset: models.QuerySet[VirtualKey]) -> None:
        self._set_blocked(request, queryset, blocked=True)

    @action(description=_("Unblock the selected keys"))
    def unblock(self, request: HttpRequest, queryset: models.QuerySet[VirtualKey]) -> None:
        self._set_blocked(request, queryset, blocked=False)

    def _set_blocked(self, request: HttpRequest, queryset: models.QuerySet[VirtualKey], *, blocked: bool) -> None:
        keys = [key for key in queryset if key.blocked != blocked]
        for key in keys:
            set_key_blocked(key, blocked=blocked)
        report_blocked(self, request, len(keys), blocked=blocked)


NONCES = "console_issue_nonces"


def new_nonce(request: HttpRequest) -> str:
    nonce = secrets.token_urlsafe(12)
    request.session[NONCES] = [*request.session.get(NONCES, []), nonce][-20:]
    return nonce


def spend_nonce(request: HttpRequest) -> bool:
    """Whether the form's nonce was still unused; used now in any case."""
    unused = request.session.get(NONCES, [])
    nonce = request.POST.get("issue_nonce", "")
    if nonce not in unused:
        return False
    request.session[NONCES] = [other for other in unused if other != nonce]
    return True


# Users


class UserForm(ServiceForm):
    checked_by_service = frozenset({"organization"})  # by `clean`

    class Meta:
        model = User
        fields = ["username", "email", "first_name", "last_name", "organization", "is_superuser", "is_active"]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        if not cleaned.get("is_superuser") and not cleaned.get("organization") and "is_superuser" in self.fields:
            self.add_error("organization", _("Everyone but a platform admin belongs to an organization."))
        return cleaned


class NewUserForm(UserForm):
    password = forms.CharField(
        label=_("Password"),
        required=False,
        strip=False,
        help_text=_("For platform admins, who sign in here. Leave it empty for everyone else."),
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
    )

    class Meta(UserForm.Meta):
        fields = ["username", "email", "organization", "is_superuser"]

    def clean_password(self) -> str:
        password: str = self.cleaned_data["password"]
        if password:
            validate_password(password, self.instance)
        return password

    def save(self, commit: bool = True) -> User:
        self.instance.set_password(self.cleaned_data["password"] or None)  # None: unusable
        user: User = super().save(commit)
        return user


admin.site.unregister(Group)  # importing Django's UserAdmin registers it; nothing here is decided by groups


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ConsoleAdmin):  # type: ignore[type-arg, misc]  # as the stubs want it, Django does not
    form = UserForm
    add_form = NewUserForm
    change_password_form = AdminPasswordChangeForm
    list_display = ["user_id", "mail", "full_name", "shown_organization", "role", "status", "last_seen"]
    list_select_related = ["organization"]
    list_filter = ["is_superuser", "is_active"]
    search_fields = ["username", "email", "first_name", "last_name"]
    search_help_text = _("Search by user id, name or email")
    ordering = ["username"]
    filter_horizontal = ()
    actions = None
    add_form_template = None
    add_fieldsets = [(None, {"fields": ["username", "email", "organization", "is_superuser", "password"]})]
    readonly_fields = ["sign_in", "last_seen", "joined", "role", "status"]

    def get_fieldsets(self, request: HttpRequest, obj: User | None = None) -> Any:
        if obj is None:
            return self.add_fieldsets
        is_own = obj.pk == request.user.pk  # nobody locks themselves out
        may = ["role", "status"] if is_own else ["is_superuser", "is_active"]
        return [
            (None, {"fields": ["username", "first_name", "last_name", "email"]}),
            (_("Access"), {"fields": ["organization", *may, "sign_in"]}),
            (None, {"fields": ["last_seen", "joined"]}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> Any:
        """A user id stands in spend logs by value, so it stays what it is."""
        return [*self.readonly_fields, "username"] if obj else self.readonly_fields

    @display(description=_("password"))
    def sign_in(self, user: User) -> SafeString:
        has_one = user.has_usable_password()
        return format_html(
            '{} · <a class="tg-link" href="{}">{}</a>',
            _("set") if has_one else _("none"),
            reverse("admin:auth_user_password_change", args=[user.pk]),
            _("Change it") if has_one else _("Set one"),
        )

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if field is not None and db_field.name == "is_superuser":
            field.label, field.help_text = _("Platform admin"), _("Enters this console and sees everything.")
        if field is not None and db_field.name == "is_active":
            field.label, field.help_text = _("Active"), _("Switch off instead of deleting the user.")
        return field

    @display(description=_("user id"), ordering="username")
    def user_id(self, user: User) -> SafeString:
        return clipped(user.username)

    @display(description=_("email"), ordering="email")
    def mail(self, user: User) -> SafeString:
        return clipped(user.email) if user.email else muted("–")

    @display(description=_("name"))
    def full_name(self, user: User) -> SafeString:
        return clipped(user.get_full_name()) if user.get_full_name() else muted("–")

    @display(description=_("organization"), ordering="organization__name")
    def shown_organization(self, user: User) -> object:
        return clipped(user.organization) if user.organization else muted(_("all"))

    @display(description=_("role"))
    def role(self, user: User) -> SafeString:
        return badge("info", _("platform admin")) if user.is_superuser else badge("neutral", _("member"))

    @display(description=_("status"))
    def status(self, user: User) -> SafeString:
        return badge("success", _("active")) if user.is_active else badge("danger", _("inactive"))

    @display(description=_("last login"), ordering="last_login")
    def last_seen(self, user: User) -> SafeString | str:
        return moment(user.last_login) if user.last_login else muted(_("never"))

    @display(description=_("created"), ordering="date_joined")
    def joined(self, user: User) -> SafeString | str:
        return moment(user.date_joined)

    @method_decorator(sensitive_post_parameters())
    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """As Django's, without its transaction (see `ConsoleAdmin.changeform_view`)."""
        response: HttpResponse = self._add_view(request, form_url, extra_context)
        return response

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        obj.is_staff = obj.is_superuser
        with transaction.atomic():
            obj.save()
            bump_revision()

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or obj.pk != request.user.pk)

    def delete_model(self, request: HttpRequest, obj: User) -> None:
        with transaction.atomic():
            obj.delete()  # and their keys
            bump_revision()
