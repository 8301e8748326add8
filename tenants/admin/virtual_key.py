"""Screens of the virtual keys. A key's text is in the one answer that issues it."""

import secrets
from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db import models
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import DropdownFilter, RelatedDropdownFilter
from unfold.decorators import display
from unfold.widgets import INPUT_CLASSES, UnfoldAdminSelectWidget

from tenants.admin.console import (
    BlockableAdmin,
    JSONObjectField,
    NamesField,
    ServiceForm,
    badge,
    clipped_text,
    code,
    make_block_action,
    muted_text,
    name_list,
    timestamp,
    two_lines,
)
from tenants.keys import KeyInvalid, delete_keys, issue_key, set_key_blocked, update_key
from tenants.models import DEFAULT_ORGANIZATION, VirtualKey

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

#: What a stored key tells and nobody edits.
KNOWN = ["shown_key", "status", "organization", "created_on", "issued_by"]


class DateTimeLocalField(forms.DateTimeField):
    """An instant, entered with the browser's own date and time control."""

    def __init__(self, **kwargs: Any) -> None:
        widget = forms.DateTimeInput(
            attrs={"type": "datetime-local", "class": " ".join([*INPUT_CLASSES, "tg-short"])},
            format="%Y-%m-%dT%H:%M",
        )
        super().__init__(widget=widget, **kwargs)


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
    expires_at = DateTimeLocalField(label=_("Expires on"), required=False)
    metadata = JSONObjectField(label=_("Metadata"), help_text=_("A JSON object, kept with the key and with its spend."))

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
class VirtualKeyAdmin(BlockableAdmin):
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
    block = make_block_action(_("Block the selected keys"), blocked=True)
    unblock = make_block_action(_("Unblock the selected keys"), blocked=False)
    autocomplete_fields = ["team", "user"]
    conditional_fields = {"expires_at": "expiry == 'date'"}
    change_form_before_template = "console/issue_key_nonce.html"

    class Media:
        js = [forms.Script("console/suggestions.js", type="module")]

    # Lists

    @display(description=_("key"), ordering="alias")
    def title(self, key: VirtualKey) -> SafeString:
        return two_lines(clipped_text(key.alias, none=_("no alias")), code(key.masked_text))

    @display(description=_("organization"), ordering="organization__name")
    def place(self, key: VirtualKey) -> SafeString:
        return clipped_text(key.organization)

    @display(description=_("key"))
    def shown_key(self, key: VirtualKey) -> SafeString:
        return code(key.masked_text)

    @display(description=_("team"), ordering="team__alias")
    def shown_team(self, key: VirtualKey) -> SafeString:
        return clipped_text(key.team)

    @display(description=_("user"), ordering="user__username")
    def shown_user(self, key: VirtualKey) -> SafeString:
        return clipped_text(key.user and key.user.username)

    @display(description=_("models"))
    def callable_models(self, key: VirtualKey) -> SafeString:
        return name_list(key.allowed_models, none=_("all"), most=1)

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

    @display(description=_("expires"), ordering="expires_at")
    def expires(self, key: VirtualKey) -> SafeString | str:
        return timestamp(key.expires_at) if key.expires_at else muted_text(_("never"))

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
            (None, {"fields": KNOWN}),
            (_("Whose key"), {"fields": ["alias", "team", "user", "blocked"]}),
            may,
            more,
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: VirtualKey | None = None) -> Any:
        return KNOWN if obj else []

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

    def delete_queryset(self, request: HttpRequest, queryset: models.QuerySet[VirtualKey]) -> None:
        delete_keys(list(queryset))

    def set_blocked(self, rows: models.QuerySet[VirtualKey], *, blocked: bool) -> int:
        keys = [key for key in rows if key.blocked != blocked]
        for key in keys:
            set_key_blocked(key, blocked=blocked)
        return len(keys)


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
